"""Single things, as the API answers: sessions, clients, the slow log, watches.

As :mod:`zktrace.web.views`, of which this is the other half.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa

from zktrace.analysis.filter import Filter, compile_filter
from zktrace.analysis.stats import merge_rows
from zktrace.analysis.tables import SCHEMAS
from zktrace.store.part import WATCH_EVENTS, shown, us
from zktrace.store.picture import Picture, Span
from zktrace.store.sessions import Session
from zktrace.store.verdict import RULE, verdict
from zktrace.store.watches import HERD_SESSIONS
from zktrace.web.views import Matching, Object, stats_row, window

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
    with picture.asking():
        now = picture.now_ns()
        found, groups = picture.sessions.select(sort, now, since, wanted, limit=limit)
        forgotten, states = picture.sessions.forgotten, picture.sessions.states(now)
    return {
        "window": window(span),
        "groups": groups,
        "forgotten": forgotten,
        "expired": states["expired"],
        "states": states,
        "rule": RULE,
        "rows": [session_row(one, now) for one in found],
    }


def _detail(picture: Picture, span: Span, expression: str, limit: int) -> Object:
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
        "total": stats_row(total) if total else None,
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
    with picture.asking():
        now = picture.now_ns()
        one = picture.sessions.get(signed, now)
        if one is None:
            return None
        entries = [x for x in picture.slow.entries() if x["session"] == signed]
    detail = _detail(picture, span, f"session == {hex_session(signed)}", limit)
    return {
        "session": session_row(one, now),
        "timeline": one.events,
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
        own, _ = picture.sessions.select("last_seen", now, client=address, limit=limit)
        entries = [x for x in picture.slow.entries() if _address(x["client"]) == address]
    if not at and not own and detail["total"] is None:
        return None
    total = shown(part.take(np.array(at)))[0] if at else None
    return {
        "client": address,
        "window": window(span),
        **detail,
        "total": total,
        "sessions": [session_row(one, now) for one in own],
        "slow": [slow_row(entry) for entry in entries[:limit]],
    }


def _address(endpoint: str | None) -> str | None:
    return None if endpoint is None else endpoint.rpartition(":")[0].strip("[]")


# -- the slow log


def slow_row(entry: Object) -> Object:
    return {
        **{key: entry[key] for key in ("seq", "ts_ns", "op", "path", "client", "server")},
        "session": hex_session(entry["session"]),
        "xid": entry["xid"],
        "zxid": hex_zxid(entry["zxid"]),
        "error": entry["error"],
        "error_name": entry.get("error_name"),
        "latency_us": us(entry["latency_ns"]),
        "request_bytes": entry["request_bytes"],
        "reply_bytes": entry["reply_bytes"],
        "outstanding": entry["outstanding"],
        "largest_before_bytes": entry["largest_before_bytes"],
    }


def slow(picture: Picture, span_name: str, limit: int, sort: str, where: Filter | None) -> Object:
    span = picture.span(span_name)
    with picture.asking():
        bounds = (None, None) if span.whole else (span.start, span.end)
        entries = picture.slow.entries(*bounds)
    if where is not None and entries:
        schema = SCHEMAS["exchanges"]
        known = [{**entry, "state": "complete"} for entry in entries]
        columns = [
            pa.array([entry.get(field.name) for entry in known], type=field.type)
            for field in schema
        ]
        batch = pa.RecordBatch.from_arrays(columns, schema=schema)
        mask = where.mask("exchanges", batch).to_pylist()
        entries = [entry for entry, chosen in zip(entries, mask, strict=True) if chosen]
    if sort != "latency":
        key = "ts_ns" if sort == "time" else "outstanding"
        entries.sort(key=lambda entry: -entry[key])
    return {
        "window": window(span),
        "groups": len(entries),
        "rows": [slow_row(entry) for entry in entries[:limit]],
    }


# -- watches


def watches(
    picture: Picture, span_name: str, limit: int, sort: str, where: Filter | None
) -> Object:
    span = picture.span(span_name)
    low = span.start * _SECOND
    counted: list[tuple[str, int | None, int]]
    with picture.asking():
        kept = picture.watches
        counted = [(path, one[0], one[1]) for path, one in kept.paths.items()]
        writes = [
            {**write, "kinds": dict(write["kinds"]), "sessions": len(write["sessions"])}
            for write in kept.writes.values()
            if span.whole or write["last_ns"] >= low
        ]
        sums = {name: dict(getattr(kept, name)) for name in ("registered", "restored", "fired")}
        gone = kept.forgotten_paths, kept.forgotten_writes
        ledger = kept.ledger
        most, growing = ledger.most(limit), ledger.growing()
        outstanding, overflow = len(ledger), ledger.overflow
    if not span.whole:
        part, _ = picture.rows("path", span)
        fired = part.numbers[:, WATCH_EVENTS].tolist()
        counted = [
            (key, None, n)
            for (key, rest), n in zip(part.keys, fired, strict=True)
            if n and not rest and key is not None
        ]
    if where is not None:
        chosen = _paths_matching(where, [path for path, _, _ in counted])
        counted = [one for one in counted if one[0] in chosen]
        chosen = _paths_matching(where, [write["path"] for write in writes])
        writes = [write for write in writes if write["path"] in chosen]
    by = {"fired": 2, "registered": 1}.get(sort)
    counted.sort(key=lambda one: (-(one[by] or 0) if by else 0, -one[2], -(one[1] or 0), one[0]))  # type: ignore[operator]
    writes.sort(key=lambda write: (-write["events"], write["first_ns"]))
    return {
        "window": window(span),
        **sums,
        "groups": len(counted),
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
            "watches": outstanding,
            "not_kept": overflow,
            "sessions": [{"session": hex_session(one), "watches": n} for one, n in most],
            "growing": [{**one._asdict(), "session": hex_session(one.session)} for one in growing],
        },
        "forgotten_paths": gone[0],
        "forgotten_writes": gone[1],
    }


def _paths_matching(where: Filter, known: list[str]) -> set[str]:
    """The paths for which a filter selects a watch event that has nothing but the path."""
    if not known:
        return set()
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
