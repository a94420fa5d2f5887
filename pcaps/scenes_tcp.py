"""Scenes about TCP: loss, order, reuse, ends, sizes, and connections that are not ZooKeeper's at
all.

Each function makes one scene and says in its docstring what it holds; the rows are written by the
Talk as it goes, and by hand where a message is split or lost.
"""

from __future__ import annotations

from tests.support import zk
from tests.support.net import ACK, FIN, PSH, SYN
from tests.support.talk import CLIENT, SERVER, Row, Scene, Talk, hexed

_BIG = bytes(range(256)) * 16


def _many(talk: Talk, first: int, count: int = 20) -> None:
    """Enough packets for what is missing to be given up."""
    for xid in range(first, first + count):
        talk.get(xid, f"/n/{xid}", 0x300 + xid)
        talk.ack(CLIENT)


def _no_reply(row: Row) -> Row:
    nothing = dict.fromkeys(("latency_us", "error", "zxid", "reply_bytes"))
    return {**row, **nothing, "state": "no_reply"}


def gap_body() -> Scene:
    """The middle of a setData's body was not captured: its length is known, so nothing else may
    suffer.
    """
    scene = Scene(anomalies=["gap"], anomalies_allowed=["*"])
    talk = Talk(scene).open()
    talk.connect()
    talk.get(1, "/before", 0x100)
    frame = talk.request(2, zk.SET_DATA, zk.set_data("/hurt", _BIG))
    pieces = [frame[:1000], frame[1000:2000], frame[2000:3000], frame[3000:]]
    ts = talk.send_pieces(CLIENT, pieces, lost=(2,))[1]
    whole = talk.asked(frame, ts, 2, zk.SET_DATA, path="/hurt")
    talk.answer(whole, 0x101, 0, zk.stat(version=1))
    scene.exchanges.remove(whole)
    orphan: Row = {"flow": talk.flow, "xid": 2, "op": None, "state": "no_request", "zxid": "0x101"}
    del whole["path"]
    unsure = {**whole, "latency_us": None}
    scene.any_of.append([whole, unsure, orphan])
    _many(talk, 3)
    talk.goodbye(23, 0x400)
    scene.coverage = {"gaps": 1, "gap_bytes": 1000, "skipped_bytes": {"min": 1000}}
    return scene


def gap_boundary() -> Scene:
    """A lost segment held the end of one request and the beginning of the next."""
    scene = Scene(anomalies=["gap"], anomalies_allowed=["*"])
    talk = Talk(scene).open()
    talk.connect()
    talk.get(1, "/before", 0x100)
    one = talk.request(2, zk.SET_DATA, zk.set_data("/one", _BIG[:600]))
    two = talk.request(3, zk.SET_DATA, zk.set_data("/two", _BIG[:600]))
    stream = one + two
    talk.send_pieces(CLIENT, [stream[:400], stream[400:900], stream[900:]], lost=(1,))
    for xid in (2, 3):
        reply = talk.reply(xid, 0x100 + xid, 0, zk.stat(version=1))
        talk.send(SERVER, reply)
        orphan: Row = {
            "flow": talk.flow,
            "xid": xid,
            "op": None,
            "state": "no_request",
            "zxid": hexed(0x100 + xid),
            "latency_us": None,
        }
        # The header of the first was seen, that of the second was not.
        known = {**orphan, "op": "setData", "state": "complete"}
        scene.any_of.append([known, orphan] if xid == 2 else [orphan])
    _many(talk, 4)
    talk.goodbye(24, 0x400)
    scene.coverage = {"gaps": 1, "gap_bytes": 500, "skipped_bytes": {"min": 500}}
    return scene


def gap_replies() -> Scene:
    """A lost segment held three whole replies: their requests stay without one, all others keep
    theirs.
    """
    scene = Scene(anomalies=["gap"], anomalies_allowed=["*"])
    talk = Talk(scene).open()
    talk.connect()
    rows = [
        talk.ask(xid, zk.EXISTS, zk.path_watch(f"/e/{xid}"), path=f"/e/{xid}", watch=False)
        for xid in range(1, 7)
    ]
    replies = [talk.reply(xid, 0x100 + xid, -101) for xid in range(1, 7)]
    ts = talk.send(SERVER, replies[0])
    talk.answered(rows[0], replies[0], ts, 0x101, -101)
    talk.send(SERVER, b"".join(replies[1:4]), lost=True)
    for index in (4, 5):
        ts = talk.send(SERVER, replies[index])
        talk.answered(rows[index], replies[index], ts, 0x101 + index, -101)
    talk.ack(CLIENT)
    _many(talk, 7)
    talk.goodbye(27, 0x400)
    missing = sum(map(len, replies[1:4]))
    scene.coverage = {"gaps": 1, "gap_bytes": missing, "skipped_bytes": {"min": missing}}
    return scene


def gap_pings() -> Scene:
    """The reply of a ping was lost: no later ping's reply may be taken for it. Pings long after
    pair again.
    """
    scene = Scene(anomalies=["gap"], anomalies_allowed=["*"])
    talk = Talk(scene).open()
    talk.connect()
    talk.ping(0x100)
    talk.get(1, "/a", 0x101)
    first = talk.ask(zk.XID_PING, zk.PING)
    talk.send(SERVER, talk.reply(zk.XID_PING, 0x101), lost=True)
    scene.tick(2 * 10**9)
    second = talk.ask(zk.XID_PING, zk.PING)
    talk.answer(second, 0x102)
    talk.ack(CLIENT)
    assert first["state"] == "no_reply"
    scene.exchanges.remove(second)
    lone: Row = {"flow": talk.flow, "xid": -2, "op": "ping", "state": "no_request"}
    lone |= {"latency_us": None, "zxid": "0x102"}
    half = _no_reply(second)
    scene.any_of += [[second, lone], [half, None]]
    _many(talk, 2, 40)
    scene.tick(2 * 10**9)
    talk.ping(0x500)
    talk.ping(0x501)
    talk.goodbye(42, 0x502)
    scene.coverage = {"gaps": 1, "gap_bytes": 20, "skipped_bytes": {"min": 20}}
    return scene


def gap_request() -> Scene:
    """A whole request was lost: its reply has no request, and no request of other xid gets it."""
    scene = Scene(anomalies=["gap"], anomalies_allowed=["*"])
    talk = Talk(scene).open()
    talk.connect()
    talk.get(1, "/a", 0x101)
    row = talk.ask(2, zk.EXISTS, zk.path_watch("/lost"), lost=True)
    talk.answer(row, 0x102, -101)
    _many(talk, 3)
    talk.goodbye(23, 0x400)
    scene.coverage = {"gaps": 1}
    return scene


def reuse() -> Scene:
    """The same ports three times: after a FIN, and with a new SYN while the old connection looks
    alive.
    """
    scene = Scene()
    for number in range(3):
        talk = Talk(scene, isn=(1000 + 7_000_000 * number, 900_000 + 9_000_000 * number)).open()
        talk.connect(0x1000_0000_0000_0001 + number)
        talk.get(1, f"/life/{number}", 0x100 + number)
        if number == 0:
            talk.goodbye(2, 0x200)
    scene.coverage = {"connections": 3}
    return scene


def half_close() -> Scene:
    """The client sends its last requests and FIN; the answers come afterwards."""
    scene = Scene()
    talk = Talk(scene).open()
    talk.connect()
    row = talk.ask(1, zk.EXISTS, zk.path_watch("/late"), path="/late", watch=False)
    bye = talk.ask(2, zk.CLOSE)
    talk.segment(CLIENT, FIN | ACK)
    talk.ack(SERVER)
    scene.tick(50_000_000)
    talk.answer(row, 0x100, -101)
    talk.answer(bye, 0x101)
    talk.segment(SERVER, FIN | ACK)
    talk.ack(CLIENT)
    scene.connections = [
        {"flow": talk.flow, "role": "client", "event": "opened"},
        {"flow": talk.flow, "role": "client", "event": "closed"},
    ]
    return scene


def rst() -> Scene:
    """A connection is reset with a request outstanding; a retransmission arrives after the RST."""
    scene = Scene()
    talk = Talk(scene).open()
    talk.connect()
    talk.get(1, "/a", 0x100)
    talk.ask(2, zk.GET_DATA, zk.path_watch("/never"), path="/never", watch=False)
    again = scene.segs[-1]
    talk.reset()
    scene.segs.append(again.but(ts_ns=scene.tick()))
    scene.connections = [
        {"flow": talk.flow, "role": "client", "event": "opened"},
        {"flow": talk.flow, "role": "client", "event": "reset"},
    ]
    return scene


def wrap() -> Scene:
    """Sequence numbers pass 2^32 in both directions, in the middle of a frame."""
    scene = Scene()
    talk = Talk(scene, isn=(2**32 - 120, 2**32 - 200)).open()
    talk.connect()
    for xid in range(1, 6):
        talk.set(xid, "/wrap", 0x100 + xid, b"x" * 50)
    talk.goodbye(6, 0x200)
    return scene


def syn_data() -> Scene:
    """TCP fast open: the SYN carries the ConnectRequest."""
    scene = Scene()
    talk = Talk(scene)
    asked = zk.connect_request()
    frame = zk.frame(asked)
    ts = talk.segment(CLIENT, SYN, frame)
    talk.segment(SERVER, SYN | ACK)
    reply = zk.connect_response(session=0x1000_0000_0000_0009, password=b"p" * 16)
    done = talk.send(SERVER, zk.frame(reply))
    talk.session = 0x1000_0000_0000_0009
    row: Row = {"flow": talk.flow, "op": "connect", "opcode": -10, "xid": None, "ts_ns": ts}
    row |= {"latency_us": (done - ts) / 1000, "state": "complete", "error": 0}
    scene.exchanges.append(row)
    talk.get(1, "/fast", 0x100)
    talk.goodbye(2, 0x101)
    return scene


def one_side_client() -> Scene:
    """Only what the client sent was captured."""
    scene = Scene(anomalies_allowed=["*"])
    talk = Talk(scene).open()
    talk.connect()
    for xid in range(1, 30):
        talk.get(xid, f"/n/{xid}", 0x100 + xid)
    talk.goodbye(30, 0x200)
    scene.segs = [s for s in scene.segs if s.src == talk.ends[CLIENT]]
    for row in scene.exchanges:
        row |= _no_reply(row)
        for key in ("stat", "data_length", "session", "timeout_ms"):
            row.pop(key, None)
    return scene


def one_side_server() -> Scene:
    """Only what the server sent was captured: replies without requests, whose ops stay unknown."""
    scene = Scene(anomalies_allowed=["*"])
    talk = Talk(scene).open()
    talk.connect()
    for xid in range(1, 30):
        talk.get(xid, f"/n/{xid}", 0x100 + xid)
    talk.ping(0x150)
    talk.goodbye(30, 0x200)
    scene.segs = [s for s in scene.segs if s.src == talk.ends[SERVER]]
    rows, scene.exchanges = scene.exchanges, []
    for row in rows:
        kept = ("flow", "xid", "zxid", "error", "reply_bytes")
        lone = {key: row[key] for key in kept if key in row}
        lone |= {"state": "no_request", "latency_us": None, "request_bytes": None, "path": None}
        lone |= {"op": None, "opcode": None}
        lone["ts_ns"] = row["ts_ns"] + round(row["latency_us"] * 1000)
        if row["op"] == "ping":
            lone |= {"op": "ping", "opcode": 11}
        if row["op"] == "connect":
            scene.any_of.append([{"flow": talk.flow, "op": "connect", "state": "no_request"}, None])
        else:
            scene.exchanges.append(lone)
    return scene


def jumbo() -> Scene:
    """A super-segment of 70,000 bytes with 200 requests: offload, so that the IP length says 0."""
    scene = Scene()
    talk = Talk(scene).open()
    talk.connect()
    frames = [
        talk.request(xid, zk.EXISTS, zk.path_watch(f"/jumbo/{xid:04}/" + "x" * 330))
        for xid in range(1, 201)
    ]
    ts = talk.send(CLIENT, b"".join(frames))
    replies = [talk.reply(xid, 0x100, -101) for xid in range(1, 201)]
    done = talk.send(SERVER, b"".join(replies))
    for xid, (frame, reply) in enumerate(zip(frames, replies, strict=True), 1):
        path = f"/jumbo/{xid:04}/" + "x" * 330
        row = talk.asked(frame, ts, xid, zk.EXISTS, path=path)
        talk.answered(row, reply, done, 0x100, -101)
    talk.goodbye(201, 0x100)
    return scene


def reordered() -> Scene:
    """Replies captured before the segments that asked for them; segments of one direction out of
    order.
    """
    scene = Scene()
    talk = Talk(scene).open()
    talk.connect()
    for xid in range(1, 20):
        talk.get(xid, f"/o/{xid}", 0x100 + xid)
    talk.goodbye(20, 0x200)
    segs = scene.segs
    at = next(i for i, s in enumerate(segs) if s.payload) + 2
    for i in (at, at + 6, at + 13, at + 20):
        segs[i], segs[i + 1] = segs[i + 1], segs[i]
    segs[at + 26 : at + 30] = reversed(segs[at + 26 : at + 30])
    return scene


def overlap() -> Scene:
    """Retransmissions: whole, of a part, of more than was sent; and one with other bytes, which
    must not win.
    """
    scene = Scene()
    talk = Talk(scene).open()
    talk.connect()
    frame = talk.request(1, zk.SET_DATA, zk.set_data("/first/copy/wins", b"d" * 400))
    start = talk.next[CLIENT]
    talk.send(CLIENT, frame[:100])
    talk.next[CLIENT] = start
    talk.send(CLIENT, b"?" * 100)  # the same place with other bytes
    talk.next[CLIENT] = start + 50
    ts = talk.send(CLIENT, frame[50:300])  # half known, half new
    talk.next[CLIENT] = start + 200
    ts = talk.send(CLIENT, frame[200:])
    row = talk.asked(frame, ts, 1, zk.SET_DATA, path="/first/copy/wins", data_length=400)
    talk.answer(row, 0x100, 0, zk.stat(version=1))
    keep_alive = talk.next[CLIENT]
    talk.next[CLIENT] = keep_alive - 1
    talk.send(CLIENT, b"\0")  # a keep-alive of one old byte
    talk.get(2, "/after", 0x101)
    talk.goodbye(3, 0x102)
    scene.coverage = {"gaps": 0, "retransmitted_segments": 1, "keepalives": 1}
    return scene


def joined() -> Scene:
    """No handshake seen: the capture begins in the middle of a long request; pairing must come
    right.
    """
    scene = Scene(anomalies_allowed=["*"])
    talk = Talk(scene)
    frame = talk.request(5, zk.SET_DATA, zk.set_data("/cut", _BIG[:3000]))
    talk.next[CLIENT] += 1500
    talk.send(CLIENT, frame[1500:])
    talk.send(SERVER, talk.reply(5, 0x105, 0, zk.stat(version=1)))
    orphan: Row = {
        "flow": talk.flow,
        "xid": 5,
        "state": "no_request",
        "op": None,
        "latency_us": None,
    }
    scene.any_of.append([orphan, None])
    for xid in range(6, 40):
        talk.get(xid, f"/n/{xid}", 0x100 + xid)
    talk.goodbye(40, 0x200)
    # What came before the first boundary in both directions was found may be left out.
    early, scene.exchanges = scene.exchanges[:4], scene.exchanges[4:]
    for row in early:
        half = {"flow": talk.flow, "xid": row["xid"], "state": "no_request", "latency_us": None}
        scene.any_of.append([row, half, _no_reply({"flow": talk.flow, "xid": row["xid"]}), None])
    return scene


def joined_event() -> Scene:
    """A capture that begins with a watch event, whose bytes have the shape of a ConnectRequest."""
    scene = Scene(anomalies_allowed=["*"])
    talk = Talk(scene)
    talk.event(3, "/h/n", 0x1_0000_0007)
    for xid in range(6, 40):
        talk.get(xid, f"/n/{xid}", 0x1_0000_0010 + xid)
        if xid % 5 == 0:
            talk.event(3, "/h/n", 0x1_0000_0011 + xid)
    talk.goodbye(40, 0x1_0000_0100)
    scene.connections = [
        {"flow": talk.flow, "role": "client", "event": "joined"},
        {"flow": talk.flow, "role": "client", "event": "closed"},
    ]
    return scene


def joined_by_server() -> Scene:
    """A short capture that begins with the reply of an unseen request; all after it is whole."""
    scene = Scene(anomalies_allowed=["*"])
    talk = Talk(scene)
    first = talk.ask(41, zk.EXISTS, zk.path_watch("/unseen"), lost=True)
    talk.answer(first, 0x1_0000_0001, -101)
    for xid in range(42, 48):
        talk.get(xid, f"/n/{xid}", 0x1_0000_0001)
    talk.ping(0x1_0000_0001)
    talk.set(48, "/n/48", 0x1_0000_0002)
    return scene


def joined_like_keeper() -> Scene:
    """A capture that begins with a request whose bytes might be a ConnectRequest of version 38."""
    scene = Scene(anomalies_allowed=["*"])
    talk = Talk(scene)
    body = zk.ustring("/noacl") + zk.buffer(b"") + zk.i32(0) + zk.i32(0)
    talk.call(38, zk.CREATE, body, 0x1_0000_0001, error=-114, path="/noacl", flags=0)
    for xid in range(39, 45):
        talk.get(xid, f"/n/{xid}", 0x1_0000_0001)
    return scene


def lost_connect_reply() -> Scene:
    """The ConnectResponse was lost: no other reply is taken for it, and there is no session."""
    scene = Scene(anomalies=["gap"], anomalies_allowed=["*"])
    talk = Talk(scene).open()
    row = talk.connect()
    scene.segs.pop()
    for key, value in _no_reply(row).items():
        row[key] = value
    talk.session = row["session"] = None
    del row["timeout_ms"]
    talk.set(1, "/n/0", 0x100)  # its reply has the length of no ConnectResponse
    create = talk.ask(2, zk.CREATE, zk.create("/sixteen-bytes-1"), path="/sixteen-bytes-1")
    talk.answer(create, 0x101, 0, zk.ustring("/sixteen-bytes-1"))  # 36 bytes: that of one
    _many(talk, 3)
    talk.goodbye(23, 0x400)
    scene.coverage = {"gaps": 1, "gap_bytes": 41}
    return scene


def lost_connect_reply_joined() -> Scene:
    """As before without the SYNs; the first reply captured has a ConnectResponse's shape."""
    scene = Scene(anomalies_allowed=["*"])
    talk = Talk(scene).open()
    row = talk.connect()
    scene.segs.pop()
    for key, value in _no_reply(row).items():
        row[key] = value
    talk.session = row["session"] = None
    del row["timeout_ms"]
    scene.segs = scene.segs[3:]
    create = talk.ask(3, zk.CREATE, zk.create("/nine-byt"), path="/nine-byt")
    talk.answer(create, 0x101, 0, zk.ustring("/nine-byt"))
    _many(talk, 4)
    talk.goodbye(24, 0x400)
    return scene


def _foreign(first: bytes, answer: bytes, *, server_first: bool = False, role: str) -> Scene:
    scene = Scene(anomalies_allowed=["*"])
    talk = Talk(scene).open()
    if server_first:
        talk.send(SERVER, answer)
        talk.send(CLIENT, first)
    else:
        talk.send(CLIENT, first)
        talk.send(SERVER, answer)
    talk.close()
    # A real one beside it must not suffer.
    good = Talk(scene, client=("10.1.0.9", 50000)).open()
    good.connect()
    good.get(1, "/a", 0x100)
    good.goodbye(2, 0x101)
    scene.connections = [
        {"flow": talk.flow, "role": role, "event": "opened"},
        {"flow": talk.flow, "role": role, "event": "closed"},
        {"flow": good.flow, "role": "client", "event": "opened"},
        {"flow": good.flow, "role": "client", "event": "closed"},
    ]
    return scene


def tls() -> Scene:
    """A TLS ClientHello on the client port."""
    hello = b"\1\0\0\xc8\3\3" + bytes(range(32)) + bytes(162)
    record = b"\x16\3\1" + len(hello).to_bytes(2, "big") + hello
    return _foreign(record, b"\x15\3\3\0\2\2\x46", role="tls")


def http() -> Scene:
    """An HTTP request on port 2181."""
    ask = b"GET /index.html HTTP/1.1\r\nHost: example.org\r\n\r\n"
    return _foreign(ask, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", role="unknown")


def ssh() -> Scene:
    """An SSH handshake on port 2181; the server speaks first."""
    mine, its = b"SSH-2.0-OpenSSH_9.2\r\n", b"SSH-2.0-OpenSSH_9.6\r\n"
    return _foreign(mine, its, server_first=True, role="unknown")


def lost_handshake_segment() -> Scene:
    """The SYN+ACK was not captured, nor the ACK: only the client's SYN and then data."""
    scene = Scene(anomalies_allowed=["*"])
    talk = Talk(scene)
    talk.segment(CLIENT, SYN)
    talk.segment(SERVER, SYN | ACK, lost=True)
    talk.segment(CLIENT, ACK, lost=True)
    talk.connect()
    for xid in range(1, 12):
        talk.get(xid, f"/n/{xid}", 0x100 + xid)
    talk.goodbye(12, 0x200)
    return scene


def keep_alive_and_window() -> Scene:
    """Acks, keep-alives and zero-window probes between the messages; nothing of them shows."""
    scene = Scene()
    talk = Talk(scene).open()
    talk.connect()
    for xid in range(1, 4):
        talk.get(xid, f"/n/{xid}", 0x100 + xid)
        for side in (CLIENT, SERVER):
            talk.next[side] -= 1
            talk.segment(side, ACK | PSH)
            talk.next[side] += 1
            talk.ack(1 - side)
    talk.goodbye(4, 0x200)
    scene.coverage = {"gaps": 0, "skipped_bytes": 0}
    return scene


SCENES = {
    f.__name__: f
    for f in (
        gap_body,
        gap_boundary,
        gap_replies,
        gap_pings,
        gap_request,
        reuse,
        half_close,
        rst,
        wrap,
        syn_data,
        one_side_client,
        one_side_server,
        jumbo,
        reordered,
        overlap,
        joined,
        joined_event,
        joined_by_server,
        joined_like_keeper,
        lost_connect_reply,
        lost_connect_reply_joined,
        tls,
        http,
        ssh,
        lost_handshake_segment,
        keep_alive_and_window,
    )
}
