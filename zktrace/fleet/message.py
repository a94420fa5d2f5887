"""Messages of agents, as bytes: a header in JSON, then windows and events.

All little-endian: the magic ``ZKF1``, length of the header (32 bits), the header, the parts one
behind the other. The header says whose message it is, its number, and what each part is::

    {"agent": HEX, "name": TEXT, "ensemble": TEXT, "run": HEX, "number": N, "sent_ns": N,
     "lost": N, "coverage": {...},
     "parts": [["window", SECOND, BY, LENGTH], ["events", KIND, LENGTH]]}

A window's part is what :mod:`zktrace.store.packed` makes, events are an Arrow IPC stream of one
batch (zstd). Bytes come from other hosts: :func:`decode` checks all of it against limits, and
raises ValueError on anything else. Must not know: how messages travel.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa

from zktrace.analysis.tables import SCHEMAS
from zktrace.engine.base import WINDOW_GROUPINGS
from zktrace.store.packed import pack, unpack
from zktrace.store.part import Part

#: What a message may be at most: NATS itself takes 1 MiB unless told otherwise.
MAX_BYTES: Final = 1_000_000
_MAGIC: Final = b"ZKF1"
_HEAD: Final = struct.Struct("<4sI")
_MAX_HEADER: Final = 256 << 10
_MAX_PARTS: Final = 4096
_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)
#: Names of agents and ensembles, which become parts of subjects and addresses.
NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", re.ASCII)
_MAX_NUMBER: Final = 1 << 62
#: Rows of a batch that one part holds; some 20 bytes each.
_PART_ROWS: Final = 4096

Groups = Mapping[str, Part]


@dataclass(frozen=True, slots=True)
class Sender:
    """Whose a message is."""

    agent: str
    """32 hex digits, of the spool: the same after a restart."""
    name: str
    ensemble: str
    run: str
    """32 hex digits, of the process."""


@dataclass(slots=True)
class Message:
    sender: Sender
    number: int
    """1, 2, ... of an agent, over all its runs."""
    sent_ns: int
    lost: int
    """Messages that this agent's spool had no room for, so far."""
    coverage: dict[str, Any]
    """Of this run, up to now."""
    windows: list[tuple[int, str, Part]] = field(default_factory=list)
    """Second, grouping, rows."""
    events: list[tuple[str, pa.RecordBatch]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a message as bytes, with its line of the header."""

    line: list[Any]
    data: bytes


def window_pieces(second: int, groups: Groups) -> list[Piece]:
    """Of a window. One that is too large for a message keeps fewer keys; the others are a rest."""
    pieces = []
    for by, part in groups.items():
        data, keys = pack(part), len(part.keys)
        while len(data) > MAX_BYTES // 2 and keys > 1:
            keys //= 2
            data = pack(part.coarse(keys, 1))
        pieces.append(Piece(["window", second, by, len(data)], data))
    return pieces


def event_pieces(kind: str, batch: pa.RecordBatch) -> list[Piece]:
    """Of a batch of events, in as many pieces as it takes."""
    pieces = []
    for at in range(0, batch.num_rows, _PART_ROWS):
        pieces += _event_pieces(kind, batch.slice(at, _PART_ROWS))
    return pieces


def _event_pieces(kind: str, batch: pa.RecordBatch) -> list[Piece]:
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd", use_threads=False)
    # Dictionaries hold what earlier rows of the batch held, too.
    plain = _plain(batch)
    with pa.ipc.new_stream(sink, plain.schema, options=options) as writer:
        writer.write_batch(plain)
    data = sink.getvalue().to_pybytes()
    if len(data) > MAX_BYTES // 2 and batch.num_rows > 1:
        half = batch.num_rows // 2
        return [*_event_pieces(kind, batch.slice(0, half)), *_event_pieces(kind, batch.slice(half))]
    return [Piece(["events", kind, len(data)], data)]


def _plain(batch: pa.RecordBatch) -> pa.RecordBatch:
    columns = [
        column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def encode(
    sender: Sender,
    number: int,
    sent_ns: int,
    lost: int,
    coverage: Mapping[str, Any],
    pieces: list[Piece],
) -> bytes:
    """A message's bytes."""
    header = {
        "agent": sender.agent,
        "name": sender.name,
        "ensemble": sender.ensemble,
        "run": sender.run,
        "number": number,
        "sent_ns": sent_ns,
        "lost": lost,
        "coverage": dict(coverage),
        "parts": [piece.line for piece in pieces],
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    return b"".join([_HEAD.pack(_MAGIC, len(text)), text, *(piece.data for piece in pieces)])


def bundles(pieces: list[Piece]) -> list[list[Piece]]:
    """Pieces, as many in each as fit into a message."""
    made: list[list[Piece]] = [[]]
    size = 0
    for piece in pieces:
        if made[-1] and (size + len(piece.data) > MAX_BYTES // 2 or len(made[-1]) >= 512):
            made.append([])
            size = 0
        made[-1].append(piece)
        size += len(piece.data)
    return made


def decode(data: bytes) -> Message:
    """The message of some bytes. ValueError says why they are none."""
    if len(data) > 2 * MAX_BYTES or len(data) < _HEAD.size:
        raise ValueError("of a length that no message has")
    magic, length = _HEAD.unpack_from(data)
    if magic != _MAGIC or length > min(_MAX_HEADER, len(data) - _HEAD.size):
        raise ValueError("not a message of an agent")
    at = _HEAD.size + length
    try:
        header = json.loads(data[_HEAD.size : at])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"header: {error}") from None
    if not isinstance(header, dict):
        raise ValueError("header: no object")
    message = Message(
        Sender(
            _text(header, "agent", _ID),
            _text(header, "name", NAME),
            _text(header, "ensemble", NAME),
            _text(header, "run", _ID),
        ),
        _number(header, "number"),
        _number(header, "sent_ns"),
        _number(header, "lost"),
        _coverage(header.get("coverage")),
    )
    parts = header.get("parts")
    if not isinstance(parts, list) or len(parts) > _MAX_PARTS:
        raise ValueError("parts: no list, or too long")
    for line in parts:
        if not isinstance(line, list) or len(line) < 3 or not _is_number(line[-1]):
            raise ValueError("a part that is none")
        end = at + line[-1]
        if end > len(data):
            raise ValueError("parts are longer than the message")
        _part(message, line, data[at:end])
        at = end
    if at != len(data):
        raise ValueError("more bytes than parts")
    return message


def _part(message: Message, line: list[Any], data: bytes) -> None:
    match line:
        case ["window", int(second), str(by), _] if by in WINDOW_GROUPINGS:
            if not -(1 << 40) < second < 1 << 40:
                raise ValueError("a window of no time")
            message.windows.append((second, by, unpack(data)))
        case ["events", str(kind), _] if kind in SCHEMAS:
            message.events.append((kind, _batch(kind, data)))
        case _:
            raise ValueError("a part of an unknown kind")


def _batch(kind: str, data: bytes) -> pa.RecordBatch:
    """Events, with the columns that this version knows; those that the sender did not are null."""
    try:
        with pa.ipc.open_stream(data) as reader:
            sent = reader.read_next_batch()
        sent.validate(full=True)
        columns = []
        for wanted in SCHEMAS[kind]:
            at = sent.schema.get_field_index(wanted.name)
            plain = wanted.type
            if pa.types.is_dictionary(plain):
                plain = plain.value_type
            column = pa.nulls(sent.num_rows, plain) if at < 0 else sent.column(at).cast(plain)
            if not wanted.nullable and column.null_count:
                raise ValueError(f"{wanted.name} is null")
            columns.append(column)
    except (pa.ArrowException, StopIteration, OSError) as error:
        raise ValueError(f"events: {error}") from None
    return pa.RecordBatch.from_arrays(columns, names=SCHEMAS[kind].names)


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_NUMBER


def _number(header: Mapping[str, Any], name: str) -> int:
    value = header.get(name)
    if not isinstance(value, int) or not _is_number(value):
        raise ValueError(f"{name}: no number")
    return value


def _text(header: Mapping[str, Any], name: str, form: re.Pattern[str]) -> str:
    value = header.get(name)
    if not isinstance(value, str) or not form.fullmatch(value):
        raise ValueError(f"{name}: not what it is to be")
    return value


def _coverage(value: Any, depth: int = 0) -> dict[str, Any]:
    """Numbers, nulls, and objects of them, a level deep; what else there is is left out."""
    if not isinstance(value, dict) or len(value) > 200:
        raise ValueError("coverage: no object, or too large")
    found: dict[str, Any] = {}
    for key, one in value.items():
        if one is None or _is_number(one):
            found[key[:64]] = one
        elif isinstance(one, dict) and depth == 0:
            found[key[:64]] = _coverage(one, 1)
    return found
