"""``python -m zktrace_server ZOO.CFG``, as ``zktrace server run ZOO.CFG``."""

from __future__ import annotations

from zktrace_server.run import main

main()
