"""Counts, bytes, errors and latencies, in total and per op, client, path, session, server, user.

The numbers come from tables (here, by Arrow's and numpy's kernels, never a loop over rows) or from
the native engine's aggregates (``agg.rs``); both give :class:`StatsData`, and :func:`stats_result`
makes of it what ``zktrace stats --json`` prints. Rules, the same in both:

* ``requests`` are rows ``complete`` or ``no_reply``, ``replies`` rows ``complete`` or
  ``no_request``; bytes are sums of what is known; errors are codes other than 0.
* ``watch_events`` counts rows of that table by client, path, session and server; it is 0 by op.
* Latencies of pings and connects are in the rows by op only, neither in the total nor in other
  groupings.
* Rows whose key is unknown make a row with key None. Paths are cut before slash number depth + 1;
  clients are addresses without port; sessions are 16 hex digits; users are who connections had
  told before they are (:mod:`zktrace.analysis.users`).
* Rows are ordered by requests, most first, then by key (code points), None last.

The native engine keeps a bounded number of keys per grouping; what came beyond is in a last row
with ``rest`` set, and ``overflow`` tells how many events that were. Tables know no such limit (a
filter is at work, or the Python engine).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from zktrace.analysis import histogram
from zktrace.analysis.stats_result import (
    OTHER_ERROR,
    Latency,
    StatsData,
    StatsRow,
    merge_rows,
    stats_result,
)
from zktrace.analysis.users import Users
from zktrace.engine.base import GROUPINGS

__all__ = [
    "GROUPINGS",
    "OTHER_ERROR",
    "Latency",
    "StatsCollector",
    "StatsData",
    "StatsRow",
    "merge_rows",
    "stats",
    "stats_result",
]

#: Rows that come before this number of partial sums are summed again.
_COMPACT_ROWS: Final = 200_000
#: RE2, which cuts paths, counts to 1000.
MAX_DEPTH: Final = 1000

#: Ops whose latency says nothing about the ensemble's work.
ASIDE: Final = ("ping", "connect")


def _unified(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """A dictionary-encoded column in one piece."""
    if isinstance(column, pa.ChunkedArray):
        column = column.unify_dictionaries().combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # of no chunk
            column = column.chunk(0) if column.num_chunks else pa.array([], column.type)
    return column


def _decoded(
    column: pa.Array | pa.ChunkedArray, change: Callable[[pa.Array], pa.Array] | None = None
) -> pa.Array:
    """A text column, dictionary-encoded with distinct values, each changed once and not once per
    row.
    """
    column = _unified(column)
    if change is None:
        return column
    changed = pc.dictionary_encode(change(column.dictionary))
    return pa.DictionaryArray.from_arrays(
        changed.indices.take(column.indices), changed.dictionary, safe=False
    )


def _cut(depth: int | None) -> Callable[[pa.Array], pa.Array] | None:
    """Paths to their first components."""
    if depth is None:
        return None
    pattern = f"(?s)^((?:[^/]*/){{{depth}}}[^/]*)/.*$"
    return lambda paths: pc.replace_substring_regex(paths, pattern, r"\1")


def _address(endpoints: pa.Array) -> pa.Array:
    """``ip:port`` and ``[ip]:port`` to ``ip``."""
    return pc.replace_substring_regex(endpoints, r"^\[?([^\]]*?)\]?:[0-9]+$", r"\1")


#: Sums of a row; every one may be summed again.
_SUMS: Final = (
    "requests",
    "replies",
    "request_bytes",
    "reply_bytes",
    "watch_events",
    "count",
    # The sum of latencies in two halves, so that no sum of 64-bit integers overflows.
    "high",
    "low",
)
_ENDS: Final = (("min", "min"), ("max", "max"))


def _regroup(
    table: pa.Table, keys: Sequence[str], aggregates: Sequence[tuple[str, str]]
) -> pa.Table:
    """Groups a table; columns keep their names."""
    grouped = table.group_by(list(keys), use_threads=False).aggregate(list(aggregates))
    names = {f"{column}_{function}": column for column, function in aggregates}
    return grouped.rename_columns([names.get(name, name) for name in grouped.column_names])


class _Group:
    """Partial sums of one grouping: they are tables themselves, summed again now and then."""

    def __init__(self) -> None:
        self._rows: list[pa.Table] = []
        self._errors: list[pa.Table] = []
        self._latencies: list[pa.Table] = []
        self._held = 0

    def add(self, key: pa.Array, columns: Mapping[str, pa.Array], *, latency: pa.Array) -> None:
        """Counts rows: `key` and `columns` run in parallel, `latency` is ns with nulls."""
        # Keys as numbers while counting; text only once per key.
        encoded = pc.dictionary_encode(key) if not pa.types.is_dictionary(key.type) else key
        codes = encoded.indices
        rows = pa.table({"key": codes, **columns, "latency": latency})
        filled = pc.fill_null(latency, 0)
        rows = rows.append_column("count", pc.cast(pc.is_valid(latency), pa.int64()))
        rows = rows.append_column("high", pc.shift_right(filled, 32))
        rows = rows.append_column("low", pc.bit_wise_and(filled, 0xFFFFFFFF))
        for name, _ in _ENDS:
            rows = rows.append_column(name, latency)
        sums = [(name, "sum") for name in _SUMS]
        self._keep(self._rows, _regroup(rows, ["key"], [*sums, *_ENDS]), encoded)

        bad = pc.fill_null(pc.not_equal(rows["error"], 0), False)
        one = pa.array(np.ones(len(rows), dtype=np.int64))
        errors = pa.table({"key": codes, "error": rows["error"], "n": one}).filter(bad)
        self._keep(self._errors, _regroup(errors, ["key", "error"], [("n", "sum")]), encoded)

        valid = pc.is_valid(latency)
        values = latency.filter(valid).to_numpy()
        latencies = pa.table(
            {
                "key": codes.filter(valid),
                "bucket": histogram.bucket_of(values),
                "n": np.ones(len(values), dtype=np.int64),
            }
        )
        self._keep(self._latencies, _regroup(latencies, ["key", "bucket"], [("n", "sum")]), encoded)
        if self._held > _COMPACT_ROWS:
            self._compact()
            self._held = 0

    def _keep(self, where: list[pa.Table], table: pa.Table, encoded: pa.DictionaryArray) -> None:
        if len(table):
            key = encoded.dictionary.take(table["key"].combine_chunks())
            at = table.column_names.index("key")
            where.append(table.set_column(at, "key", key))
            self._held += len(table)

    def _compact(self) -> tuple[pa.Table | None, pa.Table | None, pa.Table | None]:
        sums = [(name, "sum") for name in _SUMS]
        plans: list[tuple[list[pa.Table], list[str], list[tuple[str, str]]]] = [
            (self._rows, ["key"], [*sums, *_ENDS]),
            (self._errors, ["key", "error"], [("n", "sum")]),
            (self._latencies, ["key", "bucket"], [("n", "sum")]),
        ]
        whole: list[pa.Table | None] = []
        for parts, keys, aggregates in plans:
            if len(parts) > 1:
                # Columns come back with the keys last or first by version: by name.
                names = parts[0].column_names
                joined = pa.concat_tables([part.select(names) for part in parts])
                parts[:] = [_regroup(joined, keys, aggregates)]
            whole.append(parts[0] if parts else None)
        return whole[0], whole[1], whole[2]

    def rows(self, shown: Callable[[Any], str | None]) -> list[StatsRow]:
        """The rows, in no order. `shown` gives a key as text."""
        rows, errors, latencies = self._compact()
        if rows is None:
            return []
        keys = rows["key"].to_pylist()
        place = {key: i for i, key in enumerate(keys)}
        codes: list[dict[int, int]] = [{} for _ in keys]
        if errors is not None:
            parts = (errors[name].to_pylist() for name in ("key", "error", "n"))
            for key, code, n in zip(*parts, strict=True):
                codes[place[key]][code] = n
        found = _latencies(rows, latencies, place)
        columns = [rows[name].to_pylist() for name in _SUMS[:5]]
        return [
            StatsRow(shown(key), False, requests, replies, errors_of, sent, got, watches, latency)
            for key, errors_of, latency, requests, replies, sent, got, watches in zip(
                keys, codes, found, *columns, strict=True
            )
        ]


def _latencies(
    rows: pa.Table, parts: pa.Table | None, place: Mapping[Any, int]
) -> list[Latency | None]:
    """The latency of each row."""
    found: list[Latency | None] = [None] * len(rows)
    if parts is None:
        return found
    groups: histogram.Ints = np.array(
        [place[key] for key in parts["key"].to_pylist()], dtype=np.int64
    )
    buckets = parts["bucket"].to_numpy()
    order = np.lexsort((buckets, groups))
    groups = groups[order]
    buckets = buckets[order]
    counts = parts["n"].to_numpy()[order]
    low = pc.fill_null(rows["min"], 0).to_numpy()
    high = pc.fill_null(rows["max"], 0).to_numpy()
    quantiles = histogram.grouped_quantiles(groups, buckets, counts, low, high)
    edges = np.searchsorted(groups, np.arange(len(rows) + 1)).tolist()
    shown = [column.tolist() for column in (low, high, *quantiles)]
    totals = [rows[name].to_pylist() for name in ("count", "high", "low")]
    raw_buckets = buckets.astype("<u2").tobytes()
    raw_counts = counts.astype("<u8").tobytes()
    for i, (count, upper, lower) in enumerate(zip(*totals, strict=True)):
        if count:
            begin, end = edges[i], edges[i + 1]
            least, most, p50, p90, p99, p999 = (column[i] for column in shown)
            found[i] = Latency(
                count,
                least,
                most,
                (upper << 32) + lower,
                p50,
                p90,
                p99,
                p999,
                raw_buckets[2 * begin : 2 * end],
                raw_counts[8 * begin : 8 * end],
            )
    return found


def _session_text(key: int | None) -> str | None:
    return None if key is None else f"0x{key & 0xFFFFFFFFFFFFFFFF:016x}"


def _same(key: str | None) -> str | None:
    return key


def _zeros(n: int) -> pa.Array:
    return pa.array(np.zeros(n, dtype=np.int64))


class StatsCollector:
    """Counts batches of tables as they come; memory grows with the number of keys, not of rows."""

    def __init__(self, by: Iterable[str] = ("op",), depth: int | None = None) -> None:
        self.by = tuple(by)
        for name in self.by:
            if name not in GROUPINGS:
                raise ValueError(f"no grouping {name!r}; there are {', '.join(GROUPINGS)}")
        if depth is not None and not 1 <= depth <= MAX_DEPTH:
            raise ValueError(f"depth must be from 1 to {MAX_DEPTH}")
        self._depth = depth
        self._users = Users()
        self._groups = {name: _Group() for name in ("total", *self.by)}

    def _key(self, name: str, rows: pa.Table | pa.RecordBatch) -> pa.Array:
        if name == "session":
            column = rows["session"]
            return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if name == "total":
            return pa.nulls(rows.num_rows, pa.utf8())
        if name == "user":
            return self._users.of(rows)
        change = _cut(self._depth) if name == "path" else _address if name == "client" else None
        return _decoded(rows[name], change)

    def add(self, tables: Mapping[str, pa.Table | pa.RecordBatch]) -> None:
        """Counts rows: tables or record batches by kind; kinds other than exchanges and
        watch_events do not count.
        """
        self.told(tables)
        rows = tables.get("exchanges")
        if rows is not None and rows.num_rows:
            self._add_exchanges(rows)
        rows = tables.get("watch_events")
        if rows is not None and rows.num_rows:
            n = rows.num_rows
            columns = {name: _zeros(n) for name in _SUMS[:4]}
            columns["watch_events"] = pa.array(np.ones(n, dtype=np.int64))
            columns["error"] = pa.nulls(n, pa.int32())
            for name, group in self._groups.items():
                if name != "op":
                    group.add(self._key(name, rows), columns, latency=pa.nulls(n, pa.int64()))

    def told(self, tables: Mapping[str, pa.Table | pa.RecordBatch]) -> None:
        """Takes from the table of connections whose they are: where the rows that count are chosen
        by a filter, from all of them, before.
        """
        rows = tables.get("connections")
        if "user" in self._groups and rows is not None and rows.num_rows:
            self._users.add(rows)

    def _add_exchanges(self, rows: pa.Table | pa.RecordBatch) -> None:
        def whole(name: str) -> pa.Array:
            column = rows[name]
            return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column

        def has(name: str, values: Sequence[str]) -> pa.Array:
            column = _unified(rows[name])
            wanted = pc.is_in(column.dictionary, pa.array(values, pa.utf8()))
            return pc.fill_null(wanted.take(column.indices), False)

        state = {name: has("state", [name]) for name in ("no_reply", "no_request")}
        columns = {
            "requests": pc.cast(pc.invert(state["no_request"]), pa.int64()),
            "replies": pc.cast(pc.invert(state["no_reply"]), pa.int64()),
            "request_bytes": pc.fill_null(whole("request_bytes"), 0),
            "reply_bytes": pc.fill_null(whole("reply_bytes"), 0),
            "watch_events": _zeros(rows.num_rows),
            "error": whole("error"),
        }
        latency = whole("latency_ns")
        work = pc.if_else(has("op", ASIDE), pa.scalar(None, pa.int64()), latency)
        for name, group in self._groups.items():
            group.add(self._key(name, rows), columns, latency=latency if name == "op" else work)

    def data(self) -> StatsData:
        """The numbers so far."""
        by = {}
        for name in self.by:
            shown = _session_text if name == "session" else _same
            rows = self._groups[name].rows(shown)
            rows.sort(key=lambda row: (-row.requests, row.key is None, row.key or ""))
            by[name] = rows
        total = self._groups["total"].rows(_same)
        empty = StatsRow(None, False, 0, 0, {}, 0, 0, 0, None)
        return {"total": total[0] if total else empty, "by": by, "folded": {}, "overflow": {}}


def stats(
    tables: Mapping[str, pa.Table | pa.RecordBatch],
    coverage: Mapping[str, Any],
    *,
    by: Iterable[str] = ("op",),
    depth: int | None = None,
    top: int | None = None,
) -> dict[str, Any]:
    """:func:`stats_result` of tables."""
    collector = StatsCollector(by, depth)
    collector.add(tables)
    return stats_result(collector.data(), coverage, top=top)
