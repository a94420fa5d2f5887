"""Events that no packet shows, such as what a proxy's rules did: the latest, for the tail.

A note is an object of JSON with ``kind`` and ``ts_ns``, and names of fields as events have them.
Notes are numbered apart from events, from 0. Safe to use from several threads.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from zktrace.analysis.filter_syntax import FilterError
from zktrace.wire.opcodes import BY_NAME

if TYPE_CHECKING:
    from zktrace.analysis.filter import Filter

KEPT: Final = 10_000

Note = Mapping[str, Any]


class Notes:
    """The latest notes."""

    def __init__(self) -> None:
        self._notes: deque[Note] = deque(maxlen=KEPT)
        self._lock = threading.Lock()
        self.count = 0
        """How many there were; the next one's number."""

    def add(self, notes: Iterable[Note]) -> None:
        with self._lock:
            for note in notes:
                self._notes.append(note)
                self.count += 1

    def after(self, number: int, where: Filter | None) -> tuple[list[Note], int]:
        """Those from a number on that a filter selects, oldest first; the number to go on with."""
        with self._lock:
            count = self.count
            missing = max(count - number, 0)
            found = list(self._notes)[-missing:] if missing else []
        return selected(found, where), count


def selected(notes: list[Note], where: Filter | None) -> list[Note]:
    """The notes that a filter selects; none where it asks about what notes do not have."""
    if where is None:
        return notes
    from zktrace.analysis.filter_program import compile_program, holds

    try:
        program = compile_program(where.expression)
    except FilterError:
        return []
    return [note for note in notes if holds(program, _facts(note))]


def _facts(note: Note) -> dict[str, Any]:
    """As :func:`zktrace.analysis.filter_program.holds` takes them."""
    facts = {name: note.get(name) for name in ("path", "xid")}
    for name in ("client", "server"):
        host, _, port = str(note.get(name, "")).rpartition(":")
        if host:
            facts[name] = (host.strip("[]"), int(port))
    if note.get("session") is not None:
        facts["session"] = int(note["session"], 16)
    op = BY_NAME.get(note.get("op") or "")
    if op is not None:
        facts["opcode"] = op.number
    return facts
