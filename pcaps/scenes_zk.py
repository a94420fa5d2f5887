"""Scenes about the client protocol: xids, refusals, dialects, words, limits, hostile strings,
secrets.
"""

from __future__ import annotations

import base64
import hashlib

from tests.support import zk
from tests.support.net import ACK, FIN
from tests.support.talk import CLIENT, SERVER, Row, Scene, Talk, hexed


def _scene(**fields: object) -> tuple[Scene, Talk]:
    scene = Scene(**fields)  # type: ignore[arg-type]
    talk = Talk(scene).open()
    talk.connect()
    return scene, talk


def xid_reuse() -> Scene:
    """One xid used again and again, and twice outstanding: first in, first out."""
    scene, talk = _scene()
    for number in range(3):
        talk.get(7, f"/again/{number}", 0x100 + number)
    rows = [
        talk.ask(7, zk.EXISTS, zk.path_watch(f"/twice/{n}"), path=f"/twice/{n}", watch=False)
        for n in range(2)
    ]
    talk.answer(rows[0], 0x110, -101)
    talk.answer(rows[1], 0x111, -101)
    talk.get(0, "/xid/zero", 0x112)
    talk.goodbye(8, 0x113)
    return scene


def xid_wrap() -> Scene:
    """xids pass the largest int; jumps; both are legal."""
    scene, talk = _scene()
    for xid in (2**31 - 2, 2**31 - 1, -(2**31), -(2**31) + 1, 1, 1_700_000_000):
        talk.get(xid, f"/x/{xid}", 0x100)
    talk.goodbye(2, 0x101)
    return scene


def pings() -> Scene:
    """Three pings outstanding; their replies pair first in, first out, between other replies."""
    scene, talk = _scene()
    rows = []
    for xid in range(3):
        rows.append(talk.ask(zk.XID_PING, zk.PING))
        path = f"/p/{xid}"
        rows.append(talk.ask(xid + 1, zk.EXISTS, zk.path_watch(path), path=path, watch=False))
    for row in rows:
        talk.answer(row, 0x100, 0 if row["op"] == "ping" else -101)
    talk.goodbye(4, 0x101)
    return scene


def set_watches_xid() -> Scene:
    """setWatches with an ordinary xid, setWatches2 with -8 in two chunks, catch-up events before
    each reply.
    """
    scene, talk = _scene()
    body = zk.i64(0x50) + zk.strings(["/d1", "/d2"]) + zk.strings(["/e"]) + zk.strings([])
    counts: Row = {"data": 2, "exist": 1, "child": 0}
    row = talk.ask(3, zk.SET_WATCHES, body, watches=counts)
    talk.event(3, "/d1")
    talk.answer(row, 0x100)
    chunks = []
    for number in range(2):
        lists = [zk.strings([f"/{number}/{kind}/{i}" for i in range(kind)]) for kind in range(5)]
        counts = {"data": 0, "exist": 1, "child": 2, "persistent": 3, "persistent_recursive": 4}
        body = zk.i64(0x50) + b"".join(lists)
        chunks.append(talk.ask(zk.XID_SET_WATCHES, zk.SET_WATCHES2, body, watches=counts))
    talk.event(4, "/0/2/1")
    talk.answer(chunks[0], 0x100)
    talk.event(2, "/1/1/0")
    talk.answer(chunks[1], 0x101)
    talk.exists(4, "/w", 0x101, watch=True)
    talk.event(1, "/w", 0x102)
    talk.goodbye(5, 0x103)
    return scene


def oversized() -> Scene:
    """A length far above jute.maxbuffer: the server closes. Another connection goes on unhurt."""
    scene, talk = _scene(anomalies=["oversized"], anomalies_allowed=["*"])
    talk.get(1, "/a", 0x100)
    talk.send(CLIENT, zk.i32(0x7F00_0000) + zk.i32(2) + zk.i32(5) + b"z" * 1000)
    talk.close()
    other = Talk(scene, client=("10.1.0.3", 41000)).open()
    other.connect(0x1000_0000_0000_0002)
    other.get(1, "/b", 0x101)
    other.send(CLIENT, zk.i32(-5) + b"y" * 100)
    other.close()
    return scene


def big_reply() -> Scene:
    """A getChildren reply over jute.maxbuffer, which servers do send."""
    scene, talk = _scene()
    names = [f"child-{n:08}-" + "n" * 100 for n in range(9000)]
    body = zk.strings(names)
    row = talk.ask(1, zk.GET_CHILDREN, zk.path_watch("/big"), path="/big", watch=False)
    frame = talk.reply(1, 0x100, 0, body)
    assert len(frame) > 1_048_575
    cuts = [frame[i : i + 60000] for i in range(0, len(frame), 60000)]
    first, _ = talk.send_pieces(SERVER, cuts)
    talk.answered(row, frame, first, 0x100, children=9000)
    talk.get(2, "/after", 0x101)
    talk.goodbye(3, 0x102)
    return scene


def unknown_opcode() -> Scene:
    """An opcode nobody knows: -6, then the server closes."""
    scene, talk = _scene(anomalies=["unknown_opcode"])
    talk.get(1, "/a", 0x100)
    row = talk.ask(2, 31337, b"who knows what")
    talk.answer(row, -1, -6)
    talk.close()
    return scene


def unmatched() -> Scene:
    """A reply that nobody asked for, in a capture without gaps."""
    scene, talk = _scene(anomalies=["unmatched_reply"])
    talk.get(1, "/a", 0x100)
    row = talk.ask(77, zk.GET_DATA, lost=False)
    scene.exchanges.remove(row)
    # Take the request out again as if it had never been: sequence numbers too.
    seg = scene.segs.pop()
    talk.next[CLIENT] -= seg.span
    row["lost"] = True
    talk.answer(row, 0x101, 0, zk.buffer(b"unasked") + zk.stat())
    talk.get(2, "/b", 0x102)
    talk.goodbye(3, 0x103)
    return scene


def words() -> Scene:
    """Four-letter words: plain, with CRLF, byte by byte, telnet's close, and unknown ones."""
    scene = Scene(anomalies_allowed=["*"])

    def ask(port: int, sent: list[bytes], answer: bytes, word: str | None) -> None:
        talk = Talk(scene, client=("10.1.0.1", port)).open()
        for piece in sent:
            talk.send(CLIENT, piece)
        if answer:
            talk.send(SERVER, answer)
        talk.segment(SERVER, FIN | ACK)
        talk.segment(CLIENT, FIN | ACK)
        talk.ack(SERVER)
        if word is not None:
            scene.four_letter.append({"flow": talk.flow, "word": word, "reply_bytes": len(answer)})

    ask(42001, [b"ruok"], b"imok", "ruok")
    ask(42002, [b"mntr\r\n"], b"zk_version\t3.9.5\n" * 400, "mntr")
    ask(42003, [b"r", b"u", b"o", b"k"], b"imok", "ruok")
    ask(42004, [b"\xff\xf4\xff\xfd\x06"], b"", "telnet close")
    ask(42005, [b"stmk" + zk.i64(5)], b"5", "stmk")
    ask(42006, [b"bogu"], b"", None)
    ask(42007, [b"RUOK"], b"", None)
    ask(42008, [b"srvr"], b"srvr is not executed because it is not in the whitelist.\n", "srvr")
    return scene


def refusal16() -> Scene:
    """A read-only server answers the ConnectRequest with a bare reply header of error -119."""
    scene = Scene(anomalies_allowed=["*"])
    talk = Talk(scene).open()
    row = talk.connect(0, answer=zk.reply(0, 0x100, -119))
    row["error"] = -119
    del row["zxid"]
    talk.close()
    return scene


def refusal_session() -> Scene:
    """An expired session: the ConnectResponse carries session 0. Then the 36-byte dialect of old
    clients.
    """
    scene = Scene()
    talk = Talk(scene).open()
    talk.connect(0, old=0x1000_0000_0000_0005, granted_ms=0)
    talk.close()
    old = Talk(scene, client=("10.1.0.4", 43000)).open()
    old.connect(0x1000_0000_0000_0006, read_only=None)
    old.get(1, "/old", 0x100)
    old.goodbye(2, 0x101)
    none = Talk(scene, client=("10.1.0.4", 43001)).open()
    asked = zk.connect_request()
    ts = none.send(CLIENT, zk.frame(asked))
    none.close()
    row: Row = {"flow": none.flow, "op": "connect", "state": "no_reply", "error": None}
    row |= {"ts_ns": ts, "latency_us": None, "opcode": -10, "xid": None}
    scene.exchanges.append(row)
    return scene


def pipelined_connect() -> Scene:
    """Auth and setWatches are sent right behind the ConnectRequest, as the Java client does."""
    scene = Scene()
    talk = Talk(scene).open()
    asked = zk.connect_request(session=0x1000_0000_0000_0007, password=b"a password of 16")
    auth = talk.request(
        zk.XID_AUTH, zk.AUTH, zk.i32(0) + zk.ustring("digest") + zk.buffer(b"bob:hunter2secret")
    )
    lists = zk.strings(["/d"]) + zk.strings([]) + zk.strings([])
    watches = talk.request(zk.XID_SET_WATCHES, zk.SET_WATCHES, zk.i64(0x90) + lists)
    ts = talk.send(CLIENT, zk.frame(asked) + auth + watches)
    reply = zk.connect_response(session=0x1000_0000_0000_0007, password=b"a password of 16")
    done = talk.send(SERVER, zk.frame(reply))
    row: Row = {"flow": talk.flow, "op": "connect", "opcode": -10, "xid": None, "ts_ns": ts}
    row |= {"latency_us": (done - ts) / 1000, "state": "complete", "error": 0}
    scene.exchanges.append(row)
    talk.session = 0x1000_0000_0000_0007
    first = talk.asked(auth, ts, zk.XID_AUTH, zk.AUTH)
    second = talk.asked(
        watches,
        ts,
        zk.XID_SET_WATCHES,
        zk.SET_WATCHES,
        watches={"data": 1, "exist": 0, "child": 0},
    )
    talk.answer(second, 0x100)
    talk.answer(first, 0)
    talk.get(1, "/a", 0x101)
    talk.goodbye(2, 0x102)
    scene.secrets += ["a password of 16", "hunter2secret", "bob:hunter2secret"]
    return scene


def hostile() -> Scene:
    """Paths that would forge lines, move a terminal's cursor or break JSON; and bytes that are not
    UTF-8.
    """
    scene, talk = _scene(anomalies_allowed=["*"])
    paths = [
        "/esc\x1b[2J\x1b[31mred\x1b]0;title\x07",
        '/line\nkind: forged\r\n{"kind": "coverage"}',
        "/tab\t\x00nul\x7f\x85\x9b31m",
        "/bidi\u202egnp.exe\u2066",
        "/quote\"'\\`$(x)",
        "/" + "long" * 2000,
        "/\U0001f98a/\u4e2d/\u0301",
        "",
    ]
    for xid, path in enumerate(paths, 1):
        talk.exists(xid, path, 0x100)
    for xid, raw in enumerate((b"/\xff\xfe\xc3(", b"/sur\xed\xa0\x80", b"/cut\xe4\xb8"), 100):
        text = raw.decode(errors="replace")
        talk.call(xid, zk.EXISTS, zk.path_watch(raw), 0x100, error=-101, path=text, watch=False)
    talk.event(3, "/event\x1b[31m\n")
    # Null for the path, as kazoo writes an empty one.
    null = zk.ustring(None) + zk.boolean(False)
    row = talk.call(200, zk.EXISTS, null, 0x100, error=-101)
    del row["path"]
    # Lengths that lie within the frame: the frame is whole, its body is not.
    for xid, body in enumerate(
        (zk.i32(1000) + b"/short", zk.i32(-7) + b"/negative", b"", zk.ustring("/no/watch")), 300
    ):
        row = talk.call(xid, zk.EXISTS, body, 0x100, error=-101)
        del row["path"]
    talk.call(310, zk.SET_WATCHES, zk.i64(0) + zk.i32(0x7FFFFFFF), 0x100)
    talk.call(311, zk.MULTI, zk.multi_header(77) + b"odd", 0x100, error=-5)
    talk.goodbye(400, 0x101)
    return scene


def secrets() -> Scene:
    """Every kind of secret once, in requests and replies, good and bad."""
    scene, talk = _scene(anomalies_allowed=["*"])
    credential = "alice:Sup3rS3cretPW"
    digest = base64.b64encode(hashlib.sha1(credential.encode()).digest()).decode()
    acl = [(31, "digest", f"alice:{digest}")]
    data, token = b"NODEDATA-swordfish-4711", b"SASLTOKEN-nonce-0815"
    scene.secrets += [credential, "Sup3rS3cretPW", digest, data.decode(), token.decode()]
    body = zk.i32(0) + zk.ustring("digest") + zk.buffer(credential.encode())
    talk.call(zk.XID_AUTH, zk.AUTH, body, 0)
    create = zk.create("/vault", data, 0, acl)
    talk.call(1, zk.CREATE, create, 0x100, zk.ustring("/vault"), path="/vault", flags=0)
    acls = zk.acls(acl)
    made = zk.stat(czxid=0x100, mzxid=0x100)
    talk.call(2, zk.GET_ACL, zk.ustring("/vault"), 0x100, acls + made, path="/vault")
    body = zk.ustring("/vault") + acls + zk.i32(-1)
    talk.call(3, zk.SET_ACL, body, 0x101, zk.stat(), path="/vault", version=-1)
    talk.get(4, "/vault", 0x101, data)
    talk.set(5, "/vault", 0x102, data)
    talk.call(6, zk.SASL, zk.buffer(token), 0, zk.buffer(token[::-1]))
    scene.secrets.append(token[::-1].decode())
    sub = zk.multi_header(zk.CREATE) + create + zk.MULTI_END
    results = zk.multi_header(zk.CREATE, False, 0) + zk.ustring("/vault") + zk.MULTI_END
    subs = [{"op": "create", "path": "/vault", "error": 0}]
    talk.call(7, zk.MULTI, sub, 0x103, results, sub=subs)
    sub = zk.multi_header(zk.GET_DATA) + zk.path_watch("/vault") + zk.MULTI_END
    got = zk.buffer(data) + zk.stat(data_length=len(data))
    results = zk.multi_header(zk.GET_DATA, False, 0) + got + zk.MULTI_END
    subs = [{"op": "getData", "path": "/vault", "error": 0}]
    talk.call(8, 22, sub, 0x103, results, sub=subs)
    # Cut short: what is left of the secret must not come out as the text of an error either.
    row = talk.call(9, zk.CREATE, create[:-9], 0x104, error=-5)
    del row["path"]
    row = talk.call(zk.XID_AUTH, zk.AUTH, zk.i32(0) + zk.buffer(credential.encode()), 0, error=-115)
    talk.call(10, 31337, credential.encode() + data, -1, error=-6)
    who = zk.vector([zk.ustring("digest") + zk.ustring("alice")])
    talk.call(11, 107, b"", 0x104, who)
    # A stray reply and an oversized request that hold secrets.
    talk.send(SERVER, talk.reply(999, 0x105, 0, zk.buffer(data) + zk.stat()))
    lone: Row = {"flow": talk.flow, "xid": 999, "op": None, "state": "no_request"}
    scene.exchanges.append({**lone, "ts_ns": scene.now, "zxid": hexed(0x105)})
    talk.send(CLIENT, zk.i32(0x70000000) + credential.encode() + data)
    talk.close()
    return scene


def keeper_ops() -> Scene:
    """ClickHouse Keeper's opcodes 500 to 507, with both forms of 500."""
    scene, talk = _scene()
    kids = zk.strings(["a", "b"]) + zk.stat(num_children=2)
    for xid, kind in enumerate((b"\1", zk.i32(1)), 1):
        talk.call(xid, 500, zk.path_watch("/k") + kind, 0x100, kids, path="/k", children=2)
    body = zk.ustring("/k/new") + zk.i32(-1)
    talk.call(3, 501, body, 0x100, path="/k/new", version=-1)
    create = zk.create("/k/new", b"x")
    talk.call(4, 502, create, 0x101, zk.ustring("/k/new"), path="/k/new", created_path="/k/new")
    talk.call(5, 503, zk.ustring("/k") + zk.i32(100), 0x102, path="/k")
    body = zk.ustring("/k") + zk.i32(3) + zk.stat(version=-1)
    talk.call(6, 504, body, 0x102, error=-103, path="/k", version=3)
    talk.call(7, 505, zk.ustring("/gone") + zk.i32(-1), 0x103, path="/gone", version=-1)
    body = zk.path_watch("/k") + b"\0\1\0"
    talk.call(8, 506, body, 0x103, error=-101, path="/k", watch=False)
    talk.call(9, 507, zk.ustring("/k") + zk.i32(10), 0x103, error=-101, path="/k")
    # The same to Apache ZooKeeper: unimplemented.
    talk.call(10, 500, zk.path_watch("/k") + b"\0", -1, error=-6, path="/k")
    talk.close()
    return scene


def keeper_v11() -> Scene:
    """Protocol version 11: 64-bit xids, and 46 bytes follow where the handshake says 45."""
    scene = Scene()
    talk = Talk(scene).open()
    plain = zk.connect_request(timeout_ms=30000, version=11, read_only=True)
    asked = plain[:4] + b"\0" + plain[4:]  # the extra byte: whether to compress
    assert (len(plain), len(asked)) == (45, 46)
    ts = talk.send(CLIENT, zk.i32(45) + asked)
    reply = zk.connect_response(timeout_ms=30000, session=3, version=11, read_only=None)
    done = talk.send(SERVER, zk.frame(reply))
    row: Row = {"flow": talk.flow, "op": "connect", "opcode": -10, "xid": None, "ts_ns": ts}
    row |= {"latency_us": (done - ts) / 1000, "state": "complete", "error": 0}
    row |= {"requested_timeout_ms": 30000, "timeout_ms": 30000, "protocol_version": 11}
    scene.exchanges.append(row)
    talk.session, talk.wide = 3, True
    talk.get(1, "/wide", 0x100)
    talk.exists(2**40 + 5, "/wide/none", 0x100, watch=True)
    talk.event(1, "/wide/none")
    talk.ping(0x101)
    talk.set(2**40 + 6, "/wide", 0x102)
    talk.goodbye(2**63 - 1, 0x103)
    return scene


def _block(data: bytes) -> bytes:
    """A block as ClickHouse frames it: checksum, method, sizes, LZ4 with literals only."""
    length = len(data)
    token = bytes([min(15, length) << 4])
    if length >= 15:
        token += b"\xff" * ((length - 15) // 255) + bytes([(length - 15) % 255])
    packed = token + data
    sizes = (len(packed) + 9).to_bytes(4, "little") + length.to_bytes(4, "little")
    return bytes(range(16)) + b"\x82" + sizes + packed


def keeper_v10() -> Scene:
    """Protocol version 10: after the handshake both directions are compressed blocks."""
    scene = Scene(anomalies_allowed=["*"])
    talk = Talk(scene).open()
    asked = zk.connect_request(timeout_ms=30000, version=10, read_only=True)
    ts = talk.send(CLIENT, zk.frame(asked))
    reply = zk.connect_response(timeout_ms=30000, session=4, version=10, read_only=None)
    done = talk.send(SERVER, zk.frame(reply))
    row: Row = {"flow": talk.flow, "op": "connect", "opcode": -10, "xid": None, "ts_ns": ts}
    row |= {"latency_us": (done - ts) / 1000, "state": "complete", "error": 0}
    row |= {"requested_timeout_ms": 30000, "timeout_ms": 30000, "protocol_version": 10}
    scene.exchanges.append(row)
    for xid in range(1, 30):
        path = f"/packed/{xid}"
        frame = talk.request(xid, zk.GET_DATA, zk.path_watch(path))
        ts = talk.send(CLIENT, _block(frame))
        answer = talk.reply(xid, 0x100, 0, zk.buffer(b"data") + zk.stat(data_length=4))
        done = talk.send(SERVER, _block(answer))
        # To unpack them is optional; to read anything else out of them is wrong.
        seen: Row = {"flow": talk.flow, "op": "getData", "xid": xid, "path": path, "ts_ns": ts}
        seen |= {"latency_us": (done - ts) / 1000, "state": "complete", "error": 0}
        scene.any_of.append([seen, None])
    talk.close()
    return scene


def keeper_v42() -> Scene:
    """ClickHouse Keeper refuses a connection: version 42 in its answer."""
    scene = Scene(anomalies_allowed=["*"])
    talk = Talk(scene).open()
    refused = zk.connect_response(timeout_ms=30000, session=0, version=42, read_only=None)
    row = talk.connect(0, answer=refused)
    del row["error"]
    talk.close()
    return scene


def read_your_event() -> Scene:
    """A write's own watch event comes before its reply, both in one segment, split in the length
    prefix.
    """
    scene, talk = _scene()
    talk.exists(1, "/n", 0x100, watch=True)
    create = zk.create("/n", b"v")
    row = talk.ask(2, zk.CREATE, create, path="/n", flags=0, data_length=1, created_path="/n")
    event = zk.watch_event(1, "/n", zxid=0x101)
    reply = talk.reply(2, 0x101, 0, zk.ustring("/n"))
    stream = zk.frame(event) + reply
    cut = len(event) + 4 + 2  # two bytes into the reply's length
    talk.send(SERVER, stream[:3])
    first = talk.send(SERVER, stream[3:cut])
    talk.send(SERVER, stream[cut:])
    talk.saw_event(event, first, 1, "/n", 0x101)
    talk.answered(row, reply, first, 0x101)
    talk.goodbye(3, 0x102)
    return scene


def failed_multi() -> Scene:
    """Failed multis: all results are errors while the header says 0; and one with an error in the
    header.
    """
    scene, talk = _scene()
    parts = [
        zk.multi_header(zk.CREATE) + zk.create("/m/a"),
        zk.multi_header(zk.CHECK) + zk.ustring("/m") + zk.i32(9),
        zk.multi_header(zk.DELETE) + zk.ustring("/m/b") + zk.i32(-1),
    ]
    errors = (0, -103, -2)
    results = [zk.multi_header(-1, False, e) + zk.i32(e) for e in errors]
    ops = [("create", "/m/a"), ("check", "/m"), ("delete", "/m/b")]
    subs = [
        {"op": op, "path": path, "error": error}
        for (op, path), error in zip(ops, errors, strict=True)
    ]
    body = b"".join(parts) + zk.MULTI_END
    row = talk.call(1, zk.MULTI, body, 0x100, b"".join(results) + zk.MULTI_END, sub=subs)
    row["error"] = -103
    unknown = [{"op": op, "path": path} for op, path in ops]
    talk.call(2, zk.MULTI, body, 0x101, error=-112, sub=unknown)
    talk.call(3, zk.MULTI, zk.MULTI_END, 0x102, zk.MULTI_END, sub=[])
    talk.goodbye(4, 0x103)
    return scene


SCENES = {
    f.__name__: f
    for f in (
        xid_reuse,
        xid_wrap,
        pings,
        set_watches_xid,
        oversized,
        big_reply,
        unknown_opcode,
        unmatched,
        words,
        refusal16,
        refusal_session,
        pipelined_connect,
        hostile,
        secrets,
        keeper_ops,
        keeper_v11,
        keeper_v10,
        keeper_v42,
        read_your_event,
        failed_multi,
    )
}
