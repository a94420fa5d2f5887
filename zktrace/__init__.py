"""zktrace: network traffic analyzer for Apache ZooKeeper's wire protocols.

The Python interface is :func:`read`, :func:`iter_batches` and :class:`Trace`; it is loaded when
first used, so that importing ``zktrace`` costs nothing.
"""

from __future__ import annotations

# Not from `typing`, which takes a while: Ctrl-C during a start is handled only where `zktrace.cli`
# has begun.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from zktrace.analysis.filter import FilterError
    from zktrace.analysis.trace import Batches, Trace, iter_batches, read
    from zktrace.analysis.verify import Verified, verify
    from zktrace.capture.errors import CaptureError
    from zktrace.engine.base import EngineError

__version__ = "0.1.0"

__all__ = [
    "Batches",
    "CaptureError",
    "EngineError",
    "FilterError",
    "Trace",
    "Verified",
    "__version__",
    "iter_batches",
    "read",
    "verify",
]

_HOMES = {
    "Batches": "zktrace.analysis.trace",
    "CaptureError": "zktrace.capture.errors",
    "EngineError": "zktrace.engine.base",
    "FilterError": "zktrace.analysis.filter",
    "Trace": "zktrace.analysis.trace",
    "Verified": "zktrace.analysis.verify",
    "iter_batches": "zktrace.analysis.trace",
    "read": "zktrace.analysis.trace",
    "verify": "zktrace.analysis.verify",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
