"""``python -m server ZOO.CFG`` in a checkout; this folder is no package and is not installed."""

from __future__ import annotations

try:
    from zktrace_server.run import main
except KeyboardInterrupt:
    raise SystemExit(130) from None

main()
