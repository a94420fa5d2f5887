"""Writes as spans for other tools: OpenTelemetry (OTLP/JSON) and Chrome's trace events (Perfetto).

Both are made of the objects that ``zktrace trace --json`` prints, one write after another, so that
a file of any size is written in little memory.

OTLP: lines of JSON, each an ``ExportTraceServiceRequest`` of the protocol's JSON mapping
(opentelemetry-proto, "JSON Protobuf Encoding": ids in hex, 64-bit integers as strings, enums as
numbers), the form that collectors' file receivers read and that can be posted line by line to
``/v1/traces``. A write is a trace: a root span for what the client waited, a span per stage, one
per follower's ACK. Ids are digests of what names the write, so that a capture gives the same ones
again.

Trace events: the JSON object format, times in microseconds after ``otherData.start_ns``. Writes
overlap, so they are nestable async events; each place is a process.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from itertools import islice
from typing import Any, Final

_Object = Mapping[str, Any]

#: Writes in one line of OTLP: some hundred kilobytes, below the 4 MiB that receivers take.
_BATCH: Final = 200

_INTERNAL, _SERVER, _CLIENT = 1, 2, 3
_ERROR: Final = 2

_SCOPE: Final = "zktrace"


def otlp_lines(writes: Iterable[_Object], version: str) -> Iterator[str]:
    """Lines of a file in OTLP/JSON."""
    rest = iter(writes)
    while batch := list(islice(rest, _BATCH)):
        spans: dict[str, list[dict[str, Any]]] = {}
        for write in batch:
            for place, span in _spans(write):
                spans.setdefault(place, []).append(span)
        request = {
            "resourceSpans": [
                {
                    "resource": {"attributes": _attributes(_resource(place))},
                    "scopeSpans": [{"scope": {"name": _SCOPE, "version": version}, "spans": found}],
                }
                for place, found in spans.items()
            ]
        }
        yield _dump(request)


def _resource(place: str) -> dict[str, Any]:
    kind, _, address = place.partition(" ")
    name = "zookeeper-client" if kind == "client" else "zookeeper"
    return {"service.name": name, "service.instance.id": address or "unknown"}


def _spans(write: _Object) -> Iterator[tuple[str, dict[str, Any]]]:
    """The spans of a write, each with whose it is."""
    names = [write[key] for key in ("flow", "session", "cxid", "zxid", "ts_ns", "op")]
    seed = json.dumps(names).encode()
    trace = blake2b(seed, digest_size=16).hexdigest()
    number = 0

    def span(name: str, kind: int, start_us: float, us: float, **more: Any) -> dict[str, Any]:
        nonlocal number
        number += 1
        made = {
            "traceId": trace,
            "spanId": blake2b(seed, digest_size=8, salt=number.to_bytes(8, "big")).hexdigest(),
            "name": name,
            "kind": kind,
            "startTimeUnixNano": str(write["ts_ns"] + round(start_us * 1000)),
            "endTimeUnixNano": str(write["ts_ns"] + round((start_us + us) * 1000)),
        }
        return made | more

    failed = write["error"] not in (0, None)
    root = span(
        str(write["op"] or "txn"),
        _CLIENT if write["client"] else _INTERNAL,
        0,
        write["total_us"],
        attributes=_attributes(_root(write)),
        status={"code": _ERROR, "message": str(write["error_name"])} if failed else {},
    )
    server = f"server {write['server']}" if write["server"] else "server"
    leader = f"server {write['leader']}" if write["leader"] else "server"
    yield (f"client {_host(write['client'])}" if write["client"] else server), root
    parent = {"parentSpanId": root["spanId"]}
    places = {"leader": leader, "quorum": leader, "commit": leader}
    for stage in write["stages"]:
        made = span(
            stage["stage"],
            _INTERNAL,
            stage["start_us"],
            stage["us"],
            attributes=_attributes({"zookeeper.from": stage["from"], "zookeeper.to": stage["to"]}),
        )
        yield places.get(stage["stage"], server), made | parent
        if stage["stage"] != "quorum":
            continue
        for ack in write["acks"]:
            if ack["latency_us"] is None or ack["syncing"]:
                continue
            told = {
                "zookeeper.sid": ack["sid"],
                "zookeeper.made_quorum": ack["made_quorum"],
                "zookeeper.network_us": ack["network_us"],
            }
            one = span(
                "ack",
                _SERVER,
                ack["proposal_us"],
                ack["latency_us"],
                attributes=_attributes(told),
            )
            yield f"server {ack['learner']}", one | {"parentSpanId": made["spanId"]}


def _root(write: _Object) -> dict[str, Any]:
    critical = write["critical"] or {}
    return {
        "db.system.name": "zookeeper",
        "db.operation.name": write["op"],
        "server.address": _host(write["server"]),
        "client.address": _host(write["client"]),
        "zookeeper.path": write["path"],
        "zookeeper.session": write["session"],
        "zookeeper.cxid": write["cxid"],
        "zookeeper.zxid": write["zxid"],
        "zookeeper.origin": write["origin"],
        "zookeeper.server_role": write["server_role"],
        "zookeeper.leader": write["leader"],
        "zookeeper.complete": write["complete"],
        "zookeeper.missing": ", ".join(write["missing"]) or None,
        "zookeeper.longest": critical.get("part"),
        "zookeeper.longest_at": critical.get("where"),
        "db.response.status_code": write["error_name"],
    }


def _attributes(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = []
    for key, value in values.items():
        if value is None:
            continue
        if isinstance(value, bool):
            one: dict[str, Any] = {"boolValue": value}
        elif isinstance(value, int):
            one = {"intValue": str(value)}
        elif isinstance(value, float):
            one = {"doubleValue": value}
        else:
            one = {"stringValue": str(value)}
        found.append({"key": key, "value": one})
    return found


def _host(address: str | None) -> str | None:
    return None if address is None else address.rpartition(":")[0].strip("[]")


def _dump(one: object) -> str:
    # DEL is the one character that terminals act on and JSON may hold.
    return json.dumps(one, separators=(",", ":")).replace("\x7f", "\\u007f")


# ---- trace events


def trace_events(writes: Iterable[_Object]) -> Iterator[str]:
    """Pieces of a file in Chrome's trace event format, which Perfetto and chrome://tracing read."""
    pids: dict[str, int] = {}
    start: int | None = None
    yield '{"displayTimeUnit":"ms","traceEvents":[\n'
    first = True
    for number, write in enumerate(writes):
        if start is None:
            start = int(write["ts_ns"])
        for event in _events(write, number, start, pids):
            yield ("" if first else ",\n") + _dump(event)
            first = False
    for place, pid in pids.items():
        event = {"ph": "M", "name": "process_name", "pid": pid, "tid": 0, "args": {"name": place}}
        yield ("" if first else ",\n") + _dump(event)
        first = False
    yield f'\n],"otherData":{_dump({"start_ns": str(start or 0), "made_by": "zktrace"})}}}\n'


def _events(
    write: _Object, number: int, start: int, pids: dict[str, int]
) -> Iterator[dict[str, Any]]:
    base = (int(write["ts_ns"]) - start) / 1000

    def pid(place: str) -> int:
        return pids.setdefault(place, len(pids) + 1)

    def pair(
        name: str, place: str, ident: str, at: float, us: float, args: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        common = {"cat": "write", "id": ident, "pid": pid(place), "tid": 0, "name": name}
        begin = common | {"ph": "b", "ts": round(base + at, 3), "args": dict(args)}
        return begin, common | {"ph": "e", "ts": round(base + at + us, 3)}

    server = write["server"] or write["leader"] or "unknown server"
    title = f"{write['op']} {write['path']}" if write["path"] else str(write["op"])
    keys = ("session", "cxid", "zxid", "client", "leader", "latency_us", "error_name", "missing")
    args = {key: write[key] for key in keys}
    ident = f"w{number}"
    begin, end = pair(title, server, ident, 0, write["total_us"], args)
    yield begin
    for stage in write["stages"]:
        told = {"from": stage["from"], "to": stage["to"]}
        yield from pair(stage["stage"], server, ident, stage["start_us"], stage["us"], told)
    yield end
    for ack in write["acks"]:
        if ack["latency_us"] is None or ack["syncing"]:
            continue
        who = f"learner {ack['learner']}"
        who += "" if ack["sid"] is None else f" (sid {ack['sid']})"
        told = {"zxid": write["zxid"], "made_quorum": ack["made_quorum"]}
        told["network_us"] = ack["network_us"]
        one = f"a{number}.{ack['learner']}"
        yield from pair(f"ack {title}", who, one, ack["proposal_us"], ack["latency_us"], told)
