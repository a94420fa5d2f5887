"""Crafted conversations: what two ends say, the segments that carry it, and the truth about it.

A :class:`Scene` holds the clock, the segments on the wire and the expected rows; a :class:`Talk` is
one TCP connection in it. The rows are written down as the messages are made, never read back from
bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from tests.support import net, zk
from tests.support.net import ACK, FIN, PSH, RST, SYN, Address, Seg

Row = dict[str, Any]

CLIENT: Final = 0
SERVER: Final = 1

#: 2023-11-14T22:13:20Z, the time at which every scene begins.
EPOCH_NS: Final = 1_700_000_000 * 10**9

_TICK_NS: Final = 100_000


def hexed(value: int) -> str:
    """A zxid as the interfaces print it."""
    return f"0x{value & 0xFFFFFFFFFFFFFFFF:x}"


@dataclass(slots=True)
class Scene:
    """A clock, what is on the wire and what must be found."""

    now: int = EPOCH_NS
    segs: list[Seg] = field(default_factory=list)
    exchanges: list[Row] = field(default_factory=list)
    watch_events: list[Row] = field(default_factory=list)
    four_letter: list[Row] = field(default_factory=list)
    #: rows of which one must (None: may) be found, where the interfaces leave a choice
    any_of: list[list[Row | None]] = field(default_factory=list)
    connections: list[Row] | None = None
    anomalies: list[str] = field(default_factory=list)
    anomalies_allowed: list[str] = field(default_factory=list)
    coverage: Row = field(default_factory=dict)
    secrets: list[str] = field(default_factory=list)
    #: how many packets each end has sent: their identifications
    idents: dict[Address, int] = field(default_factory=dict)

    def tick(self, ns: int = _TICK_NS) -> int:
        self.now += ns
        return self.now

    def expectation(self) -> Row:
        """The ``expect`` of the truth file."""
        rows = sorted(self.exchanges, key=lambda row: (row["flow"], row["ts_ns"]))
        out: Row = {
            "exchanges": rows,
            "watch_events": self.watch_events,
            "four_letter": self.four_letter,
            "anomalies": self.anomalies,
        }
        if self.any_of:
            out["any_of"] = self.any_of
        if self.anomalies_allowed:
            out["anomalies_allowed"] = self.anomalies_allowed
        if self.connections is not None:
            out["connections"] = self.connections
        if self.coverage:
            out["coverage"] = self.coverage
        return out


class Talk:
    """One TCP connection. ``side`` is CLIENT or SERVER everywhere."""

    def __init__(
        self,
        scene: Scene,
        client: Address = ("10.1.0.1", 40001),
        server: Address = ("10.1.0.2", 2181),
        *,
        isn: tuple[int, int] = (1000, 900000),
    ) -> None:
        self.scene = scene
        self.ends = (client, server)
        self.next = list(isn)
        self.session: int | None = None
        self.wide = False  # 64-bit xids (ClickHouse Keeper, protocol version 11)

    @property
    def flow(self) -> str:
        return f"{net.show(self.ends[0])}>{net.show(self.ends[1])}"

    # TCP

    def segment(
        self, side: int, flags: int, payload: bytes = b"", *, lost: bool = False, ns: int = _TICK_NS
    ) -> int:
        """Puts a segment on the wire; the time of it. A lost one was sent, but is not in the
        capture.
        """
        ts = self.scene.tick(ns)
        seq = self.next[side]
        ident = self.scene.idents[self.ends[side]] = self.scene.idents.get(self.ends[side], 0) + 1
        seg = Seg(
            ts,
            self.ends[side],
            self.ends[1 - side],
            seq & 0xFFFFFFFF,
            self.next[1 - side] & 0xFFFFFFFF if flags & ACK else 0,
            flags,
            payload,
            ident=ident,
        )
        self.next[side] += seg.span
        if not lost:
            self.scene.segs.append(seg)
        return ts

    def open(self) -> Talk:
        self.segment(CLIENT, SYN)
        self.segment(SERVER, SYN | ACK)
        self.segment(CLIENT, ACK)
        return self

    def close(self) -> None:
        """FIN from both ends, the server's first (as after closeSession)."""
        self.segment(SERVER, FIN | ACK)
        self.segment(CLIENT, FIN | ACK)
        self.segment(SERVER, ACK)

    def reset(self, side: int = SERVER) -> None:
        self.segment(side, RST | ACK)

    def ack(self, side: int) -> None:
        self.segment(side, ACK)

    def send(self, side: int, data: bytes, *, lost: bool = False) -> int:
        return self.segment(side, PSH | ACK, data, lost=lost)

    def send_pieces(
        self, side: int, pieces: list[bytes], lost: tuple[int, ...] = ()
    ) -> tuple[int, int]:
        """Several segments, some lost; times of the first and the last."""
        times = [self.send(side, p, lost=i in lost) for i, p in enumerate(pieces)]
        return times[0], times[-1]

    # ZooKeeper

    def _row(self, op: str | None, opcode: int | None, xid: int | None) -> Row:
        row: Row = {"flow": self.flow, "op": op, "opcode": opcode, "xid": xid}
        if self.session is not None:
            row["session"] = f"0x{self.session:016x}"
        return row

    def connect(
        self,
        session: int = 0x1000_0000_0000_0001,
        *,
        password: bytes = b"\x91secretpassword\xfe",
        old: int = 0,
        timeout_ms: int = 10000,
        granted_ms: int | None = None,
        read_only: bool | None = False,
        answer: bytes | None = None,
        version: int = 0,
    ) -> Row:
        """ConnectRequest and ConnectResponse (``answer`` replaces the latter's payload)."""
        asked = zk.connect_request(
            timeout_ms=timeout_ms,
            session=old,
            password=password if old else bytes(16),
            version=version,
            read_only=read_only,
        )
        ts = self.send(CLIENT, zk.frame(asked))
        granted = timeout_ms if granted_ms is None else granted_ms
        payload = answer or zk.connect_response(
            timeout_ms=granted,
            session=session,
            password=password if session else bytes(16),
            read_only=read_only,
            version=version,
        )
        done = self.send(SERVER, zk.frame(payload))
        if session and answer is None:
            self.session = session
            if any(password):
                self.scene.secrets.append(password.hex())
        row = self._row("connect", -10, None)
        row |= {
            "ts_ns": ts,
            "latency_us": (done - ts) / 1000,
            "state": "complete",
            "error": 0 if session else -112,
            "request_bytes": len(asked),
            "reply_bytes": len(payload),
            "requested_timeout_ms": timeout_ms,
            "path": None,
            "zxid": None,
        }
        if answer is None:
            row["timeout_ms"] = granted
        self.scene.exchanges.append(row)
        return row

    def _header(self, xid: int) -> bytes:
        return zk.i64(xid) if self.wide else zk.i32(xid)

    def request(self, xid: int, opcode: int, body: bytes = b"") -> bytes:
        """The frame of a request in this connection's dialect."""
        return zk.frame(self._header(xid) + zk.i32(opcode) + body)

    def reply(self, xid: int, zxid: int, error: int = 0, body: bytes = b"") -> bytes:
        return zk.frame(self._header(xid) + zk.i64(zxid) + zk.i32(error) + body)

    def asked(self, frame: bytes, ts: int, xid: int, opcode: int, **columns: Any) -> Row:
        """Writes down a request that was complete on the wire at ``ts``."""
        row = self._row(zk.op_name(opcode), opcode, xid)
        row |= {
            "ts_ns": ts,
            "state": "no_reply",
            "error": None,
            "latency_us": None,
            "request_bytes": len(frame) - 4,
            "path": None,
        }
        row |= columns
        self.scene.exchanges.append(row)
        return row

    def ask(
        self, xid: int, opcode: int, body: bytes = b"", *, lost: bool = False, **columns: Any
    ) -> Row:
        """A request in one segment. Lost: the row is that of its reply, if there will be one."""
        frame = self.request(xid, opcode, body)
        ts = self.send(CLIENT, frame, lost=lost)
        row = self.asked(frame, ts, xid, opcode, **columns)
        if lost:
            self.scene.exchanges.remove(row)
            row["lost"] = True
        return row

    def answered(
        self, row: Row, frame: bytes, ts: int, zxid: int, error: int = 0, **columns: Any
    ) -> None:
        """Writes down a reply: its first byte was on the wire at ``ts``."""
        if row.pop("lost", False):
            known = {zk.XID_PING: ("ping", 11), zk.XID_AUTH: ("auth", 100)}
            op, opcode = known.get(row["xid"], (None, None))
            xid, session = row["xid"], row.get("session")
            row.clear()
            row |= {"flow": self.flow, "op": op, "opcode": opcode, "xid": xid, "ts_ns": ts}
            row |= {"state": "no_request", "latency_us": None, "path": None, "request_bytes": None}
            if session is not None:
                row["session"] = session
            columns = {}
            self.scene.exchanges.append(row)
        else:
            row["latency_us"] = (ts - row["ts_ns"]) / 1000
            row["state"] = "complete"
        row |= {"zxid": hexed(zxid), "error": error, "reply_bytes": len(frame) - 4, **columns}

    def answer(
        self, row: Row, zxid: int, error: int = 0, body: bytes = b"", **columns: Any
    ) -> None:
        """The reply of a request in one segment."""
        frame = self.reply(row["xid"], zxid, error, body)
        self.answered(row, frame, self.send(SERVER, frame), zxid, error, **columns)

    def call(
        self,
        xid: int,
        opcode: int,
        body: bytes,
        zxid: int,
        reply: bytes = b"",
        error: int = 0,
        **columns: Any,
    ) -> Row:
        """A request and its reply."""
        row = self.ask(xid, opcode, body, **columns)
        self.answer(row, zxid, error, reply)
        return row

    # The calls that most scenes are made of

    def get(self, xid: int, path: str, zxid: int, data: bytes = b"some data") -> Row:
        return self.call(
            xid,
            zk.GET_DATA,
            zk.path_watch(path),
            zxid,
            zk.buffer(data) + zk.stat(czxid=zxid, data_length=len(data)),
            path=path,
            watch=False,
            data_length=len(data),
            stat={"czxid": hexed(zxid), "data_length": len(data), "num_children": 0},
        )

    def set(self, xid: int, path: str, zxid: int, data: bytes = b"other data") -> Row:
        return self.call(
            xid,
            zk.SET_DATA,
            zk.set_data(path, data),
            zxid,
            zk.stat(mzxid=zxid, version=7, data_length=len(data)),
            path=path,
            version=-1,
            data_length=len(data),
            stat={"mzxid": hexed(zxid), "version": 7},
        )

    def exists(self, xid: int, path: str, zxid: int, *, watch: bool = False) -> Row:
        return self.call(
            xid, zk.EXISTS, zk.path_watch(path, watch), zxid, error=-101, path=path, watch=watch
        )

    def ping(self, zxid: int) -> Row:
        return self.call(zk.XID_PING, zk.PING, b"", zxid)

    def goodbye(self, xid: int, zxid: int) -> None:
        """closeSession, and the end of the connection."""
        self.call(xid, zk.CLOSE, b"", zxid)
        self.close()

    def event(self, kind: int, path: str, zxid: int = -1) -> Row:
        """A watch event in one segment."""
        if self.wide:
            payload = zk.i64(-1) + zk.watch_event(kind, path, zxid=zxid)[4:]
        else:
            payload = zk.watch_event(kind, path, zxid=zxid)
        ts = self.send(SERVER, zk.frame(payload))
        return self.saw_event(payload, ts, kind, path, zxid)

    def saw_event(self, payload: bytes, ts: int, kind: int, path: str, zxid: int = -1) -> Row:
        """Writes down a watch event that was complete at ``ts``."""
        row: Row = {
            "flow": self.flow,
            "ts_ns": ts,
            "event": zk.EVENT_NAMES[kind],
            "keeper_state": "SyncConnected",
            "path": path,
            "zxid": None if zxid == -1 else hexed(zxid),
            "bytes": len(payload),
        }
        if self.session is not None:
            row["session"] = f"0x{self.session:016x}"
        self.scene.watch_events.append(row)
        return row
