"""Ground truths: what must be found in a capture, as rows with the columns of the event tables.

Three sources, all independent of zktrace: the record of the driver that made the traffic
(``NAME.json``, key ``events``), expectations written with a crafted capture (key ``expect``;
`pcaps/README.md` tells the form), and the oracle, which adds when the frames were on the wire and
speaks alone for flows that the driver did not make.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.support import oracle, zk
from tests.support.decoded import Row, signed, unjson

#: Of a truth's name, what it may be followed by in file names of captures.
SUFFIXES: Final = (".pcap", ".pcapng", ".pcap.gz", ".pcap.zst", ".pcapng.gz", ".pcapng.zst")


@dataclass(slots=True)
class Truth:
    """What a capture holds. What a row does not list is not compared."""

    exchanges: list[Row] = field(default_factory=list)
    #: rows of which one must be found (None among them: or none)
    any_of: list[list[Row | None]] = field(default_factory=list)
    watch_events: list[Row] = field(default_factory=list)
    four_letter: list[Row] | None = None
    connections: list[Row] | None = None
    #: reasons that must be there, and those that may be; None: not judged
    anomalies: set[str] | None = None
    anomalies_allowed: set[str] = field(default_factory=set)
    frames: tuple[int | None, int | None] = (None, None)
    coverage: dict[str, Any] = field(default_factory=dict)
    #: whether ``exchanges`` is all there is
    whole: bool = True
    secrets: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Sample:
    """A capture with its truth. Several files are one capture."""

    name: str
    files: tuple[Path, ...]
    truth_path: Path

    @property
    def meta(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.truth_path.read_text())
        return found

    @property
    def reference(self) -> dict[str, Any]:
        path = self.truth_path.with_suffix(".ref.json")
        return json.loads(path.read_text()) if path.exists() else {}

    def truth(self) -> Truth:
        return load(self)


def samples(directory: Path) -> list[Sample]:
    """The captures of a directory that have a truth, by name."""
    out = []
    for path in sorted(directory.glob("*.json")):
        if path.name.endswith(".ref.json") or path.name == "ports.json":
            continue
        meta = json.loads(path.read_text())
        if "files" in meta:
            files = tuple(directory / name for name in meta["files"])
        else:
            files = tuple(
                found for s in SUFFIXES if (found := directory / (path.stem + s)).exists()
            )
        if files:
            out.append(Sample(path.stem, files, path))
    return out


def _snake(stat: dict[str, int]) -> Row:
    names = {
        "ephemeralOwner": "ephemeral_owner",
        "dataLength": "data_length",
        "numChildren": "num_children",
    }
    return {names.get(key, key): signed(value) for key, value in stat.items()}


_SUB_ERRORS: Final = (0, -2)


def _from_request(event: Row) -> Row:
    """The row of a request as the driver wrote it down."""
    op = event["opName"] or ""
    row: Row = {
        "op": f"op{op}" if op.lstrip("-").isdigit() else op,
        "opcode": event["op"],
        "xid": event["xid"],
        "path": event.get("path"),
        "request_bytes": event["frameLen"],
        "state": "no_reply",
        "error": None,
        "latency_ns": None,
    }
    for mine, its in (
        ("watch", "watch"),
        ("flags", "flags"),
        ("version", "version"),
        ("ttl", "ttl"),
        ("data_length", "dataLen"),
        ("mode", "mode"),
    ):
        if its in event:
            row[mine] = event[its]
    if op in ("checkWatches", "removeWatches"):
        row["mode"] = event["type"]
    if "ops" in event:
        row["sub"] = [{"op": s["op"], "path": s.get("path")} for s in event["ops"]]
    if op.startswith("setWatches"):
        kinds = (
            ("data", "data"),
            ("exist", "exist"),
            ("child", "child"),
            ("persistent", "persistent"),
            ("persistent_recursive", "persistentRecursive"),
        )
        row["watches"] = {mine: len(event[its]) for mine, its in kinds if its in event}
    return row


def _add_reply(row: Row, event: Row) -> None:
    """What the reply tells, into the row of its request."""
    row["state"] = "complete"
    row.pop("latency_ns", None)
    row["error"] = event["err"]
    row["zxid"] = signed(int(event["zxid"], 16))
    row["reply_bytes"] = event["frameLen"]
    if event["err"] != 0:
        return
    if row["op"] in ("create", "create2", "createContainer", "createTTL"):
        row["created_path"] = event["path"]
    if row["op"] == "getData":
        row["data_length"] = event["dataLen"]
    if "stat" in event:
        row["stat"] = _snake(event["stat"])
    for key in ("children", "ephemerals"):
        if key in event:
            row["children"] = len(event[key])
    if "totalNumber" in event:
        row["children"] = event["totalNumber"]
    if "results" in event:
        for sub, result in zip(row.get("sub", []), event["results"], strict=True):
            sub["error"] = result["err"]
        bad = [r["err"] for r in event["results"] if r["err"] not in _SUB_ERRORS]
        row["error"] = bad[0] if bad else 0
        if row["op"] == "multiRead":
            del row["error"]  # the interfaces tell it of multi only; each result's is compared


def _from_driver(events: list[Row]) -> tuple[list[Row], list[Row]]:
    """Exchanges and watch events of a driver's record."""
    exchanges: list[Row] = []
    watch_events: list[Row] = []
    waiting: dict[tuple[str, int], deque[Row]] = defaultdict(deque)
    connects: dict[str, Row] = {}
    sessions: dict[str, int] = {}
    for event in events:
        if "flow" not in event:
            continue
        conn, flow = event["conn"], event["flow"].replace("->", ">")
        kind = event["kind"]
        if kind == "ConnectRequest":
            row = {
                "op": "connect",
                "opcode": -10,
                "xid": None,
                "requested_timeout_ms": event["timeOut"],
                "last_zxid_seen": event["lastZxidSeen"],
                "protocol_version": event["protocolVersion"],
                "request_bytes": event["frameLen"],
                "state": "no_reply",
                "error": None,
                "zxid": None,
                "path": None,
            }
            connects[conn] = row
        elif kind == "ConnectResponse":
            row, session = connects[conn], int(event["sessionId"], 16)
            row.update(state="complete", timeout_ms=event["timeOut"], reply_bytes=event["frameLen"])
            row["error"] = 0 if session else -112
            if session:
                row["session"] = sessions[conn] = signed(session)
            continue
        elif kind == "request":
            row = _from_request(event)
            waiting[conn, event["xid"]].append(row)
        elif kind == "response":
            if waiting[conn, event["xid"]]:
                _add_reply(waiting[conn, event["xid"]].popleft(), event)
            continue
        elif kind == "watchEvent":
            zxid = signed(int(event["zxid"], 16))
            watch_events.append(
                {
                    "flow": flow,
                    "event": zk.EVENT_NAMES[event["type"]],
                    "keeper_state": zk.STATE_NAMES[event["state"]],
                    "path": event["path"],
                    "zxid": None if zxid == -1 else zxid,
                    "bytes": event["frameLen"],
                }
                | ({"session": sessions[conn]} if conn in sessions else {})
            )
            continue
        else:
            continue
        row["flow"] = flow
        if conn in sessions:
            row["session"] = sessions[conn]
        exchanges.append(row)
    return exchanges, watch_events


def _from_pair(pair: oracle.Pair) -> Row:
    """The row of an exchange that only the oracle saw."""
    row: Row = {
        "flow": pair.flow,
        "op": None if pair.opcode is None else zk.op_name(pair.opcode),
        "opcode": pair.opcode,
        "xid": pair.xid,
        "error": pair.error,
        "zxid": pair.zxid,
    }
    if pair.session:
        row["session"] = signed(pair.session)
    if pair.request is not None and pair.opcode in zk.BEGIN_WITH_PATH:
        payload = pair.request.payload
        length = int.from_bytes(payload[8:12], "big", signed=True)
        row["path"] = payload[12 : 12 + max(0, length)].decode(errors="replace")
    if pair.opcode in (14, 22):
        del row["error"]  # it is in the body, which the oracle does not read
    return row


def _timed(row: Row, pair: oracle.Pair) -> Row:
    """A row with what the wire alone can tell."""
    row = dict(row)
    row["ts_ns"] = pair.ts_ns
    row["latency_ns"] = pair.latency_ns
    row["state"] = pair.state
    row["request_bytes"] = None if pair.request is None else len(pair.request.payload)
    row["reply_bytes"] = None if pair.reply is None else len(pair.reply.payload)
    return row


def _merge(truth: Truth, reading: oracle.Reading, check: Callable[[bool, str], None]) -> None:
    """Driver's rows and the oracle's, flow by flow in order of the requests."""
    told: dict[str, deque[Row]] = defaultdict(deque)
    for row in truth.exchanges:
        told[row["flow"]].append(row)
    merged: list[Row] = []
    for pair in reading.pairs:
        if pair.request is not None and told[pair.flow]:
            row = told[pair.flow].popleft()
            same = (row["opcode"], row["xid"]) == (pair.opcode, pair.xid)
            check(same, f"driver and wire differ at {pair.flow} xid {pair.xid}: {row}")
            if row["state"] == "no_reply" and pair.reply is not None:
                row = _from_pair(pair)  # the driver did not wait for it
            merged.append(_timed(row, pair))
        else:
            merged.append(_timed(_from_pair(pair), pair))
    truth.exchanges = merged
    by_flow: dict[str, deque[Row]] = defaultdict(deque)
    for row in truth.watch_events:
        by_flow[row["flow"]].append(row)
    events: list[Row] = []
    for frame in reading.events:
        kind, state, length = (
            int.from_bytes(frame.payload[i : i + 4], "big", signed=True) for i in (16, 20, 24)
        )
        zxid = frame.ints(">iq")[1]
        row = {
            "flow": frame.flow,
            "ts_ns": frame.ts_ns,
            "event": zk.EVENT_NAMES[kind],
            "keeper_state": zk.STATE_NAMES[state],
            "path": frame.payload[28 : 28 + length].decode(),
            "zxid": None if zxid == -1 else zxid,
            "bytes": len(frame.payload),
        }
        if by_flow[frame.flow]:
            row |= by_flow[frame.flow].popleft()
        events.append(row)
    truth.watch_events = events
    truth.four_letter = [
        {"flow": w.flow, "word": w.word} | ({"reply_bytes": w.reply_bytes} if w.whole else {})
        for w in reading.words
    ]
    truth.frames = (reading.count(True), reading.count(False))


def _moved(rows: list[Row] | None, addresses: dict[str, str]) -> list[Row] | None:
    """Rows whose flows have other addresses."""
    if rows is None or not addresses:
        return rows
    out = []
    for row in rows:
        ends = []
        for end in row["flow"].split(">"):
            host, _, port = end.rpartition(":")
            ends.append(f"{addresses.get(host, host)}:{port}")
        out.append({**row, "flow": ">".join(ends)})
    return out


def _expected(meta: Row) -> Truth:
    """The truth of a crafted capture."""
    given = meta["expect"]
    truth = Truth(secrets=meta.get("secrets_that_must_never_be_shown", []))
    truth.exchanges = [unjson(row) for row in given.get("exchanges", [])]
    truth.any_of = [
        [None if row is None else unjson(row) for row in rows] for rows in given.get("any_of", [])
    ]
    truth.watch_events = [unjson(row) for row in given.get("watch_events", [])]
    truth.four_letter = [dict(row) for row in given.get("four_letter", [])]
    truth.connections = given.get("connections")
    truth.anomalies = set(given.get("anomalies", []))
    truth.anomalies_allowed = set(given.get("anomalies_allowed", []))
    truth.coverage = given.get("coverage", {})
    frames = given.get("frames", {})
    truth.frames = (frames.get("to_server"), frames.get("to_client"))
    return truth


class Contradiction(AssertionError):
    """The driver's record and the wire do not agree: the truth itself is in doubt."""


def load(sample: Sample) -> Truth:
    """The truth of a capture."""
    meta = sample.meta
    if "expect" in meta:
        return _expected(meta)
    source, like = sample, meta
    if "same_truth_as" in meta:
        like_path = sample.truth_path.with_name(meta["same_truth_as"])
        like = json.loads(like_path.read_text())
        if meta.get("times_as") is not None:
            source = Sample("", (sample.truth_path.with_name(meta["times_as"]),), like_path)
    truth = Truth(secrets=meta.get("secrets_that_must_never_be_shown", []))
    if like.get("events") and "kind" in like["events"][0]:
        truth.exchanges, truth.watch_events = _from_driver(like["events"])
    reading = oracle.read_file(source.files[0])
    if reading is None or reading.holes:
        truth.whole = bool(truth.exchanges) and reading is None
    else:

        def check(good: bool, what: str) -> None:
            if not good:
                raise Contradiction(f"{sample.name}: {what}")

        _merge(truth, reading, check)
    addresses = meta.get("addresses", {})
    truth.exchanges = _moved(truth.exchanges, addresses) or []
    truth.watch_events = _moved(truth.watch_events, addresses) or []
    truth.four_letter = _moved(truth.four_letter, addresses)
    if meta.get("times") == "other":
        for row in truth.exchanges:
            row.pop("ts_ns", None)
            row.pop("latency_ns", None)
        for row in truth.watch_events:
            row.pop("ts_ns", None)
    if "expect_also" in meta:
        truth.coverage = meta["expect_also"].get("coverage", {})
    return truth
