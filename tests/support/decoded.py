"""A decode in one form, whoever made it: rows as dicts with the columns of the event tables, plus
``flow``.

Made from an engine's rows, a ``zktrace.Trace``, or the lines of ``zktrace decode --json``, so that
one checker serves both.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from tests.support.pcapio import ETHERNET, Record, pcap_bytes
from zktrace.analysis.tables import SCHEMAS
from zktrace.engine.base import Engine, EngineOptions, create
from zktrace.engine.driver import Run

KINDS: Final = (
    *("exchanges", "watch_events", "connections", "four_letter", "anomalies"),
    *("quorum", "elections"),
)
_SINGULAR: Final = {
    "exchange": "exchanges",
    "watch_event": "watch_events",
    "connection": "connections",
    "four_letter": "four_letter",
    "anomaly": "anomalies",
    "quorum": "quorum",
    "election": "elections",
}
Row = dict[str, Any]


@dataclass(slots=True)
class Decoded:
    exchanges: list[Row] = field(default_factory=list)
    watch_events: list[Row] = field(default_factory=list)
    connections: list[Row] = field(default_factory=list)
    four_letter: list[Row] = field(default_factory=list)
    anomalies: list[Row] = field(default_factory=list)
    quorum: list[Row] = field(default_factory=list)
    elections: list[Row] = field(default_factory=list)
    coverage: dict[str, Any] = field(default_factory=dict)

    def kind(self, name: str) -> list[Row]:
        rows: list[Row] = getattr(self, name)
        return rows

    def reasons(self) -> set[str]:
        return {row["reason"] for row in self.anomalies}


def signed(value: int) -> int:
    """A 64-bit pattern as a signed integer."""
    value &= 0xFFFFFFFFFFFFFFFF
    return value - (1 << 64) if value >> 63 else value


def flow(row: Mapping[str, Any]) -> str:
    return f"{row['client']}>{row['server']}"


def from_trace(trace: Any) -> Decoded:
    """The tables of a ``zktrace.Trace``."""
    out = Decoded(coverage=dict(trace.coverage))
    for kind in KINDS:
        _extend(out, kind, getattr(trace, kind).to_pylist())
    return out


def _extend(out: Decoded, kind: str, rows: list[Row]) -> None:
    for row in rows:
        row["flow"] = flow(row)
    out.kind(kind).extend(rows)


_STRUCTS: Final = {
    name: [field.name for field in SCHEMAS["exchanges"].field(name).type]
    for name in ("stat", "watches")
}


def take(out: Decoded, engine: Engine) -> None:
    """Rows of the Python engine are tuples, those of the native one Arrow data."""
    for kind, rows in engine.take().items():
        if isinstance(rows, list):
            names = SCHEMAS[kind].names
            made = [dict(zip(names, row, strict=True)) for row in rows]
            for row in made:
                for struct, keys in _STRUCTS.items():
                    if row.get(struct) is not None:  # missing keys are null
                        row[struct] = {key: row[struct].get(key) for key in keys}
            _extend(out, kind, made)
        else:
            _extend(out, kind, pa.record_batch(rows).to_pylist())


def decode(*sources: Path, engine: str | None = None, batch_rows: int = 1 << 30) -> Decoded:
    """Reads capture files with the named engine, below tables (that these are the same, other tests
    say).
    """
    made = create(EngineOptions(), engine)
    out = Decoded()
    for _ in Run([str(source) for source in sources], made, batch_rows=batch_rows):
        take(out, made)
    out.coverage = made.coverage()
    return out


def decode_bytes(data: bytes, *, engine: str | None = None, block: int = 1 << 30) -> Decoded:
    """Reads one capture file that is in memory, in blocks of a size."""
    made = create(EngineOptions(), engine)
    source = made.add_source("memory", 0)
    for at in range(0, len(data), block):
        made.feed(source, data[at : at + block])
    made.end_source(source)
    made.finish()
    out = Decoded()
    take(out, made)
    out.coverage = made.coverage()
    return out


def decode_records(
    records: Iterable[Record], linktype: int = ETHERNET, *, engine: str | None = None
) -> Decoded:
    """Reads records as if they were a file of nanoseconds."""
    return decode_bytes(pcap_bytes(records, linktype, nanoseconds=True), engine=engine)


def unjson(row: Mapping[str, Any]) -> Row:
    """An object of ``decode --json`` (or an expectation in the same words) with the columns of the
    tables.
    """
    out = dict(row)
    for key in ("zxid", "session", "last_zxid_seen"):
        if isinstance(out.get(key), str):
            out[key] = signed(int(out[key], 16))
    if "latency_us" in out:
        latency = out.pop("latency_us")
        out["latency_ns"] = None if latency is None else round(latency * 1000)
    if isinstance(out.get("stat"), dict):
        out["stat"] = {
            key: signed(int(value, 16)) if isinstance(value, str) else value
            for key, value in out["stat"].items()
        }
    return out


def from_json(lines: Iterable[str]) -> Decoded:
    """The lines of ``zktrace decode --json``. Keys of kinds that are not decoded yet are left
    alone.
    """
    out = Decoded()
    for line in lines:
        row = json.loads(line)
        kind = row.get("kind")
        if kind == "coverage":
            out.coverage = row
        elif kind in _SINGULAR:
            getattr(out, _SINGULAR[kind]).append(unjson(row))
    return out
