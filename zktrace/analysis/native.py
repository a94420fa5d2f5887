"""Analyses that the native engine does by itself, on the columns that it collected (ability
``analysis``): the ways of writes, and whether guarantees held.

What :mod:`zktrace.analysis.writereport` and :mod:`zktrace.analysis.verify` conclude from tables, it
concludes without tables, Arrow, numpy: equal results (the Python modules are the reference), at a
fraction of time and memory. Imports none of them, since importing them is what takes longest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from zktrace.analysis.config import parse_config
from zktrace.analysis.names import vocabulary
from zktrace.engine.base import abilities, create
from zktrace.engine.buckets import BOUNDS
from zktrace.engine.driver import Run
from zktrace.wire.errors import ERRORS, error_name
from zktrace.wire.zxid import session_text

if TYPE_CHECKING:
    from zktrace.capture.source import Source
    from zktrace.engine.base import EngineOptions

_PACKET: Final = ("seq", "ts_ns", "conn", "zxid", "session", "cxid", "type", "direction")

#: Columns that a join is made of (``kind.column``).
WRITE_COLUMNS: Final = (
    *(f"quorum.{name}" for name in (*_PACKET, "txn_type", "path")),
    *(f"quorum.{name}" for name in ("late", "sid", "epoch", "config")),
    *(f"exchanges.{name}" for name in ("seq", "ts_ns", "conn", "session", "xid", "zxid")),
    *(f"exchanges.{name}" for name in ("error", "latency_ns", "op", "state", "path")),
)

_ROW: Final = ("seq", "ts_ns", "conn")
_VERIFY: Final[dict[str, tuple[str, ...]]] = {
    "exchanges": (
        *(*_ROW, "op", "xid", "session", "path", "watch", "error", "zxid", "latency_ns", "state"),
        *("created_path", "stat.czxid", "stat.mzxid", "stat.aversion"),
        *("last_zxid_seen", "protocol_version"),
    ),
    "watch_events": (*_ROW, "event", "path", "zxid"),
    "connections": (*_ROW, "role", "event"),
    "anomalies": (*_ROW, "reason", "direction", "detail"),
    "quorum": (
        *(*_PACKET, "bytes", "txn_type", "path"),
        *("error", "sid", "epoch", "digest", "config", "txn_hash"),
    ),
}

#: Columns that checks look at.
VERIFY_COLUMNS: Final = tuple(f"{kind}.{name}" for kind, names in _VERIFY.items() for name in names)

#: What the engine is told of a configuration: voters, sids with their quorum ports, whether a
#: majority decides, and a number that texts of the same meaning share. Sids as text: a made-up
#: text may have any.
_Config: TypeAlias = tuple[list[str], list[tuple[str, str]], bool, int]


def write_opcodes() -> tuple[int, ...]:
    """Opcodes of the exchanges that a join is made of."""
    known = vocabulary()
    return tuple(known.opcodes[name] for name in sorted(known.writes | {"connect"}))


def array_run(
    sources: Sequence[Source],
    options: EngineOptions,
    columns: Iterable[str],
    *,
    ability: str = "arrays",
    ops: Iterable[int] | None = None,
    progress: Callable[[int, int | None], None] | None = None,
    engine: str | None = None,
) -> Run | None:
    """A run that collects these columns (``kind.column``); None where the engine has not the
    ability for which they are wanted. `ops`: exchanges of these opcodes only.
    """
    if ability not in abilities(engine):
        return None
    chosen = None if ops is None else tuple(ops)
    told = replace(options, tables=False, arrays=tuple(columns), array_ops=chosen)
    return Run(sources, create(told, engine), progress=progress)


def drive(run: Run) -> Any:
    """Drives a run to its end and gives its engine."""
    for _ in run:
        pass
    return run.engine


def configs(engine: Any) -> list[_Config | None]:
    """The configurations that an engine collected, by number."""
    meanings: dict[Any, int] = {}
    found: list[_Config | None] = []
    for text in engine.config_texts():
        config = parse_config(text) if text else None
        if config is None:
            found.append(None)
            continue
        voters = [str(sid) for sid in config.voters]
        addresses = [(str(sid), address) for sid, address in config.addresses]
        found.append((voters, addresses, config.simple, meanings.setdefault(config, len(meanings))))
    return found


def check(
    engine: Any,
    names: Sequence[str],
    *,
    voters: int | None,
    times_hold: bool,
    hash_key: bytes | None,
) -> list[Any]:
    """What comes of checks of an engine at its end (:func:`drive`), which gives its columns away:
    of each what was looked at, not seen, assumed, found, and how often.
    """
    found: list[Any] = engine.verify(
        names, configs(engine), ERRORS, voters=voters, times_hold=times_hold, hash_key=hash_key
    )
    return found


class NativeWrites:
    """As :class:`zktrace.analysis.writereport.WriteReport`, of one capture's writes, all of
    them.
    """

    def __init__(
        self,
        engine: Any,
        *,
        voters: int | None = None,
        session: Callable[[int], int] | None = None,
    ) -> None:
        """`engine`: at its end (:func:`drive`); it gives its columns away."""
        self._writes = engine.writes(BOUNDS, configs(engine), voters)
        self._session = session

    def __len__(self) -> int:
        return len(self._writes)

    def slowest(self, count: int) -> list[int]:
        """Numbers of the slowest, the slowest first; of equals the earliest."""
        found: list[int] = self._writes.slowest(count)
        return found

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """All, by time."""
        return map(self.write, self._writes.by_time())

    def write(self, number: int) -> dict[str, Any]:
        """A write's object."""
        found: dict[str, Any] = self._writes.write(number)
        if found["error"] is not None:
            found["error_name"] = error_name(found["error"])
        if self._session is not None and found["session"] is not None:
            real = int(found["session"], 16)
            if real:
                found["session"] = session_text(self._session(real))
        return found

    def summary(self) -> dict[str, Any]:
        """Counts, percentiles per stage and follower, what the time went to."""
        found: dict[str, Any] = self._writes.summary()
        return found
