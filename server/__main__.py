"""``python -m server ZOO.CFG`` in a checkout; this folder is no package and is not installed."""

from __future__ import annotations

from zktrace_server.run import main

main()
