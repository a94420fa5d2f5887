"""Single things, as the API answers: sessions, clients, the slow log, znodes, watches.

As :mod:`zktrace.web.views`, of which this is the other half.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from zktrace.analysis.stats_result import merge_rows
from zktrace.store.part import WATCH_EVENTS, shown, us
from zktrace.store.picture import Picture, Span
from zktrace.store.sessions import STATES, Session
from zktrace.store.shape import JUTE_MAXBUFFER, SHOWN
from zktrace.store.verdict import RULE, verdict
from zktrace.store.watches import HERD_SESSIONS
from zktrace.web.models import ZnodeRow
from zktrace.web.views import Matching, Object, seconds_of, stats_row, window
from zktrace.wire.errors import error_name

if TYPE_CHECKING:
    from zktrace.analysis.filter import Filter

_SECOND: Final = 1_000_000_000
_MASK: Final = (1 << 64) - 1


def hex_session(value: int | None) -> str | None:
    return None if value is None else f"0x{value & _MASK:016x}"


def hex_zxid(value: int | None) -> str | None:
    return None if value is None else f"0x{value & _MASK:x}"


def session_row(one: Session, now_ns: int) -> Object:
    judged = verdict(one)
    return {
        "session": hex_session(one.id),
        "state": one.state,
        "client": one.client,
        "server": one.server,
        "timeout_ms": one.timeout_ms,
        "first_seen_ns": one.first_ns,
        "last_seen_ns": one.last_ns,
        "idle_ms": round(max(now_ns - one.last_ns, 0) / 1e6, 3),
        "connects": one.connects,
        "moves": one.moves,
        "requests": one.requests,
        "errors": one.errors,
        "watch_events": one.watch_events,
        "near_misses": one.near_misses,
        "silence_ms": round(one.silence_ns / 1e6, 3),
        "silence_at_ns": one.silence_at_ns,
        "silence_percent": one.silence_percent(),
        "silent": None if judged is None else judged.who,
        "silent_why": None if judged is None else judged.why,
    }


def sessions(
    picture: Picture, span_name: str, limit: int, sort: str, where: Filter | None
) -> Object:
    span = picture.span(span_name)
    wanted = Matching(picture, span, where).sessions() if where is not None else None
    since = None if span.whole else span.start * _SECOND
    ids = None if wanted is None else sorted(wanted)
    with picture.asking():
        now = picture.now_ns()
        found, groups = picture.kept.sessions(sort, now, since, ids, None, limit)
        counts, forgotten = picture.kept.session_states(now)
    states = dict(zip(STATES, counts, strict=True))
    return {
        "window": window(span),
        "groups": groups,
        "forgotten": forgotten,
        "expired": states["expired"],
        "states": states,
        "rule": RULE,
        "rows": [session_row(Session.of(raw, now), now) for raw in found],
    }


def _detail(picture: Picture, span: Span, expression: str, limit: int) -> Object:
    from zktrace.analysis.filter import compile_filter

    found = Matching(picture, span, compile_filter(expression))
    by = found.stats(("op", "path", "server"))
    total = merge_rows(by["server"]) if by["server"] else None

    def part(name: str) -> list[Object]:
        listed = found.list(name, by[name], limit, "requests")["rows"]
        if name == "path":
            listed = [{**row, "below": False, "children": 0} for row in listed]
        rows_of: list[Object] = listed
        return rows_of

    return {
        "total": {**stats_row(total), "in_flight": found.in_flight()} if total else None,
        "events": found.events,
        "complete": found.complete,
        "ops": part("op"),
        "paths": part("path"),
        "servers": part("server"),
    }


def session(picture: Picture, session_id: int, limit: int) -> Object | None:
    """One session; None: not known."""
    span = picture.span("all")
    signed = session_id - (1 << 64) if session_id >> 63 else session_id
    one = picture.session(signed)
    if one is None:
        return None
    with picture.asking():
        now = picture.now_ns()
        slowest, _ = picture.kept.slow(None, "latency", None)
    entries = [entry for entry in slowest if entry["session"] == signed]
    detail = _detail(picture, span, f"session == {hex_session(signed)}", limit)
    return {
        "session": session_row(one, now),
        "timeline": one.events,
        "total": detail["total"],
        "events": detail["events"],
        "complete": detail["complete"],
        "ops": detail["ops"],
        "paths": detail["paths"],
        "slow": [slow_row(entry) for entry in entries[:limit]],
    }


def client(picture: Picture, address: str, span_name: str, limit: int) -> Object | None:
    """One client by its address; None: nothing was seen of it."""
    span = picture.span(span_name)
    part, _ = picture.rows("client", span)
    at = [i for i, key in enumerate(part.keys) if key == (address, False)]
    detail = _detail(picture, span, f"client == {address}", limit)
    with picture.asking():
        now = picture.now_ns()
        own, _ = picture.kept.sessions("last_seen", now, None, None, address, limit)
        slowest, _ = picture.kept.slow(None, "latency", None)
    entries = [entry for entry in slowest if _address(entry["client"]) == address]
    if not at and not own and detail["total"] is None:
        return None
    total = shown(part.take(np.array(at)), seconds_of(picture, span))[0] if at else None
    return {
        "client": address,
        "window": window(span),
        **detail,
        "total": total,
        "sessions": [session_row(Session.of(raw, now), now) for raw in own],
        "slow": [slow_row(entry) for entry in entries[:limit]],
    }


def _address(endpoint: str | None) -> str | None:
    return None if endpoint is None else endpoint.rpartition(":")[0].strip("[]")


# -- the slow log


def slow_row(entry: Object) -> Object:
    largest = entry["largest"]
    return {
        **{key: entry[key] for key in ("seq", "ts_ns", "op", "path", "client", "server")},
        "session": hex_session(entry["session"]),
        "xid": entry["xid"],
        "zxid": hex_zxid(entry["zxid"]),
        "error": entry["error"],
        "error_name": None if entry["error"] is None else error_name(entry["error"]),
        "latency_us": us(entry["latency_ns"]),
        "request_bytes": entry["request_bytes"],
        "reply_bytes": entry["reply_bytes"],
        "outstanding": entry["outstanding"],
        "beside": [_company(one) for one in entry["beside"]],
        "largest_before": None if largest is None else _company(largest),
        "largest_before_bytes": 0 if largest is None else _size(largest),
    }


def _size(entry: Object) -> int:
    return max(entry["request_bytes"] or 0, entry["reply_bytes"] or 0)


def _company(entry: Object) -> Object:
    latency = entry["latency_ns"]
    return {
        **{key: entry[key] for key in ("seq", "ts_ns", "op", "path")},
        "latency_us": None if latency is None else us(latency),
        "request_bytes": entry["request_bytes"],
        "reply_bytes": entry["reply_bytes"],
    }


def slow(picture: Picture, span_name: str, limit: int, sort: str, where: Filter | None) -> Object:
    span = picture.span(span_name)
    bounds = None if span.whole else (span.start * _SECOND, span.end * _SECOND)
    with picture.asking():
        entries, groups = picture.kept.slow(bounds, sort, None if where is not None else limit)
    if where is not None and entries:
        import pyarrow as pa

        from zktrace.analysis.tables import SCHEMAS

        schema = SCHEMAS["exchanges"]
        known = [{**entry, "state": "complete"} for entry in entries]
        columns = [
            pa.array([entry.get(field.name) for entry in known], type=field.type)
            for field in schema
        ]
        batch = pa.RecordBatch.from_arrays(columns, schema=schema)
        mask = where.mask("exchanges", batch).to_pylist()
        entries = [entry for entry, chosen in zip(entries, mask, strict=True) if chosen]
        groups = len(entries)
    return {
        "window": window(span),
        "groups": groups,
        "rows": [slow_row(entry) for entry in entries[:limit]],
    }


# -- znodes


def znodes(picture: Picture, limit: int, sort: str, where: Filter | None) -> Object:
    """The znodes with most data, most children, and the largest messages."""
    with picture.asking():
        shape = picture.kept.shape(SHOWN)
    rows: dict[str, Object] = {}
    for kind, name in (("data", "data_bytes"), ("children", "children"), ("messages", "message")):
        for path, value, ts_ns, op in shape[kind]:
            row = rows.setdefault(path, dict.fromkeys(ZnodeRow.model_fields) | {"path": path})
            if kind == "messages":
                row["message_bytes"], row["message_at_ns"], row["message_op"] = value, ts_ns, op
            else:
                row[name], row[f"{kind}_at_ns"] = value, ts_ns
    found = list(rows.values())
    if where is not None:
        chosen = _paths_matching(where, list(rows))
        found = [row for row in found if row["path"] in chosen]
    for row in found:
        largest = max(row["data_bytes"] or 0, row["message_bytes"] or 0)
        row["percent"] = round(largest * 100 / JUTE_MAXBUFFER, 1)
    by = {"children": "children", "message": "message_bytes"}.get(sort, "data_bytes")
    found.sort(key=lambda row: (-(row[by] or 0), -row["percent"], row["path"]))
    return {"groups": len(found), "jute_maxbuffer": JUTE_MAXBUFFER, "rows": found[:limit]}


# -- watches


def watches(
    picture: Picture, span_name: str, limit: int, sort: str, where: Filter | None
) -> Object:
    span = picture.span(span_name)
    since = None if span.whole else span.start * _SECOND
    most = limit if where is None else None
    counted: list[tuple[str, int | None, int]]
    with picture.asking():
        kept = picture.kept
        found, groups = kept.watch_paths(sort, most if span.whole else 0)
        counted = [(path, registered, fired) for path, registered, fired in found]
        writes = kept.watch_writes(since, most)
        known, holders = kept.watch_counts(), kept.watch_most(limit)
    if not span.whole:
        part, _ = picture.rows("path", span)
        fired_now = part.numbers[:, WATCH_EVENTS].tolist()
        counted = [
            (key, None, n)
            for (key, rest), n in zip(part.keys, fired_now, strict=True)
            if n and not rest and key is not None
        ]
        counted.sort(key=lambda one: (0 if sort == "key" else -one[2], one[0]))
        groups = len(counted)
    if where is not None:
        chosen = _paths_matching(where, [path for path, _, _ in counted])
        counted = [one for one in counted if one[0] in chosen]
        chosen = _paths_matching(where, [write["path"] for write in writes])
        writes = [write for write in writes if write["path"] in chosen]
        groups = len(counted)
    return {
        "window": window(span),
        **{name: known[name] for name in ("registered", "restored", "fired")},
        "groups": groups,
        "rows": [
            {"path": path, "registered": registered, "fired": fired}
            for path, registered, fired in counted[:limit]
        ],
        "writes": [
            {
                "zxid": hex_zxid(write["zxid"]),
                **{
                    key: write[key]
                    for key in ("exact", "path", "op", "client", "kinds", "events", "sessions")
                },
                "herd": write["sessions"] >= HERD_SESSIONS,
                "rereads": write["rereads"],
                "reread_bytes": write["reread_bytes"],
                "bytes": write["bytes"],
                "first_ns": write["first_ns"],
                "spread_ms": round((write["last_ns"] - write["first_ns"]) / 1e6, 3),
            }
            for write in writes[:limit]
        ],
        "outstanding": {
            "watches": known["outstanding"],
            "not_kept": known["not_kept"],
            "sessions": [{"session": hex_session(one), "watches": n} for one, n in holders],
            "growing": [
                {"session": hex_session(one), "before": before, "now": now, "seconds": seconds}
                for one, before, now, seconds in known["growing"]
            ],
        },
        "forgotten_paths": known["forgotten_paths"],
        "forgotten_writes": known["forgotten_writes"],
    }


def _paths_matching(where: Filter, known: list[str]) -> set[str]:
    """The paths for which a filter selects a watch event that has nothing but the path."""
    if not known:
        return set()
    import pyarrow as pa

    from zktrace.analysis.tables import SCHEMAS

    schema = SCHEMAS["watch_events"]
    columns = [
        pa.array(known if field.name == "path" else [None] * len(known), type=field.type)
        for field in schema
    ]
    batch = pa.RecordBatch.from_arrays(
        columns, schema=pa.schema([field.with_nullable(True) for field in schema])
    )
    mask = where.mask("watch_events", batch).to_pylist()
    return {path for path, chosen in zip(known, mask, strict=True) if chosen}
