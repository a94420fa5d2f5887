"""What must be answered before a step may be sent: the graph that makes results come out again.

Steps are added in the *total order* of the recording: writes by their zxid, each read behind the
write whose zxid its reply's header names (FinalRequestProcessor takes it before the read), each
connection's steps in its own order. Edges go from a step to a later one only, so there is no
cycle: the earliest step that is not done waits for none. Steps of one connection need no edge among
themselves, as a server handles them in order; a step that uses a name which another one was given
does, since the name must be known. What is done is forgotten: memory is that of steps under way.

Steps that add to the same list of children need no order among themselves, but the last of them
before somebody looks at the list (its pzxid): it waits for the others, and who looks waits for it.
Which one is the last is known when the next step comes that adds to the list: the one before is
the last no more, and is let go (:class:`_Group`).

Pure: no clock, no input or output; steps are any objects with the attributes of :class:`Step`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Final, Protocol

_SEQUENCE: Final = re.compile(r"[0-9]{10}(?=/|$)")
_ALL: Final = ("*",)


class Mode(StrEnum):
    """How much of the recorded order is kept between connections."""

    strict = "strict"
    """All of it: one write after the other, reads between the same two writes."""
    conflict = "conflict"
    """Where it can change a result or a watch event."""
    session = "session"
    """None: each session's own order."""
    time = "time"
    """That of sending, not of execution."""


class Step(Protocol):
    """What the order needs to know of a step, and what it keeps there."""

    conn: int
    #: it changed the tree, or tried to: its zxid is its own
    writes_zxid: bool
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    #: of those: lists of children that it adds to, or takes from
    adds: tuple[str, ...]
    wide: bool
    #: names that the server gives to nodes in this step
    makes: tuple[str, ...]
    #: steps that are waited for
    waits: int
    dependents: list[Any]
    groups: list[Any]
    done: bool


class _Group:
    """Steps that add to one list, with nobody between them who looks at it."""

    __slots__ = ("first", "held", "last", "of_conn", "open")

    def __init__(self, first: Step | None) -> None:
        #: it waits for what came before the group, and the others for it; None: nothing did
        self.first = first
        self.last: Any = None
        #: the last one waits for the others
        self.held = False
        #: members that are not done: all, and by connection
        self.open = 0
        self.of_conn: dict[int, int] = {}

    def join(self, step: Step) -> Step | None:
        """The next member, now the last; the one before, if it may go now."""
        free = self.let_go()
        conn = step.conn
        self.open += 1
        self.of_conn[conn] = self.of_conn.get(conn, 0) + 1
        self.last = step
        step.groups.append(self)
        if self.open > self.of_conn[conn]:
            self.held = True
            step.waits += 1
        return free

    def done(self, step: Step) -> Step | None:
        """A member is done; the last one, if it may go now."""
        conn = step.conn
        self.open -= 1
        self.of_conn[conn] -= 1
        if not self.of_conn[conn]:
            del self.of_conn[conn]
        if self.held and self.open == self.of_conn.get(self.last.conn, 0):
            return self.let_go()
        return None

    def let_go(self) -> Step | None:
        """The last one waits for the others no more; it, if it waits for nothing else."""
        if not self.held:
            return None
        self.held = False
        last: Step = self.last
        last.waits -= 1
        return last if last.waits == 0 else None


class Order:
    """Add steps in the total order; tell when they are done."""

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self._writer: dict[str, Step] = {}
        self._readers: dict[str, dict[int, Step]] = {}
        #: steps under way: all, those that write, wide ones
        self._open: dict[int, Step] = {}
        self._open_writes: dict[int, Step] = {}
        self._open_wide: dict[int, Step] = {}
        self._makers: dict[str, Step] = {}
        self._groups: dict[str, _Group] = {}
        self._freed: list[Any] = []

    @property
    def under_way(self) -> int:
        """Steps that are not done."""
        return len(self._open)

    def first(self) -> Any:
        """The earliest step under way; None where there is none."""
        return next(iter(self._open.values()), None)

    def names(self, path: str) -> bool:
        """Whether a step under way reads or writes this node (by conflict order)."""
        key = "n" + path
        return key in self._writer or key in self._readers

    def writes(self, path: str) -> bool:
        """Whether a step under way writes this node (by conflict order)."""
        return "n" + path in self._writer

    def add(self, step: Step) -> None:
        """The next step of the total order; `step.waits` says how many it waits for."""
        causes: dict[int, Step] = {}
        if self._makers:
            self._use(step, causes)
        if self.mode is Mode.strict:
            if step.writes_zxid:
                self._relate((), _ALL, step, causes)
            else:
                self._relate(_ALL, (), step, causes)
        elif self.mode is Mode.conflict:
            adds = step.adds
            writes = [key for key in step.writes if key not in adds] if adds else step.writes
            self._relate(step.reads, writes, step, causes)
            for key in adds:
                self._join(key, step, causes)
            self._widely(step, causes)
        self._open[id(step)] = step
        for name in step.makes:
            self._makers[name] = step
        step.waits += len(causes)
        for cause in causes.values():
            cause.dependents.append(step)

    def freed(self) -> list[Any]:
        """Steps that :meth:`add` has found to wait for nothing any more."""
        freed, self._freed = self._freed, []
        return freed

    def after(self, step: Step, cause: Step) -> None:
        """`step`, just added, waits for `cause`, too."""
        if not cause.done and step not in cause.dependents:
            cause.dependents.append(step)
            step.waits += 1

    def _relate(
        self,
        reads: Iterable[str],
        writes: Iterable[str],
        step: Step,
        causes: dict[int, Step],
    ) -> None:
        conn = step.conn
        for key in reads:
            writer = self._writer.get(key)
            if writer is not None and writer.conn != conn:
                causes[id(writer)] = writer
            self._readers.setdefault(key, {})[id(step)] = step
        for key in writes:
            writer = self._writer.get(key)
            if writer is not None and writer.conn != conn:
                causes[id(writer)] = writer
            for reader in self._readers.pop(key, {}).values():
                if reader.conn != conn:
                    causes[id(reader)] = reader
            self._writer[key] = step

    def _join(self, key: str, step: Step, causes: dict[int, Step]) -> None:
        """The step adds to this list."""
        group, writer = self._groups.get(key), self._writer.get(key)
        if group is not None and group.last is writer and key not in self._readers:
            first = group.first
            if first is not None and not first.done and first.conn != step.conn:
                causes[id(first)] = first
            self._writer[key] = step
        else:
            before = writer is not None or key in self._readers
            self._relate((), (key,), step, causes)
            group = self._groups[key] = _Group(step if before else None)
        free = group.join(step)
        if free is not None:
            self._freed.append(free)

    def _widely(self, step: Step, causes: dict[int, Step]) -> None:
        others: list[dict[int, Step]] = []
        if step.wide:
            others.append(self._open if step.writes_zxid else self._open_writes)
            self._open_wide[id(step)] = step
        elif step.writes_zxid:
            others.append(self._open_wide)
        elif self._open_wide:
            others.append({n: wide for n, wide in self._open_wide.items() if wide.writes_zxid})
        for steps in others:
            for number, other in steps.items():
                if other.conn != step.conn and other is not step:
                    causes[number] = other
        if step.writes_zxid:
            self._open_writes[id(step)] = step

    def _use(self, step: Step, causes: dict[int, Step]) -> None:
        # the name must be known, whoever made it
        for key in (*step.reads, *step.writes):
            for found in _SEQUENCE.finditer(key):
                maker = self._makers.get(key[1 : found.end()])
                if maker is not None:
                    causes[id(maker)] = maker

    def finish(self, step: Step) -> list[Any]:
        """The step has its reply, or will have none; those that may be sent now."""
        step.done = True
        number = id(step)
        self._open.pop(number, None)
        self._open_writes.pop(number, None)
        self._open_wide.pop(number, None)
        for name in step.makes:
            if self._makers.get(name) is step:
                del self._makers[name]
        if self.mode is Mode.strict:
            self._forget(_ALL, number, step)
        elif self.mode is Mode.conflict:
            self._forget(step.reads, number, step)
            self._forget(step.writes, number, step)
        free = []
        for dependent in step.dependents:
            dependent.waits -= 1
            if dependent.waits == 0:
                free.append(dependent)
        step.dependents = []
        for group in step.groups:
            last = group.done(step)
            if last is not None:
                free.append(last)
        step.groups = []
        return free

    def _forget(self, keys: Iterable[str], number: int, step: Step) -> None:
        for key in keys:
            readers = self._readers.get(key)
            if readers is not None:
                readers.pop(number, None)
                if not readers:
                    del self._readers[key]
            if self._writer.get(key) is step:
                del self._writer[key]
                self._groups.pop(key, None)
