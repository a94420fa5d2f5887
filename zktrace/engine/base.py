"""What an engine is, what it is told, and which one is taken.

An engine turns capture bytes into event rows: capture, flow and stream layers in one object that
is fed blocks and asked for results. Two exist: ``python`` (:mod:`zktrace.engine.python`, the
readable reference) and ``native`` (:mod:`zktrace.engine.native`, Rust). They give the same rows,
the same JSON lines, the same coverage. This module knows neither files
(:mod:`zktrace.engine.driver` reads them) nor Arrow (the analysis layer makes batches of what
:meth:`Engine.take` gives), so that importing it costs nothing.

An engine module has ``create(options: EngineOptions) -> Engine`` and ``ABILITIES``, a frozenset:
``json`` in it means that it writes JSON lines itself, ``aggregates`` that it aggregates itself,
``windows`` that it does so per second of capture time, ``whole`` that it can keep all rows
itself, ``kept`` that it keeps what is told of single events of traffic under way
(``zktrace.store.kept``), ``shared`` that other threads may ask it while one feeds it, ``arrays``
that it gives columns of a whole capture as plain arrays.
Where it does not, the export and analysis layers do it from the rows: the same bytes and numbers,
but slower.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final, Protocol, TypeAlias

#: Address (4 or 16 packed bytes, None: any) and port.
Port: TypeAlias = tuple[bytes | None, int]

#: Rows of one kind: a list of tuples in the column order of ``zktrace.analysis.tables`` (python),
#: or an object with the Arrow PyCapsule interface ``__arrow_c_array__`` holding the same columns
#: (native).
Rows: TypeAlias = Any

#: Environment variable that names the engine; unset or empty: native where it is built, python
#: elsewhere.
ENGINE_VARIABLE: Final = "ZKTRACE_ENGINE"
ENGINES: Final = ("native", "python")

#: Live connections; beyond, the one longest silent is dropped (and counted). Bounds memory on
#: hostile input.
MAX_CONNECTIONS: Final = 32_768

#: Rows held before a batch is given out: large enough to amortise a batch's cost, small enough for
#: flat memory.
BATCH_ROWS: Final = 16_384

#: Groupings of statistics, in the order in which they are shown.
GROUPINGS: Final = ("op", "client", "path", "session", "server", "user")
#: Groupings of windows: a fingerprint is the shape of a path (``zktrace.analysis.fingerprint``).
WINDOW_GROUPINGS: Final = ("op", "client", "path", "fingerprint", "server", "user")


#: Kinds of events, each a table of ``zktrace.analysis.tables``, in their order there.
KINDS: Final = (
    *("exchanges", "watch_events", "connections", "four_letter", "anomalies", "quorum"),
    "elections",
)


class EngineError(Exception):
    """No engine, or not the one asked for: one line, for the user."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What an engine is told. Plain values only, so that it crosses into Rust as it is."""

    client_ports: tuple[Port, ...] = ()
    quorum_ports: tuple[Port, ...] = ()
    election_ports: tuple[Port, ...] = ()
    """Ports whose role is known; the role of other connections is found from their first bytes."""

    tables: bool = True
    """Rows are wanted (:meth:`Engine.take`)."""

    json_form: str | None = None
    """JSON lines are wanted (:meth:`Engine.take_json`): ``zktrace.export.form.form_text()``, which
    says what keys they have. Only for an engine with that ability.
    """

    aggregate_by: tuple[str, ...] | None = None
    """Aggregates are wanted, of these :data:`GROUPINGS` (totals always). Only for an engine with
    that ability.
    """

    path_depth: int | None = None
    """Components of a path that the grouping by path looks at; None: all."""

    hash_key: bytes | None = None
    """16 bytes: session ids of JSON lines are replaced by their SipHash-2-4 under it
    (``zktrace.export.jsonl``).
    """

    max_connections: int = MAX_CONNECTIONS

    whole: bool = False
    """All rows are kept in the engine until its end, when :meth:`WholeEngine.take_whole` gives
    them. Only for an engine with the ability ``whole``.
    """

    window_keys: int | None = None
    """Aggregates per second of capture time are wanted, of :data:`WINDOW_GROUPINGS`, with so many
    keys each; and totals. Only for an engine with the ability ``windows``, which then has
    ``drain`` and ``totals`` (``zktrace.store.feed``).
    """

    total_keys: int = 20_000
    """Keys that the totals of a grouping hold at most."""

    keep: tuple[tuple[int, ...], int, int] | None = None
    """What is told of single events is to be kept: opcodes of writes, sessions and latest events
    at most. Only for an engine with the ability ``kept``, which then has the method ``kept``. Where
    no rows are wanted, `feed` and the like give how many came since the last ``drain``.
    """

    arrays: tuple[str, ...] | None = None
    """These columns (``kind.column``) are wanted of the whole capture as plain arrays. Only for an
    engine with the ability ``arrays``, which then has ``arrays()`` (``zktrace.analysis.arrays``).
    """

    array_ops: tuple[int, ...] | None = None
    """Opcodes of the exchanges that the arrays are of; None: all."""

    txn_key: int | None = None
    """Key, 64 bits, of the hashes of txns in the quorum table (``txn_hash``): a random one, that
    nobody keeps, lets txns be compared and nothing be told of them. None: no hashes.
    """


class Engine(Protocol):
    """Fed by :func:`zktrace.engine.driver.run`. All methods but `feed` are cheap; none raises on
    hostile bytes.
    """

    name: str
    """``python`` or ``native``."""

    def add_source(self, name: str, first_ts_ns: int | None) -> int:
        """A file of the capture; returns its number, by which it is meant from now on (0, 1, ...).

        Sources are added in the order of the command line before anything is fed; further ones
        may come later, as files that are followed do, and are merged with those that have not
        ended. `first_ts_ns` is the time of the file's first packet: bytes of it are not asked for
        before the merged capture has come to that time, so that rotated files are open one after
        another. None: not known, bytes are asked for from the start.
        """

    def wanted(self) -> int | None:
        """The source of which more bytes are needed to go on; None when all have ended."""

    def feed(self, source: int, block: bytes) -> int:
        """More bytes of the capture file (not compressed). Gives how many rows (and JSON lines)
        wait to be taken.

        :class:`zktrace.capture.CaptureError` when the first bytes are those of no capture. Damage
        further on is skipped and counted.
        """

    def end_source(self, source: int) -> None:
        """No more bytes of this source. CaptureError when they were too few to be a capture."""

    def finish(self) -> None:
        """End of the capture: connections end, requests without reply are given out. Nothing is
        fed after it.
        """

    def take(self) -> Mapping[str, Rows]:
        """Rows since the last call per kind (``exchanges``, ``watch_events`` ...), each kind
        ordered by ``seq``.
        """

    def take_json(self) -> bytes:
        """JSON lines since the last call, all kinds in order, without the coverage."""

    def coverage(self) -> dict[str, Any]:
        """What was seen and what not, up to now: plain numbers and dicts, the keys of the JSON
        coverage line.
        """

    def aggregates(self, top: int | None = None) -> Any:
        """Sums and histograms per grouping: ``StatsData`` of ``zktrace.analysis.stats_result``.
        With `top`, so many rows per grouping; the others are summed in one.
        """


class WholeEngine(Protocol):
    """An engine with the ability ``whole``."""

    def take_whole(self, kind: str) -> list[tuple[list[Rows], list[Any] | None]]:
        """All rows of a kind, which it gives away: batches, and dictionaries. Where there are
        dictionaries, the batches have keys in place of texts; they are in the order of the columns
        with texts. Several such pairs where there is too much text for one, none without rows.
        """

    def whole_rows(self, kind: str) -> int:
        """How many rows of a kind it has."""


class LiveEngine(Engine, Protocol):
    """An engine that is also fed packets of a live capture, by :mod:`zktrace.engine.live`: then it
    has no sources. All engines of this package are.
    """

    def packet(self, ts_ns: int, linktype: int, data: bytes, wire_len: int) -> int:
        """One packet, in order of time. Gives how many rows wait to be taken, as :meth:`feed`
        does.
        """

    def tick(self, now_ns: int) -> int:
        """Time went on without a packet: closed connections end, and what waits for time is given
        out. As :meth:`packet`.
        """

    def kernel_drops(self, drops: int) -> None:
        """How many packets of a live capture were lost so far, before anyone saw them."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which engine is taken, and why not the faster one."""

    name: str
    reason: str | None = None


def _native_missing() -> str | None:
    """Why the native engine cannot be had; None when it can."""
    not_built = "it was not built"
    try:
        # Without the built library the crate's folder is found as an empty namespace package.
        if import_module("zktrace._native").__file__ is None:
            return not_built
        import_module("zktrace.engine.native")
    except ModuleNotFoundError as error:
        if error.name in {"zktrace._native", "zktrace.engine.native"}:
            return not_built
        return f"it does not load: {error}"
    except ImportError as error:
        # A library of other sources, or of another system: who built one expects it to be used.
        return f"it does not load: {error}"
    return None


def choose(name: str | None = None) -> Choice:
    """The engine to take: `name`, else the environment's, else native where it loads.
    :class:`EngineError` if not.
    """
    asked = name or os.environ.get(ENGINE_VARIABLE) or None
    if asked is not None and asked not in ENGINES:
        raise EngineError(f"{ENGINE_VARIABLE}: no engine {asked!r}; there are {', '.join(ENGINES)}")
    if asked == "python":
        return Choice("python", f"{ENGINE_VARIABLE} asks for it" if name is None else None)
    missing = _native_missing()
    if missing is None:
        return Choice("native")
    if asked == "native":
        raise EngineError(f"the native engine was asked for, but {missing}")
    return Choice("python", f"the native engine is absent: {missing}")


def create(options: EngineOptions, name: str | None = None) -> LiveEngine:
    """An engine, the one :func:`choose` names."""
    choice = choose(name)
    if choice.reason is not None and "does not load" in choice.reason:
        warnings.warn(f"{choice.reason}; the Python engine is slower", stacklevel=2)
    module = import_module(f"zktrace.engine.{choice.name}")
    engine: LiveEngine = module.create(options)
    return engine


def abilities(name: str | None = None) -> frozenset[str]:
    """What the engine that :func:`create` would give can do itself: ``json``, ``aggregates``."""
    can: frozenset[str] = import_module(f"zktrace.engine.{choose(name).name}").ABILITIES
    return can


def schema_text() -> str:
    """The wire schema as text (:mod:`zktrace.wire.layout`), as the engine that :func:`create` would
    give has it. Importing all records, which the native engine need not, takes as long as decoding
    some 50 MB.
    """
    text: str = import_module(f"zktrace.engine.{choose().name}").schema_text()
    return text


def parse_port(text: str) -> Port:
    """``2181``, ``10.0.0.1:2181`` or ``[::1]:2181`` to a :data:`Port`. ValueError says what is
    wrong.
    """
    from ipaddress import AddressValueError, IPv4Address, IPv6Address

    host, colon, number = text.strip().rpartition(":")
    if not (number.isascii() and number.isdigit() and 0 < int(number) <= 0xFFFF):
        raise ValueError(f"{text!r} is no port: give N, IP:N or [IPv6]:N with N from 1 to 65535")
    if not colon:
        return None, int(number)
    try:
        if host.startswith("[") and host.endswith("]"):
            return IPv6Address(host[1:-1]).packed, int(number)
        return IPv4Address(host).packed, int(number)
    except AddressValueError:
        raise ValueError(f"{text!r}: {host!r} is no IPv4 address, nor IPv6 in brackets") from None


def parse_ports(texts: Sequence[str]) -> tuple[Port, ...]:
    return tuple(map(parse_port, texts))
