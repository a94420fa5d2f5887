"""Ports and xids that are used again where the capture lost what would tell so."""

from __future__ import annotations

from collections.abc import Sequence

from tests.support import net, zk
from tests.support.decoded import Decoded, decode_records
from tests.support.net import Seg
from tests.support.talk import CLIENT, SERVER, Scene, Talk


def _decode(segs: Sequence[Seg], engine: str) -> Decoded:
    return decode_records([net.record(seg) for seg in segs], engine=engine)


def _ask(talk: Talk, xid: int) -> None:
    talk.send(CLIENT, zk.frame(zk.request(xid, zk.GET_DATA, zk.path_watch(f"/x{xid}"))))


def _answer(talk: Talk, xid: int, zxid: int, *, lost: bool = False) -> None:
    body = zk.buffer(b"data") + zk.stat(czxid=zxid, data_length=4)
    talk.send(SERVER, zk.frame(zk.reply(xid, zxid, 0, body)), lost=lost)


def _states(decoded: Decoded) -> list[tuple[object, object, object]]:
    rows = sorted(decoded.exchanges, key=lambda row: int(row["seq"]))
    return [(row["op"], row["xid"], row["state"]) for row in rows]


def _old(scene: Scene) -> Talk:
    """A connection whose last request, xid 5, waits for its reply."""
    talk = Talk(scene).open()
    talk.connect()
    for xid in range(1, 5):
        _ask(talk, xid)
        _answer(talk, xid, 100 + xid)
    _ask(talk, 5)
    return talk


def _again(scene: Scene, old: Talk) -> Talk:
    """The same ports, sequence numbers near, the handshake of TCP not captured."""
    scene.tick(10**9)
    new = Talk(scene, isn=(old.next[CLIENT] + 5_000, old.next[SERVER] + 7_000))
    for side in (CLIENT, SERVER):
        new.next[side] += 1
    return new


def test_handshake_behind_a_gap(engine: str) -> None:
    scene = Scene()
    new = _again(scene, _old(scene))
    new.connect(session=0x2000_0000_0000_0002)
    for xid in (4, 5, 6, 7):
        if xid != 5:
            _ask(new, xid)
        else:
            new.segment(CLIENT, net.PSH | net.ACK, bytes(30), lost=True)
        _answer(new, xid, 200 + xid)
        new.ack(CLIENT)
    decoded = _decode(scene.segs, engine)
    last = [row for row in decoded.exchanges if row["xid"] == 5]
    assert [(row["state"], row["latency_ns"]) for row in last] == [
        ("no_reply", None),
        ("no_request", None),
    ]
    sessions = {row["session"] for row in decoded.exchanges if row["state"] == "complete"}
    assert 0x2000_0000_0000_0002 in sessions
    assert "reused" in {row["reason"] for row in decoded.anomalies}


def test_answer_of_a_handshake_behind_a_gap(engine: str) -> None:
    scene = Scene()
    new = _again(scene, _old(scene))
    new.segment(CLIENT, net.PSH | net.ACK, zk.frame(zk.connect_request()), lost=True)
    new.send(SERVER, zk.frame(zk.connect_response(session=0x2000_0000_0000_0002)))
    new.segment(CLIENT, net.PSH | net.ACK, bytes(500), lost=True)
    _answer(new, 5, 205)
    decoded = _decode(scene.segs, engine)
    assert ("getData", 5, "no_reply") in _states(decoded)
    assert ("getData", 5, "complete") not in _states(decoded)


def test_data_beyond_a_fin(engine: str) -> None:
    scene = Scene()
    old = _old(scene)
    old.segment(CLIENT, net.FIN | net.ACK)
    old.segment(SERVER, net.FIN | net.ACK)
    new = _again(scene, old)
    for xid in (3, 4):
        _ask(new, xid)
        _answer(new, xid, 200 + xid)
    _answer(new, 5, 205)
    decoded = _decode(scene.segs, engine)
    assert ("getData", 5, "complete") not in _states(decoded)
    assert ("getData", 4, "complete") in _states(decoded)
    assert decoded.coverage["connections"] == 2
    assert decoded.coverage["joined_connections"] == 1


def test_data_far_away(engine: str) -> None:
    """A second after the old connection Linux' next initial number is farther than 8 MiB."""
    scene = Scene()
    old = _old(scene)
    scene.tick(10**9)
    new = Talk(scene, isn=(old.next[CLIENT] + (1 << 24), old.next[SERVER] + (1 << 24)))
    for xid in (3, 4):
        _ask(new, xid)
        _answer(new, xid, 200 + xid)
    decoded = _decode(scene.segs, engine)
    assert decoded.coverage["connections"] == 2
    assert ("getData", 4, "complete") in _states(decoded)


def test_passed_by_a_later_reply(engine: str) -> None:
    """Replies come in order: where that to a later request was seen, the earlier one was lost."""
    scene = Scene()
    talk = Talk(scene).open()
    talk.connect()
    for xid in (1, 2, 3, 4):
        _ask(talk, xid)
    _answer(talk, 1, 101)
    _answer(talk, 2, 102, lost=True)
    _answer(talk, 3, 103)
    talk.ack(CLIENT)
    again = zk.frame(zk.request(2, zk.GET_DATA, zk.path_watch("/hidden")))
    talk.send(CLIENT, again, lost=True)
    _answer(talk, 4, 104)
    _answer(talk, 2, 105)
    talk.ack(CLIENT)
    states = _states(_decode(scene.segs, engine))
    assert ("getData", 2, "complete") not in states
    assert ("getData", 3, "complete") in states
    assert ("getData", 4, "complete") in states
