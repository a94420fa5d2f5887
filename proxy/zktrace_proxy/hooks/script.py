"""Scripts with hooks: how interceptors are marked, and how a file is read.

A script is a Python file. Functions of it named as :data:`OBSERVERS` are observers; functions that
were given to one of the decorators are interceptors, whatever their names are.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal, TypeVar

from zktrace.analysis.filter_program import (
    EVENT_FIELDS,
    REPLY_FIELDS,
    REQUEST_FIELDS,
    Program,
    compile_program,
)
from zktrace_proxy.hooks.frames import Change, Reply, Request, WatchEvent
from zktrace_proxy.rules import Rule

OBSERVERS: Final = (
    *("on_connect", "on_session", "on_request", "on_reply"),
    *("on_watch_event", "on_close"),
)
#: How long a frame may wait for a hook, if it says nothing else.
LIMIT_S: Final = 1.0
_LONGEST_S: Final = 3600.0

Answer = Change | None | Awaitable[Change | None]
Fail = Literal["open", "closed"]
_R = TypeVar("_R", bound=Callable[[Request], Answer])
_P = TypeVar("_P", bound=Callable[[Reply], Answer])
_E = TypeVar("_E", bound=Callable[[WatchEvent], Answer])


@dataclass(frozen=True, slots=True)
class Interceptor:
    """A function with the frames it wants."""

    kind: Literal["request", "reply", "event"]
    function: Callable[[Any], Any]
    when: Program | None
    limit_s: float
    open: bool

    @property
    def name(self) -> str:
        return getattr(self.function, "__name__", "hook")

    def rule(self) -> Rule:
        """The rule that hands its frames over."""
        values = {"limit": self.limit_s, "open": self.open}
        text = f"hook {self.name}"
        return Rule(text, text, self.kind, "ask", values, self.when)


@dataclass(slots=True)
class Script:
    """What a file has."""

    path: Path
    interceptors: list[Interceptor] = field(default_factory=list)
    observers: dict[str, Callable[[dict[str, Any]], Any]] = field(default_factory=dict)


#: Where decorators put what they are given, while a script is read.
_found: list[Interceptor] = []

_FIELDS: Final = {
    "request": (REQUEST_FIELDS, "when a request passes"),
    "reply": (REPLY_FIELDS, "of a reply"),
    "event": (EVENT_FIELDS, "of a watch event"),
}


def _mark(
    kind: Literal["request", "reply", "event"], when: str | None, limit_s: float, fail: Fail
) -> Callable[[Any], Any]:
    if fail not in ("open", "closed"):
        raise ValueError(f"fail is 'open' or 'closed', not {fail!r}")
    if not 0 < limit_s <= _LONGEST_S:
        raise ValueError(f"limit_s is more than 0 and at most {_LONGEST_S}")
    program = None if when is None else compile_program(when, *_FIELDS[kind])

    def mark(function: Any) -> Any:
        _found.append(Interceptor(kind, function, program, limit_s, fail == "open"))
        return function

    return mark


def intercept_request(
    when: str | None = None, *, limit_s: float = LIMIT_S, fail: Fail = "open"
) -> Callable[[_R], _R]:
    """Marks a function (plain or async) that decides about requests.

    `when`: a filter with the fields of requests; None: all. The frame, and what follows it on that
    connection in that direction, waits for `limit_s` seconds at most. If the function then has not
    returned, or raises, or returns nonsense, the frame passes (`fail` open) or the connection is
    reset (closed).
    """
    return _mark("request", when, limit_s, fail)


def intercept_reply(
    when: str | None = None, *, limit_s: float = LIMIT_S, fail: Fail = "open"
) -> Callable[[_P], _P]:
    """As :func:`intercept_request`, for replies and with their fields."""
    return _mark("reply", when, limit_s, fail)


def intercept_event(
    when: str | None = None, *, limit_s: float = LIMIT_S, fail: Fail = "open"
) -> Callable[[_E], _E]:
    """As :func:`intercept_request`, for watch events and with their fields."""
    return _mark("event", when, limit_s, fail)


def read(path: Path) -> Script:
    """Runs a script's file and collects its hooks.

    Whatever the script raises is raised; OSError: it cannot be read.
    """
    code = compile(path.read_bytes(), str(path), "exec")
    module = ModuleType(path.stem)
    module.__file__ = str(path)
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    _found.clear()
    try:
        exec(code, module.__dict__)
        script = Script(path, list(_found))
    finally:
        _found.clear()
    marked = {one.function for one in script.interceptors}
    for name in OBSERVERS:
        function = getattr(module, name, None)
        if callable(function) and function not in marked:
            script.observers[name] = function
    if not script.interceptors and not script.observers:
        raise ValueError(f"no hooks in it: no function is named {', '.join(OBSERVERS)} or marked")
    return script
