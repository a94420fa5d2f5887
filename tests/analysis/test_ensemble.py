"""The ensemble's picture and elections, against what was done to the servers (the truths'
``admin``), and made-up votes.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

import zktrace
from tests.conftest import needs_native
from tests.support.cases import PCAPS
from zktrace.analysis.elections import Handshake, Lost, elections
from zktrace.analysis.ensemble import EnsembleCollector

NAMES = (
    *("01_election_start", "08_sync_diff", "09_sync_snap", "12_leader_kill"),
    *("13_session_expiry_move", "15_container_ttl_reap", "18_bare_check_poison"),
    *("42_quorum_sasl", "54_v39_sync_snap", "60_observer_master", "61_sync_trunc"),
)


def picture(name: str, engine: str) -> dict[str, Any]:
    return zktrace.read(PCAPS / f"{name}.pcap", engine=engine).ensemble()


def kinds(found: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [(one["kind"], one["winner"], one["epoch"], one["leader"]) for one in found["elections"]]


def test_cold_start(engine: str) -> None:
    found = picture("01_election_start", engine)
    assert kinds(found) == [("election", 2, 1, "127.0.0.2:28882")]
    (one,) = found["elections"]
    assert one["cause"]["what"] == "no_leader_seen"
    assert one["start_ns"] < one["end_ns"] < one["serving_ns"]
    assert one["notifications"] == 157
    assert {vote["sid"]: vote["observer"] for vote in one["votes"]} == {
        1: False,
        2: False,
        3: False,
        4: True,
    }
    # Sid 3 came late, voted for itself and was told.
    assert {vote["sid"]: vote["leader"] for vote in one["votes"]}[3] == 3
    (leader,) = found["leaders"]
    assert (leader["sid"], leader["epoch"], leader["txns"]) == (2, 1, 0)


def test_leader_killed(engine: str) -> None:
    """Sid 2 led and was killed, sid 3 took over, sid 2 came back."""
    found = picture("12_leader_kill", engine)
    assert kinds(found) == [("election", 3, 3, "127.0.0.3:28883"), ("join", 3, None, None)]
    election, join = found["elections"]
    assert election["cause"]["what"] == "connection_lost"
    assert election["cause"]["leader"] == "127.0.0.2:28882"
    assert election["cause"]["connections"] == 3
    assert election["cause"]["ts_ns"] < election["start_ns"] < election["serving_ns"]
    assert election["zxid"] == "0x20000001a"
    assert [vote["sid"] for vote in join["votes"]] == [2]
    assert [(one["epoch"], one["leader"], one["txns"]) for one in found["leaders"]] == [
        (2, "127.0.0.2:28882", 22),
        (3, "127.0.0.3:28883", 2),
    ]
    ended = [(one["learner"], one["ended"]) for one in found["learners"]]
    assert [event for _, event in ended] == ["closed", "closed", "reset", None, None, None]
    back = found["learners"][-1]
    assert (back["sid"], back["sync"]["type"], back["sync"]["txns"]) == (2, "DIFF", 1)
    assert back["sync"]["learner_zxid"] == "0x20000001a"
    assert [one["to"] for one in found["sessions"]["moves"]] == ["127.0.0.3:21813"]


@pytest.mark.parametrize(
    ("name", "kind", "txns"), [("08_sync_diff", "DIFF", 11), ("09_sync_snap", "SNAP", 0)]
)
def test_follower_came_back(name: str, kind: str, txns: int, engine: str) -> None:
    """A follower that was stopped starts: no election, the leader stays."""
    found = picture(name, engine)
    assert kinds(found) == [("join", 3, None, None)]
    assert [vote["sid"] for vote in found["elections"][0]["votes"]] == [1]
    sync = found["learners"][-1]["sync"]
    assert (sync["type"], sync["txns"]) == (kind, txns)
    assert (sync["snapshot_nodes"] == 25) is (kind == "SNAP")
    assert sync["duration_us"] > 0
    assert all(one["lag"]["end_zxids"] == 0 for one in found["learners"])


def test_leader_down_by_a_poisoned_txn(engine: str) -> None:
    """Answers of the leader that goes down do not make it the winner."""
    found = picture("18_bare_check_poison", engine)
    assert kinds(found) == [("election", 2, 2, "127.0.0.2:28882")]
    assert found["elections"][0]["cause"]["leader"] == "127.0.0.3:28883"
    lag = [one["lag"]["end_zxids"] for one in found["learners"] if one["lag"]]
    assert lag == [1, 1]  # the poisoned txn was never acknowledged


def test_sessions(engine: str) -> None:
    sessions = picture("13_session_expiry_move", engine)["sessions"]
    assert (sessions["created"], sessions["closed"], sessions["expired"]) == (3, 2, 1)
    (expiry,) = sessions["expiries"]
    assert expiry["session"] == "0x0100001e10f50000"
    assert expiry["zxid"] == "0x300000007"
    (move,) = sessions["moves"]
    assert (move["session"], move["from"], move["to"]) == (
        "0x0100001e10f50001",
        "127.0.0.1:21811",
        "127.0.0.2:21812",
    )


def test_reaping(engine: str) -> None:
    reaped = picture("15_container_ttl_reap", engine)["reaped"]
    assert [(one["path"], one["kind"]) for one in reaped["nodes"]] == [
        ("/cont", "container"),
        ("/ttlx", "ttl"),
        ("/pttl-0000000003", "ttl"),
    ]
    assert reaped["count"] == 3


@needs_native
@pytest.mark.parametrize("name", NAMES)
def test_engines_and_batches_give_the_same(name: str) -> None:
    path = PCAPS / f"{name}.pcap"
    whole = zktrace.read(path, engine="python").ensemble()
    assert zktrace.read(path, engine="native").ensemble() == whole
    collector = EnsembleCollector()
    for batches in zktrace.iter_batches(path, engine="native"):
        for kind, batch in batches.items():
            for at in range(0, batch.num_rows, 7):
                collector.add({kind: batch.slice(at, 7)})
    assert collector.result() == whole


@pytest.mark.parametrize("path", sorted(PCAPS.glob("*.pcap*")), ids=lambda path: path.name)
def test_every_capture(path: Any) -> None:
    try:
        trace = zktrace.read(path)
    except zktrace.CaptureError:
        return
    found = trace.ensemble()
    assert set(found) == {"leaders", "learners", "elections", "sessions", "reaped"}


# ---- votes made up


def note(ts_ms: float, sid: int | None, leader: int | None, **more: Any) -> dict[str, Any]:
    row = {
        "seq": 0,
        "ts_ns": round(ts_ms * 1e6),
        "conn": 0,
        "type": "notification",
        "direction": "from_opener",
        "sid": sid,
        "client": "c",
        "server": "s",
        "address": None,
        "state": "LOOKING",
        "leader": leader,
        "zxid": 7,
        "election_epoch": 1,
        "peer_epoch": 0,
    }
    return row | more


def test_unanimous_votes_name_the_winner() -> None:
    (one,) = elections([note(0, 1, 1), note(1, 2, 2), note(2, 1, 2)])
    assert (one["kind"], one["winner"], one["duration_us"], one["rounds"]) == (
        "election",
        2,
        2000,
        1,
    )
    assert [(v["sid"], v["sent"], v["changes"]) for v in one["votes"]] == [(1, 2, 1), (2, 1, 0)]


def test_no_winner_without_agreement() -> None:
    (one,) = elections([note(0, 1, 1), note(1, 2, 2)])
    assert one["winner"] is None


def test_alone_is_no_winner() -> None:
    """One server of three asks again and again: one election without a winner."""
    rows = [note(200 * 2**i, 3, 3) for i in range(8)]
    (one,) = elections(rows)
    assert one["winner"] is None
    assert one["votes"][0]["sent"] == 8


def test_two_elections() -> None:
    rows = [note(0, 1, 2), note(1, 2, 2)]
    rows += [note(10_000, 1, 1, election_epoch=2), note(10_001, 3, 3, election_epoch=2)]
    rows += [note(10_002, 1, 3, election_epoch=2)]
    first, second = elections(rows)
    assert (first["winner"], second["winner"]) == (2, 3)
    assert (first["round"], second["round"]) == (1, 2)


def test_a_vote_sent_again_is_no_election() -> None:
    rows = [note(0, 1, 2), note(1, 2, 2), note(30_000, 1, 2)]
    (one,) = elections(rows)
    assert one["end_ns"] == 1_000_000
    assert one["notifications"] == 3


def test_an_observer_does_not_vote() -> None:
    rows = [note(0, 4, None, zxid=None), note(1, 1, 2), note(2, 2, 2), note(3, 4, 9)]
    (one,) = elections(rows)
    assert one["winner"] == 2
    assert [v["sid"] for v in one["votes"] if v["observer"]] == [4]


def test_what_observers_are_told_is_no_vote() -> None:
    """A server that looks answers an observer by the vote that it had before the election."""
    rows = [
        note(0, 4, None, type="initial", conn=7),
        note(1, 2, 3),
        note(2, 3, 3),
        note(3, 4, None, zxid=None, conn=7),
        # to the observer, which had opened the connection: the leader that was lost
        note(4, 2, 1, direction="to_opener", conn=7),
    ]
    (one,) = elections(rows)
    assert one["winner"] == 3
    assert {v["sid"]: v["leader"] for v in one["votes"] if not v["observer"]} == {2: 3, 3: 3}


def test_the_last_loss_is_the_cause() -> None:
    second = 1_000_000_000
    shakes = [Handshake(50 * second, "NEWLEADER", "l:1", 7)]
    lost = [
        Lost(20 * second, "k:1", "reset"),  # came again
        Lost(49 * second, "k:1", "closed"),
        Lost(49 * second + 1000, "k:1", "reset"),
        Lost(55 * second, "k:1", "closed"),
    ]
    (one,) = elections([], shakes, lost, {6: 100})
    assert (one["cause"]["ts_ns"], one["cause"]["connections"]) == (49 * second, 2)
    # An epoch began since: how that one's leader was lost was not seen.
    (one,) = elections([], shakes, lost[:1], {5: 100, 6: 30 * second})
    assert one["cause"] is None


def test_an_observer_master_does_not_lead(engine: str) -> None:
    found = picture("60_observer_master", engine)
    assert [(one["sid"], one["leader"]) for one in found["leaders"]] == [(3, "127.0.0.3:51757")]
    observer = next(one for one in found["learners"] if one["role"] == "observer")
    assert (observer["sid"], observer["leader"]) == (4, "127.0.0.1:50545")
    assert (found["sessions"]["created"], found["sessions"]["closed"]) == (1, 1)


def test_a_leader_cut_back(engine: str) -> None:
    """Sid 2 led, proposed what nobody got, was killed, and rejoined sid 3."""
    found = picture("61_sync_trunc", engine)
    back = found["learners"][-1]
    assert (back["sid"], back["sync"]["type"]) == (2, "TRUNC")
    assert (back["sync"]["zxid"], back["sync"]["learner_zxid"]) == ("0x100000003", "0x100000006")
    held = [(one["kind"], one["winner"], one["epoch"]) for one in found["elections"]]
    assert held == [("election", 2, 1), ("election", 3, 2), ("join", 3, None)]
    assert (found["sessions"]["created"], found["sessions"]["closed"]) == (2, 1)
    assert found["leaders"][0]["committed_zxid"] == "0x100000003"
    assert found["leaders"][0]["proposed_zxid"] == "0x100000006"


def test_only_the_quorum_port() -> None:
    shakes = [
        Handshake(5_000, "LEADERINFO", "l:1", 7),
        Handshake(6_000, "NEWLEADER", "l:1", 7),
        Handshake(9_000, "UPTODATE", "l:1", None),
    ]
    (one,) = elections([], shakes, [Lost(1_000, "k:1", "closed")], {6: 100})
    assert (one["epoch"], one["leader"], one["serving_ns"]) == (7, "l:1", 9_000)
    assert one["cause"] == {
        "what": "connection_lost",
        "leader": "k:1",
        "ts_ns": 1_000,
        "connections": 1,
    }
    # An epoch that was at work long before is not new: a learner joins it.
    later = [shake._replace(ts_ns=shake.ts_ns + 10**12) for shake in shakes]
    assert elections([], later, [], {7: 100}) == []


def test_whatever_votes_say() -> None:
    """Any rows make records, and neither order nor number is assumed."""
    for seed in range(200):
        chance = random.Random(seed)
        rows = [
            note(
                chance.choice([0, 1, 2_000, 70_000, 10**6]),
                chance.choice([None, 1, 2, 3, -5]),
                chance.choice([None, 1, 2, 3]),
                state=chance.choice(["LOOKING", "LOOKING", "FOLLOWING", "LEADING", "OBSERVING"]),
                election_epoch=chance.choice([None, 0, 1, 2]),
                type=chance.choice(["initial", "notification"]),
                direction=chance.choice(["from_opener", "to_opener"]),
                address=chance.choice([None, "s", "a|b"]),
            )
            for _ in range(chance.randrange(30))
        ]
        found = elections(rows)
        assert found == elections(list(reversed(rows))) or len(
            {(row["ts_ns"], row["seq"]) for row in rows}
        ) < len(rows)
        assert [one["start_ns"] for one in found] == sorted(one["start_ns"] for one in found)
