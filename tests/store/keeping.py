"""Rows for what keeps single events, and the two that keep them: for Python rows, and native."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, cast

from zktrace.analysis.hashing import SessionHasher
from zktrace.analysis.names import vocabulary
from zktrace.analysis.tables import SCHEMAS
from zktrace.store.kept import Kept, RowKept
from zktrace.store.recent import RECENT_ROWS
from zktrace.store.sessions import MAX_SESSIONS

CLIENT: Final = "10.0.0.1:40001"
SERVER: Final = "10.0.0.9:2181"
MS: Final = 1_000_000
S: Final = 1_000_000_000
#: Kind, and the columns that are not null.
Event = tuple[str, dict[str, Any]]

_OPCODES: Final = vocabulary().opcodes
WRITES: Final = tuple(_OPCODES[name] for name in sorted(vocabulary().writes))


def rows(events: Iterable[Event], first: int = 0) -> list[tuple[str, tuple[Any, ...]]]:
    """Events, numbered, as rows of tables."""
    made = []
    for seq, (kind, columns) in enumerate(events, first):
        known = {"seq": seq, "conn": 1, "client": CLIENT, "server": SERVER, **columns}
        if kind == "exchanges":
            known.setdefault("opcode", _OPCODES.get(known.get("op") or ""))
        made.append((kind, tuple(known.get(field.name) for field in SCHEMAS[kind])))
    return made


def _with_bytes(kind: str, row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Paths as the native engine takes them."""
    paths = [i for i, field in enumerate(SCHEMAS[kind]) if field.name in ("path", "created_path")]
    values = list(row)
    for i in paths:
        if isinstance(values[i], str):
            values[i] = values[i].encode("utf-8", "surrogatepass")
    return tuple(values)


class Keeper:
    """What keeps, and how it is fed."""

    def __init__(
        self,
        engine: str,
        *,
        sessions: int = MAX_SESSIONS,
        recent: int = RECENT_ROWS,
        hash_key: bytes | None = None,
    ) -> None:
        self._native: Any = None
        self._fed = 0
        if engine == "native":
            from zktrace._native import Kept as Native

            self._native = Native(WRITES, sessions, recent, hash_key)
            self.kept = cast(Kept, self._native)
        else:
            hasher = None if hash_key is None else SessionHasher(hash_key)
            self._rows = RowKept(sessions, recent, hasher)
            self.kept = self._rows

    def feed(self, events: Iterable[Event]) -> None:
        """More events, numbered on."""
        made = rows(events, self._fed)
        self._fed += len(made)
        self.feed_rows(made)

    def feed_rows(self, made: list[tuple[str, tuple[Any, ...]]]) -> None:
        if self._native is not None:
            self._native.feed([(kind, _with_bytes(kind, row)) for kind, row in made])
        else:
            self._rows.feed(made)
