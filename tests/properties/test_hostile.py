"""What all connections together hold is bounded, both engines give up the same, and nothing shown
is wrong after it.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from random import Random

import pytest

from tests.conftest import needs_native
from tests.support import hostile, zk
from tests.support.decoded import decode_bytes
from tests.support.hostile import Peer, Wire
from tests.support.peak import measured, peak_kb

#: Megabytes that `zktrace stats` promises to stay below, whatever a capture holds.
_MOST_MB = 100


@needs_native
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("name", hostile.MAKERS)
def test_memory_of_stats(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZKTRACE_ENGINE", "native")
    capture = hostile.write(tmp_path / "hostile.pcap", hostile.MAKERS[name]())
    command = measured("stats", "--json", str(capture))
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    capture.unlink()
    assert peak_kb(done.stderr) < _MOST_MB * 1024


@needs_native
@pytest.mark.parametrize("seed", range(6))
def test_engines_give_up_the_same(seed: int) -> None:
    data = hostile.capture(hostile.mixed(Random(seed)))
    python = decode_bytes(data, engine="python")
    native = decode_bytes(data, engine="native", block=Random(seed).choice((999, 65_536, 1 << 20)))
    assert python == native
    assert python.coverage["memory_limit_hits"] > 0


def _get(xid: int) -> bytes:
    return zk.frame(zk.request(xid, zk.GET_DATA, zk.ustring("/a") + zk.boolean(False)))


def _ping() -> bytes:
    return zk.frame(zk.request(zk.XID_PING, zk.PING))


def _reply(xid: int) -> bytes:
    return zk.frame(zk.reply(xid, 7, 0 if xid < 0 else -101))


@pytest.mark.parametrize("later", [2, 1], ids=["another xid", "the same xid"])
def test_requests_given_up_are_told_and_never_paired_wrongly(later: int, engine: str) -> None:
    """One session pings more than can be held and is answered late; another one is at work."""
    wire = Wire()
    loud, quiet = Peer(wire, 1), Peer(wire, 2)
    flood = 110_000
    records = [*loud.session(), *quiet.session()]
    records += [quiet.segment(0, _ping() + _get(1)), loud.segment(0, _get(1))]
    records += loud.say(0, _ping() * flood)
    # replies to what was given up: none of them is that of a later request
    records.append(loud.segment(0, _ping() + _get(later)))
    records += [loud.segment(1, _reply(1))]
    records += loud.say(1, _reply(zk.XID_PING) * (flood + 1))
    records += [loud.segment(1, _reply(later))]
    # by now all that was given up has been answered
    records += [loud.segment(0, _ping()), loud.segment(1, _reply(zk.XID_PING))]
    records += [quiet.segment(1, _reply(zk.XID_PING) + _reply(1))]
    out = decode_bytes(hostile.capture(records), engine=engine)
    assert out.coverage["memory_limit_hits"] == 1
    given_up = out.coverage["given_up_requests"]
    assert flood / 2 < given_up <= flood + 1
    (anomaly,) = (row for row in out.anomalies if row["reason"] == "given_up")
    assert anomaly["client"].startswith("10.1.0.1:")
    assert f"replies to {given_up} requests" in anomaly["detail"]
    assert "unmatched_reply" not in out.reasons()
    by_client: dict[str, list[tuple[str | None, int | None, str]]] = {}
    for row in out.exchanges:
        shown = (row["op"], row["latency_ns"], row["state"])
        by_client.setdefault(row["client"].split(":")[0], []).append(shown)
    worked = by_client["10.1.0.2"]
    assert [row[0] for row in worked if row[2] == "complete"] == ["connect", "ping", "getData"]
    # the later getData proves that all before it were answered, unless its xid says nothing
    complete = [row for row in by_client["10.1.0.1"] if row[2] == "complete"]
    names = ["connect", "getData", "ping"] if later == 2 else ["connect"]
    assert [row[0] for row in complete] == names
    assert complete[-1][1] == 1_000
    unpaired = flood + 4 - (len(names) - 1)
    states = [row[2] for row in by_client["10.1.0.1"]]
    assert states.count("no_reply") == states.count("no_request") == unpaired


def test_who_holds_little_is_left_alone(engine: str) -> None:
    """Bytes in search of a boundary, and an unfinished frame, beside one who holds too much."""
    wire = Wire()
    small = [Peer(wire, 1), Peer(wire, 2)]
    big = [Peer(wire, 10 + number) for number in range(2)]
    records = [record for peer in (*small, *big) for record in peer.session()]
    whole = _get(5) + _get(6) + _get(7)
    records += [small[0].segment(0, zk.i32(-1) + b"\1" * 50), small[1].segment(0, whole[:20])]
    for peer in big:
        records += peer.say(0, _ping() * 60_000)
    records += [small[0].segment(0, whole), small[1].segment(0, whole[20:])]
    out = decode_bytes(hostile.capture(records), engine=engine)
    assert {row["client"].split(":")[0] for row in out.anomalies if row["reason"] == "given_up"} < {
        "10.1.0.10",
        "10.1.0.11",
    }
    for client in ("10.1.0.1:", "10.1.0.2:"):
        xids = [row["xid"] for row in out.exchanges if row["client"].startswith(client)]
        assert xids == [None, 5, 6, 7]


def test_an_unfinished_frame_gives_up_its_bytes_but_not_its_boundary(engine: str) -> None:
    wire = Wire()
    many = [Peer(wire, number) for number in range(40)]
    records = [record for peer in many for record in peer.session()]
    size = 1_000_000
    head = zk.request(1, zk.SET_DATA, zk.ustring("/a") + zk.i32(size))
    for peer in many:
        records.append(peer.segment(0, zk.i32(len(head) + size + 4) + head + bytes(500)))
    for peer in many:
        records += peer.say(0, bytes(size + 4 - 500))
        records.append(peer.segment(0, _get(2)))
        records.append(peer.segment(1, _reply(1) + _reply(2)))
    out = decode_bytes(hostile.capture(records), engine=engine)
    assert 0 < out.coverage["cut_frames"] == out.coverage["memory_limit_hits"] < 40
    assert out.reasons() == {"given_up"}
    assert out.coverage["desyncs"] == 0
    done = [(row["op"], row["path"], row["state"]) for row in out.exchanges]
    assert (
        done.count(("setData", "/a", "complete")) == done.count(("getData", "/a", "complete")) == 40
    )
