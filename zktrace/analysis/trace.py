"""The Python interface: a capture as tables.

>>> import zktrace
>>> trace = zktrace.read("rotated.pcap.zst")           # doctest: +SKIP
>>> trace.exchanges.to_pandas()                        # doctest: +SKIP
>>> trace.filter('op == "create" and error != 0')      # doctest: +SKIP

Tables are Arrow tables; their columns are in :mod:`zktrace.analysis.tables`. Times are nanoseconds
since 1970, sizes bytes (of a frame without its 4-byte length), ``session`` and zxids the bit
patterns of the ids as signed 64-bit integers. Knowledge that a capture cannot give is null. What
was not seen is told by :attr:`Trace.coverage`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from zktrace.analysis.whole import KeptTables, one_dictionary
from zktrace.capture.source import Source
from zktrace.engine.base import (
    BATCH_ROWS,
    KINDS,
    MAX_CONNECTIONS,
    EngineOptions,
    Rows,
    WholeEngine,
    abilities,
    create,
    parse_port,
)
from zktrace.engine.driver import Run, Steps

if TYPE_CHECKING:
    import pyarrow as pa

    from zktrace.analysis.filter import Filter
    from zktrace.analysis.hashing import SessionHasher
    from zktrace.analysis.writereport import WriteReport

#: A port of any address, or "IP:N" / "[IPv6]:N".
PortSpec: TypeAlias = int | str

#: Rows that :func:`read` takes at a time: dictionaries and batches cost something each.
_READ_ROWS: Final = 32_768

#: Types of packets that carry a transaction.
TXN_PACKETS: Final = ("PROPOSAL", "INFORM", "INFORMANDACTIVATE")


def to_batch(kind: str, rows: Rows) -> pa.RecordBatch:
    """Rows as an engine gives them, as a record batch."""
    import pyarrow as pa

    if isinstance(rows, list):
        from zktrace.analysis.tables import batch_from_rows

        return batch_from_rows(kind, rows)
    if isinstance(rows, pa.RecordBatch):
        return rows
    return pa.record_batch(rows)


def iter_rows(run: Steps) -> Iterator[dict[str, pa.RecordBatch]]:
    """Drives a run; each step gives the rows that came since the last, a batch per kind that has
    any.
    """
    for _ in run:
        batches = {kind: to_batch(kind, rows) for kind, rows in run.engine.take().items()}
        yield {kind: batch for kind, batch in batches.items() if batch.num_rows}


class Batches:
    """A capture as it is decoded: iterating gives, step by step, ``{kind: record batch}``.

    For what does not fit in memory: some thousand rows at a time, in order of ``seq`` over all
    steps. :attr:`coverage` tells what was seen so far; it is final after the last step. Can be
    iterated once.
    """

    def __init__(
        self,
        run: Steps,
        *,
        where: Filter | None = None,
        hash_key: bytes | None = None,
        whole: bool = False,
    ) -> None:
        """`whole`: the engine keeps the rows (:attr:`EngineOptions.whole`); they are had from
        :func:`gather` then.
        """
        self.run = run
        self.whole = whole
        self._filter = where
        self._hasher: SessionHasher | None = None
        if hash_key is not None:
            from zktrace.analysis.hashing import SessionHasher

            self._hasher = SessionHasher(hash_key)

    @property
    def coverage(self) -> dict[str, Any]:
        """What was seen and what was not, up to now."""
        return self.run.coverage()

    def __iter__(self) -> Iterator[dict[str, pa.RecordBatch]]:
        for batches in iter_rows(self.run):
            if self._filter is not None:
                batches = self._filter.batches(batches)
            if self._hasher is not None:
                # After the filter: it is asked about real ids by someone who knows them.
                batches = {kind: self._hasher.batch(batch) for kind, batch in batches.items()}
            yield batches


class Trace:
    """A decoded capture in memory, one Arrow table per kind of event.

    With the native engine a table is made of the rows when it is asked for first, and takes some
    five times their memory from then on.
    """

    def __init__(self, tables: Mapping[str, pa.Table], coverage: Mapping[str, Any]) -> None:
        self._tables = tables if isinstance(tables, KeptTables) else dict(tables)
        self._coverage = dict(coverage)

    def __repr__(self) -> str:
        rows = ", ".join(f"{self._rows(kind)} {kind}" for kind in self._tables)
        return f"<zktrace.Trace: {rows}>"

    def _rows(self, kind: str) -> int:
        if isinstance(self._tables, KeptTables):
            return self._tables.rows(kind)
        return int(self._tables[kind].num_rows)

    @property
    def tables(self) -> dict[str, pa.Table]:
        """All tables by name."""
        return dict(self._tables)

    @property
    def exchanges(self) -> pa.Table:
        """Requests with their replies, and either alone."""
        return self._tables["exchanges"]

    @property
    def watch_events(self) -> pa.Table:
        """Watch events that servers sent."""
        return self._tables["watch_events"]

    @property
    def connections(self) -> pa.Table:
        """Connections that opened or were joined, authenticated, closed or were reset."""
        return self._tables["connections"]

    @property
    def four_letter(self) -> pa.Table:
        """Four-letter words and the sizes of the answers."""
        return self._tables["four_letter"]

    @property
    def quorum(self) -> pa.Table:
        """Packets between learners and leaders, both ways."""
        return self._tables["quorum"]

    @property
    def txns(self) -> pa.Table:
        """The rows of :attr:`quorum` that carry a transaction: one for each learner it was sent
        to.
        """
        import pyarrow as pa
        from pyarrow import compute as pc

        table = self._tables["quorum"]
        return table.filter(pc.is_in(table["type"], pa.array(TXN_PACKETS)))

    @property
    def elections(self) -> pa.Table:
        """Messages of leader elections: initial ones and notifications."""
        return self._tables["elections"]

    @property
    def anomalies(self) -> pa.Table:
        """Gaps, malformed bytes, unmatched replies: what could not be decoded or does not
        belong.
        """
        return self._tables["anomalies"]

    @property
    def coverage(self) -> dict[str, Any]:
        """What was seen and what was not: packets, gaps, bytes skipped. Of the whole capture,
        whatever the filter.
        """
        return dict(self._coverage)

    def filter(self, expression: str) -> Trace:
        """The rows that an expression of the filter language selects.

        :class:`zktrace.FilterError` marks the place where the expression is wrong.
        """
        from zktrace.analysis.filter import compile_filter

        tables = compile_filter(expression).tables(self._tables)
        return Trace(tables, self._coverage)

    def writes(self, *, voters: int | None = None) -> WriteReport:
        """The ways of writes through the ensemble: what ``zktrace trace`` tells.

        `voters`: how many servers vote; None: as many as were seen, at least.
        """
        from zktrace.analysis.join import join
        from zktrace.analysis.timeline import timeline
        from zktrace.analysis.writereport import WriteReport

        joined = join(self._tables)
        return WriteReport(timeline(joined), joined.addresses, joined.ops, voters=voters)

    def ensemble(self, *, voters: int | None = None) -> dict[str, Any]:
        """Leaders, learners, elections, sessions: the object that ``zktrace ensemble --json``
        prints, but for the coverage.
        """
        from zktrace.analysis.ensemble import ensemble

        return ensemble(self._tables, voters=voters)

    def stats(
        self,
        by: str | Sequence[str] = ("op",),
        *,
        depth: int | None = None,
        top: int | None = None,
    ) -> dict[str, Any]:
        """Counts, bytes, errors and latency percentiles: the object that ``zktrace stats --json``
        prints.

        `by`: op, client, path, session, server, user, or several; `depth`: how many components
        of a path make a group; `top`: how many groups to keep, the rest is summed up in one row.
        """
        from zktrace.analysis.stats import stats

        by = by.split(",") if isinstance(by, str) else by
        return stats(self._tables, self._coverage, by=tuple(by), depth=depth, top=top)


def options_of(
    client_ports: Iterable[PortSpec],
    quorum_ports: Iterable[PortSpec],
    election_ports: Iterable[PortSpec],
    max_connections: int = MAX_CONNECTIONS,
) -> EngineOptions:
    """What ports of the Python interface mean to an engine."""
    return EngineOptions(
        client_ports=tuple(parse_port(str(port)) for port in client_ports),
        quorum_ports=tuple(parse_port(str(port)) for port in quorum_ports),
        election_ports=tuple(parse_port(str(port)) for port in election_ports),
        max_connections=max_connections,
    )


def sources_of(source: Source | Iterable[Source]) -> list[Source]:
    """A capture's sources, one or several."""
    if isinstance(source, (str, os.PathLike)) or hasattr(source, "read"):
        return [cast(Source, source)]
    return list(source)


def iter_batches(
    source: Source | Iterable[Source],
    *,
    client_ports: Iterable[PortSpec] = (),
    quorum_ports: Iterable[PortSpec] = (),
    election_ports: Iterable[PortSpec] = (),
    filter: str | None = None,
    hash_sessions: bool = False,
    hash_key: str | None = None,
    max_connections: int = MAX_CONNECTIONS,
    engine: str | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Batches:
    """A capture step by step, for what does not fit in memory. Parameters as those of
    :func:`read`.
    """
    return _batches(
        source,
        client_ports=client_ports,
        quorum_ports=quorum_ports,
        election_ports=election_ports,
        filter=filter,
        hash_sessions=hash_sessions,
        hash_key=hash_key,
        max_connections=max_connections,
        engine=engine,
        progress=progress,
        batch_rows=BATCH_ROWS,
    )


def _batches(
    source: Source | Iterable[Source],
    *,
    client_ports: Iterable[PortSpec],
    quorum_ports: Iterable[PortSpec],
    election_ports: Iterable[PortSpec],
    filter: str | None,
    hash_sessions: bool,
    hash_key: str | None,
    max_connections: int,
    engine: str | None,
    progress: Callable[[int, int | None], None] | None,
    batch_rows: int,
    whole: bool = False,
) -> Batches:
    hashed = hash_sessions or hash_key is not None
    # Where every row is kept as it is, the engine keeps them.
    whole = whole and filter is None and not hashed and "whole" in abilities(engine)
    options = options_of(client_ports, quorum_ports, election_ports, max_connections)
    options = replace(options, whole=whole)
    where: Filter | None = None
    if filter is not None:
        from zktrace.analysis.filter import compile_filter

        where = compile_filter(filter)
    key = None
    if hashed:
        from zktrace.analysis.hashing import make_key

        key = make_key(hash_key)
    return Batches(
        Run(sources_of(source), create(options, engine), batch_rows=batch_rows, progress=progress),
        where=where,
        whole=whole,
        hash_key=key,
    )


def read(
    source: Source | Iterable[Source],
    *,
    client_ports: Iterable[PortSpec] = (),
    quorum_ports: Iterable[PortSpec] = (),
    election_ports: Iterable[PortSpec] = (),
    filter: str | None = None,
    hash_sessions: bool = False,
    hash_key: str | None = None,
    max_connections: int = MAX_CONNECTIONS,
    engine: str | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Trace:
    """A capture as tables.

    `source`: pcap or pcapng, plain, gzip or zstandard; "-" is standard input, an open
    binary file is read from where it stands; several files are one capture in
    time order. Ports (2181, "10.0.0.1:2181", "[::1]:2181") are needed only where the first bytes
    of a connection do not tell its role. `hash_sessions` replaces session ids by keyed hashes, the
    key being random or derived from `hash_key`. `engine`: "native" or "python"; None: as
    ZKTRACE_ENGINE says, else the faster one.

    :class:`zktrace.CaptureError` when a source is no capture, OSError when it cannot be read.
    Damage further on raises nothing: it is counted in :attr:`Trace.coverage`.
    """
    steps = _batches(
        source,
        client_ports=client_ports,
        quorum_ports=quorum_ports,
        election_ports=election_ports,
        filter=filter,
        hash_sessions=hash_sessions,
        hash_key=hash_key,
        max_connections=max_connections,
        engine=engine,
        progress=progress,
        batch_rows=_READ_ROWS,
        whole=True,
    )
    return gather(steps)


def gather(steps: Batches) -> Trace:
    """All of a capture that is decoded step by step."""
    if steps.whole:
        for _ in steps.run:
            pass
        return Trace(KeptTables(cast(WholeEngine, steps.run.engine)), steps.coverage)
    from zktrace.analysis.tables import table_from_batches

    held: dict[str, list[pa.RecordBatch]] = {kind: [] for kind in KINDS}
    for batches in steps:
        for kind, batch in batches.items():
            held[kind].append(batch)
    tables = {
        # One dictionary per column, as pandas and most writers want it.
        kind: one_dictionary(table_from_batches(kind, batches))
        for kind, batches in held.items()
    }
    return Trace(tables, steps.coverage)
