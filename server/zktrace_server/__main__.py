"""``python -m zktrace_server ZOO.CFG``, as ``zktrace server run ZOO.CFG``."""

from __future__ import annotations

try:
    from zktrace_server.run import main
except KeyboardInterrupt:
    # Most of a start is this; whoever ends it then wants no traceback.
    raise SystemExit(130) from None

main()
