"""Inline proxy for the ZooKeeper client protocol: relays, decodes, records, injects faults.

:mod:`zktrace_proxy.plane` says what a data plane is; :mod:`zktrace_proxy.rules` what a rule;
:mod:`zktrace_proxy.feed` joins a plane to the picture that ``zktrace serve`` shows;
:mod:`zktrace_proxy.cli` is the command. For tests: ``zktrace_proxy.between``, which is
:func:`zktrace_proxy.testing.between`, and ``zktrace_proxy.answering``, which is
:func:`zktrace_proxy.replay.standin.testing.answering`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zktrace_proxy.replay.standin.testing import Answering, answering
    from zktrace_proxy.testing import Between, between

__all__ = ["Answering", "Between", "answering", "between"]


def __getattr__(name: str) -> Any:
    # The command line has to start quickly, and rules need tables' libraries.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in ("Answering", "answering"):
        from zktrace_proxy.replay.standin import testing as answers

        return getattr(answers, name)
    from zktrace_proxy import testing

    return getattr(testing, name)
