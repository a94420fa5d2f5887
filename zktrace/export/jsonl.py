"""Events as JSON lines, the form that programs read (``zktrace decode --json``).

This is the definition of the bytes; the native engine writes the same ones itself (``json.rs``),
and a test compares them. Rules, beyond the key names:

* One object a line, no blanks, keys in a fixed order, UTF-8. A kind of event always has the same
keys, and
  an exchange those of its op, a quorum packet those of its type: what could be known of an op but
  was not seen is null, what an op cannot have is left out.
* Strings hold characters as they are, but escaped are: quotes, backslashes, control characters
(C0, DEL,
  C1), line and paragraph separators, marks that turn the direction of text, U+FEFF. So a line is a
  line for every reader, and no znode's name can drive a terminal.
* Zxids and session ids are hexadecimal strings, unsigned; session ids (and a Stat's
``ephemeral_owner``,
  which is one) have 16 digits.
* ``latency_us`` has up to three decimals, an integer where it is whole.

It knows rows (``zktrace.analysis.tables``) and the opcode table, not where they come from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from operator import itemgetter
from typing import Any, Final

import pyarrow as pa

from zktrace.export.form import PACKET_KEYS, extra_keys
from zktrace.wire.errors import error_name

_MASK: Final = 0xFFFF_FFFF_FFFF_FFFF

_ESCAPED: Final = re.compile('["\\\\\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff]')
_SHORT: Final = {
    '"': '\\"',
    "\\": "\\\\",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
}


def _escape(match: re.Match[str]) -> str:
    character = match.group()
    return _SHORT.get(character) or f"\\u{ord(character):04x}"


def text(value: str | None) -> str:
    """A JSON string."""
    return "null" if value is None else f'"{_ESCAPED.sub(_escape, value)}"'


def number(value: int | None) -> str:
    return "null" if value is None else str(value)


def boolean(value: bool | None) -> str:
    return "null" if value is None else "true" if value else "false"


def zxid(value: int | None) -> str:
    return "null" if value is None else f'"0x{value & _MASK:x}"'


def session(value: int | None) -> str:
    return "null" if value is None else f'"0x{value & _MASK:016x}"'


def latency_us(ns: int | None) -> str:
    """Nanoseconds as microseconds."""
    if ns is None:
        return "null"
    whole, rest = divmod(abs(ns), 1000)
    sign = "-" if ns < 0 else ""
    return f"{sign}{whole}.{rest:03d}".rstrip("0") if rest else f"{sign}{whole}"


def _object(members: Iterable[str]) -> str:
    return f"{{{','.join(members)}}}"


def _sub(value: list[dict[str, Any]] | None) -> str:
    if value is None:
        return "null"
    items = (
        f'{{"op":{text(item["op"])},"path":{text(item["path"])},"error":{number(item["error"])}}}'
        for item in value
    )
    return f"[{','.join(items)}]"


def _watches(value: dict[str, Any] | None) -> str:
    if value is None:
        return "null"
    return _object(f'"{kind}":{number(count)}' for kind, count in value.items())


def _stat(value: dict[str, Any] | None) -> str:
    if value is None:
        return "null"
    return _object(f'"{key}":{_STAT.get(key, number)(value[key])}' for key in value)


_STAT: Final[Mapping[str, Callable[[Any], str]]] = {
    "czxid": zxid,
    "mzxid": zxid,
    "pzxid": zxid,
    "ephemeral_owner": session,
}

#: How the values of :data:`zktrace.export.form.KEYS` are written.
_EXTRA: Final[Mapping[str, Callable[[Any], str]]] = {
    "flags": number,
    "mode": number,
    "version": number,
    "ttl": number,
    "data_length": number,
    "children": number,
    "stat": _stat,
    "created_path": text,
    "sub": _sub,
    "watches": _watches,
    "requested_timeout_ms": number,
    "timeout_ms": number,
    "last_zxid_seen": zxid,
    "read_only": boolean,
    "protocol_version": number,
}


@cache
def _named_error(code: int) -> str:
    return f'{code},"error_name":{text(error_name(code))}'


def _values(batch: pa.RecordBatch, name: str, write: Callable[[Any], str]) -> list[str]:
    """A column as JSON values. Dictionaries are written once per batch, not once per row."""
    column = batch.column(name)
    if pa.types.is_dictionary(column.type):
        written = [write(value) for value in column.dictionary.to_pylist()]
        return ["null" if i is None else written[i] for i in column.indices.to_pylist()]
    return [write(value) for value in column.to_pylist()]


def _flows(batch: pa.RecordBatch) -> Iterable[str]:
    """Members that say where: flow, of client and server."""
    pairs = zip(batch.column("client").to_pylist(), batch.column("server").to_pylist(), strict=True)
    known: dict[tuple[str | None, str | None], str] = {}
    for pair in pairs:
        flow = known.get(pair)
        if flow is None:
            client, server = pair
            flow = known[pair] = text(None if None in pair else f"{client}>{server}")
        yield flow


_Line = tuple[int, str]


def _exchanges(batch: pa.RecordBatch) -> Iterable[_Line]:
    ops = batch.column("op").to_pylist()
    extras: dict[str, list[str]] = {
        key: _values(batch, key, _EXTRA[key])
        for key in {key for op in set(ops) for key in extra_keys(op)}
    }
    errors = [
        'null,"error_name":null' if code is None else _named_error(code)
        for code in batch.column("error").to_pylist()
    ]
    rows = zip(
        batch.column("seq").to_pylist(),
        batch.column("ts_ns").to_pylist(),
        _flows(batch),
        ops,
        _values(batch, "op", text),
        _values(batch, "opcode", number),
        _values(batch, "xid", number),
        _values(batch, "client", text),
        _values(batch, "server", text),
        _values(batch, "session", session),
        _values(batch, "path", text),
        _values(batch, "watch", boolean),
        errors,
        _values(batch, "zxid", zxid),
        _values(batch, "latency_ns", latency_us),
        _values(batch, "request_bytes", number),
        _values(batch, "reply_bytes", number),
        _values(batch, "state", text),
        strict=True,
    )
    for i, row in enumerate(rows):
        seq, ts, flow, op, op_text, opcode, xid, client, server, owner, path = row[:11]
        watch, error, reply_zxid, latency, request_bytes, reply_bytes, state = row[11:]
        more = "".join(f',"{key}":{extras[key][i]}' for key in extra_keys(op))
        yield (
            seq,
            f'{{"kind":"exchange","ts_ns":{ts},"flow":{flow},"op":{op_text},"opcode":{opcode}'
            f',"xid":{xid},"client":{client},"server":{server},"session":{owner},"path":{path}'
            f',"watch":{watch},"error":{error},"zxid":{reply_zxid},"latency_us":{latency}'
            f',"request_bytes":{request_bytes},"reply_bytes":{reply_bytes},"state":{state}{more}}}',
        )


#: How the values of :data:`zktrace.export.form.PACKET_KEYS` are written.
_PACKET: Final[Mapping[str, Callable[[Any], str]]] = {
    "session": session,
    "cxid": number,
    "txn_type": text,
    "path": text,
    "error": number,
    "sid": number,
    "epoch": number,
    "timeout_ms": number,
    "valid": boolean,
    "sessions": number,
    "sub": _sub,
    "snapshot_bytes": number,
    "snapshot_nodes": number,
}


def _quorum(batch: pa.RecordBatch) -> Iterable[_Line]:
    types = batch.column("type").to_pylist()
    extras: dict[str, list[str]] = {
        key: _values(batch, key, _PACKET[key])
        for key in {key for one in set(types) for key in PACKET_KEYS.get(one, ())}
    }
    rows = zip(
        batch.column("seq").to_pylist(),
        batch.column("ts_ns").to_pylist(),
        _flows(batch),
        types,
        _values(batch, "type", text),
        _values(batch, "direction", text),
        _values(batch, "zxid", zxid),
        _values(batch, "bytes", number),
        strict=True,
    )
    for i, (seq, ts, flow, name, kind, direction, packet_zxid, size) in enumerate(rows):
        more = "".join(f',"{key}":{extras[key][i]}' for key in PACKET_KEYS.get(name, ()))
        yield (
            seq,
            f'{{"kind":"quorum","ts_ns":{ts},"flow":{flow},"type":{kind},"direction":{direction}'
            f',"zxid":{packet_zxid},"bytes":{size}{more}}}',
        )


# The other kinds are few, so that one table of keys and one loop do for all.
_SIMPLE: Final[Mapping[str, tuple[str, Mapping[str, Callable[[Any], str]]]]] = {
    "watch_events": (
        "watch_event",
        {
            "event": text,
            "keeper_state": text,
            "path": text,
            "zxid": zxid,
            "client": text,
            "server": text,
            "session": session,
            "bytes": number,
        },
    ),
    "connections": (
        "connection",
        {"role": text, "event": text, "client": text, "server": text, "detail": text},
    ),
    "four_letter": (
        "four_letter",
        {"word": text, "client": text, "server": text, "reply_bytes": number},
    ),
    "anomalies": (
        "anomaly",
        {
            "reason": text,
            "direction": text,
            "bytes": number,
            "detail": text,
            "client": text,
            "server": text,
        },
    ),
    "elections": (
        "election",
        {
            "type": text,
            "direction": text,
            "sid": number,
            "address": text,
            "state": text,
            "leader": number,
            "zxid": zxid,
            "election_epoch": number,
            "peer_epoch": number,
            "version": number,
            "bytes": number,
        },
    ),
}


def _simple(kind: str, batch: pa.RecordBatch) -> Iterable[_Line]:
    name, keys = _SIMPLE[kind]
    columns = [_values(batch, key, write) for key, write in keys.items()]
    head = zip(
        batch.column("seq").to_pylist(),
        batch.column("ts_ns").to_pylist(),
        _flows(batch),
        strict=True,
    )
    for (seq, ts, flow), values in zip(head, zip(*columns, strict=True), strict=True):
        members = ",".join(f'"{key}":{value}' for key, value in zip(keys, values, strict=True))
        yield seq, f'{{"kind":"{name}","ts_ns":{ts},"flow":{flow},{members}}}'


def lines(batches: Mapping[str, pa.RecordBatch]) -> list[str]:
    """The rows of some batches (one per kind) in order, one JSON object each, without line ends."""
    numbered: list[_Line] = []
    for kind, batch in batches.items():
        if kind == "exchanges":
            numbered.extend(_exchanges(batch))
        elif kind == "quorum":
            numbered.extend(_quorum(batch))
        else:
            numbered.extend(_simple(kind, batch))
    numbered.sort(key=itemgetter(0))
    return [line for _, line in numbered]
