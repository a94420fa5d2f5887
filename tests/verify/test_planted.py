"""Violations planted by editing captures: each is found, by its own check, and no other is.

Captures of real ensembles where they hold what is to be broken, else ones made by
``tests.support.zab``. Every script is seen to be healthy before it is edited.
"""

from __future__ import annotations

import itertools
import struct

import pytest

from tests.support import zk
from tests.support.script import CLIENT, SERVER, Message, Script
from tests.support.zab import Zab, healthy
from tests.verify.plant import (
    Client,
    broken,
    moved,
    of_capture,
    rewritten,
    swapped,
    texts,
    verified,
    without,
)
from zktrace.analysis.verify import CHECKS, Verified

_REPLY_ZXID = 8  # behind length and xid


def _only(found: Verified, check: str, *words: str) -> None:
    assert broken(found) == {check}, texts(found)
    said = texts(found)
    assert all(word in said for word in words), said
    finding = next(one for one in (*found.findings, *found.alarms))
    assert finding.packets
    for packet in finding.packets:
        assert packet.ts_ns > 0
        assert ">" in packet.flow
        assert packet.what


def _healthy(script: Script, engine: str) -> Script:
    found = verified(script, engine)
    assert not broken(found), texts(found)
    return script


# ---- sessions


def test_zxid_goes_back(engine: str) -> None:
    script = _healthy(of_capture("25_kazoo_ops"), engine)
    replies = script.pick(role="client", side=SERVER)
    # two replies in a row that have the same zxid: the second goes back by one
    for before, one in itertools.pairwise(replies):
        zxids = [struct.unpack_from(">q", reply.data, _REPLY_ZXID)[0] for reply in (before, one)]
        if zxids[0] == zxids[1] > 1 and before.conn == one.conn:
            break
    edited = script.replaced(one, rewritten(one, _REPLY_ZXID, ">q", zxids[1] - 1))
    found = verified(edited, engine)
    _only(found, "session-zxid", "then at 0x")


def _pipelined() -> tuple[Client, list[Message]]:
    client = Client()
    for xid in range(1, 7):
        client.ask(xid, zk.EXISTS, zk.path_watch(f"/n{xid}"))
    return client, [client.answer(xid, 0x100, error=-101) for xid in range(1, 7)]


def test_replies_out_of_order(engine: str) -> None:
    client, replies = _pipelined()
    script = _healthy(client.script, engine)
    found = verified(swapped(script, replies[2], replies[3]), engine)
    _only(found, "session-order", "xid 4 was answered before xid 3")


def test_a_read_older_than_the_own_write(engine: str) -> None:
    client = Client()
    client.get(1, "/a", 0x100, 0x50)
    client.set(2, "/a", 0x101)
    client.set(3, "/b", 0x102)
    read = client.get(4, "/a", 0x102, 0x101)
    script = _healthy(client.script, engine)
    found = verified(script.replaced(read, rewritten(read, -60, ">q", 0x50)), engine)
    _only(found, "session-reads", "wrote 0x101 and then read 0x50")


def test_a_read_older_than_the_own_write_in_a_real_capture(engine: str) -> None:
    script = _healthy(of_capture("02_basic_ops"), engine)
    replies = [one for one in script.pick(role="client", side=SERVER) if len(one.data) >= 88]
    # Of a node that was written and then read: an older mzxid, though not older than the node.
    found = None
    for one in replies:
        czxid, mzxid = struct.unpack_from(">qq", one.data, len(one.data) - 68)
        if 0 < czxid < mzxid:
            edited = script.replaced(one, rewritten(one, -60, ">q", czxid))
            found = verified(edited, engine)
            if broken(found):
                break
    assert found is not None
    _only(found, "session-reads")


def test_an_event_behind_the_reply_that_shows_it(engine: str) -> None:
    script = _healthy(of_capture("52_v39_watches"), engine)
    sent = [one for one in script.pick(role="client", side=SERVER) if one.conn == 1]
    heads = [struct.unpack_from(">iq", one.data, 4) for one in sent]
    at = next(
        at
        for at, ((xid, zxid), (answered, shown)) in enumerate(itertools.pairwise(heads))
        if xid == -1 and answered > 0 and shown >= zxid > 0
    )
    found = verified(moved(script, sent[at], sent[at + 1].ts_ns + 1), engine)
    _only(found, "session-events", "came behind a reply")


def test_a_change_without_its_event(engine: str) -> None:
    """3.8: events do not tell their zxid, but a watched node's Stat tells that it changed."""
    client = Client()
    client.get(1, "/a", 0x100, 0x50, watch=True)
    event = client.event("/a")
    client.get(2, "/a", 0x101, 0x101)
    script = _healthy(client.script, engine)
    _only(verified(without(script, event), engine), "session-events", "no event told")


def test_a_server_that_is_behind_its_client(engine: str) -> None:
    client = Client(seen=0x100)
    client.get(1, "/a", 0x100, 0x50)
    script = _healthy(client.script, engine)
    one = script.messages[0]
    found = verified(script.replaced(one, rewritten(one, 8, ">q", 0x101)), engine)
    _only(found, "session-move", "had seen 0x101")


# ---- order and sameness


def test_informs_out_of_order(engine: str) -> None:
    script = _healthy(healthy().script, engine)
    informs = script.pick(role="quorum", kind="INFORM")
    _only(verified(swapped(script, informs[3], informs[4]), engine), "leader-order", "behind")


def test_a_proposal_left_out(engine: str) -> None:
    script = _healthy(of_capture("08_sync_diff"), engine)
    informs = script.pick(role="quorum", kind="INFORM")
    _only(verified(without(script, informs[2]), engine), "leader-order", "left out")


def test_commits_out_of_order(engine: str) -> None:
    script = _healthy(healthy().script, engine)
    commits = [one for one in script.pick(role="quorum", kind="COMMIT") if one.conn == 0]
    later = moved(script, commits[2], commits[3].ts_ns + 1)
    _only(verified(later, engine), "commit-order", "was the oldest proposal")


def test_a_commit_left_out(engine: str) -> None:
    script = _healthy(of_capture("12_leader_kill"), engine)
    commits = script.pick(role="quorum", kind="COMMIT")
    mine = [one for one in commits if one.conn == commits[0].conn]
    _only(verified(without(script, mine[1]), engine), "commit-order")


def test_another_txn_for_one_learner(engine: str) -> None:
    script = _healthy(of_capture("08_sync_diff"), engine)
    one = script.pick(role="quorum", kind="PROPOSAL")[1]
    cxid = 16 + 8
    found = verified(script.replaced(one, rewritten(one, cxid, ">i", 4711)), engine)
    _only(found, "same-txn", "not the same transaction", hex(one.zxid))


def test_another_path_for_one_learner(engine: str) -> None:
    script = _healthy(healthy().script, engine)
    one = script.pick(role="quorum", kind="PROPOSAL")[5]
    edited = one.but(data=one.data.replace(b"/n", b"/m"))
    _only(verified(script.replaced(one, edited), engine), "same-txn")


def test_other_data_for_one_learner(engine: str) -> None:
    """Of the same size and path: only the bytes tell."""
    script = _healthy(healthy().script, engine)
    one = script.pick(role="quorum", kind="PROPOSAL")[5]
    edited = one.but(data=one.data.replace(b"data", b"DATA"))
    assert edited.data != one.data
    _only(verified(script.replaced(one, edited), engine), "same-txn", hex(one.zxid))


def test_trees_that_differ(engine: str) -> None:
    script = _healthy(of_capture("12_leader_kill"), engine)
    one = script.pick(role="quorum", kind="PROPOSAL")[4]
    # 4 bytes of ids follow the digest
    found = verified(script.replaced(one, rewritten(one, -12, ">q", 4711)), engine)
    _only(found, "digest", "the trees differ after")


# ---- quorums


def _acks(script: Script, zxid: int) -> list[Message]:
    return script.pick(role="quorum", kind="ACK", side=CLIENT, zxid=zxid)


@pytest.mark.parametrize(("size", "dropped"), [(3, 2), (4, 2), (5, 3)])
def test_a_commit_without_a_quorum(engine: str, size: int, dropped: int) -> None:
    script = _healthy(healthy(size=size).script, engine)
    acks = _acks(script, 1 << 32 | 5)
    assert len(acks) == size - 1
    found = verified(without(script, *acks[:dropped]), engine)
    _only(found, "commit-quorum", f"of {size} voters", "0x100000005")
    # those that came before the COMMIT make the quorum alone
    assert not broken(verified(without(script, *acks[size // 2 :]), engine))


def test_acks_that_come_late(engine: str) -> None:
    script = _healthy(healthy(size=5).script, engine)
    acks = _acks(script, 1 << 32 | 5)
    until = _acks(script, 1 << 32 | 8)[-1].ts_ns
    late = script
    for ack in acks[:3]:
        late = moved(late, ack, until)
    _only(verified(late, engine), "commit-quorum", "of 5 voters", "0x100000005")


def test_a_voter_that_was_not_seen_may_have_acknowledged(engine: str) -> None:
    script = healthy(size=5).script
    acks = _acks(script, 1 << 32 | 5)
    # All ACKs of it, and of the four followers two were captured elsewhere.
    hidden = {acks[0].conn, acks[1].conn}
    made = without(script, *acks).edited(lambda all_: [m for m in all_ if m.conn not in hidden])
    found = verified(made, engine)
    assert not broken(found), texts(found)
    outcome = next(one for one in found.outcomes if one.check.name == "commit-quorum")
    assert any("may have acknowledged" in text for text in outcome.unseen)


def test_voters_that_are_told(engine: str) -> None:
    """Joined in the middle: no NEWLEADER says who votes."""
    whole = healthy(size=3, terms=1).script
    start = whole.pick(role="quorum", kind="PROPOSAL", zxid=1 << 32 | 2)[0].ts_ns
    script = whole.edited(lambda all_: [one for one in all_ if one.ts_ns >= start])
    for party in script.parties:
        party.began = False
    edited = without(script, *_acks(script, 1 << 32 | 6))
    assert not broken(verified(edited, engine))
    found = verified(edited, engine, voters=3)
    _only(found, "commit-quorum", "1 of 3 voters")
    assert not broken(verified(script, engine, voters=3))


def test_uptodate_without_a_quorum(engine: str) -> None:
    zab = Zab(size=5)
    zab.lead(1, [2])
    for sid in (3, 4, 5):
        zab.join(sid, False)
    zab.write(12)
    _only(verified(zab.script, engine), "uptodate-quorum", "at most 2 of 5 voters", "epoch 1")
    # Those of whom nothing was seen may have acknowledged.
    unseen = Zab(size=5)
    unseen.lead(1, [2])
    for sid in (3, 4):
        unseen.join(sid, False)
    unseen.write(12)
    assert not broken(verified(unseen.script, engine))


def test_a_lone_voter_needs_nobody(engine: str) -> None:
    zab = Zab(size=1, observers=1)
    zab.lead(1, [], [2])
    zab.write(6)
    assert not broken(verified(zab.script, engine))


# ---- epochs


def test_two_leaders(engine: str) -> None:
    zab = Zab(size=5)
    zab.lead(1, [3])
    zab.write(4)
    _healthy(zab.script, engine)
    # the other half of the ensemble knows nothing of it
    zab.leader, zab.zxid = 2, 1 << 32
    zab.join(4, False)
    _only(verified(zab.script, engine), "one-leader", "both lead in epoch 1")


def test_an_older_epoch_accepted(engine: str) -> None:
    script = _healthy(healthy(terms=1).script, engine)
    one = script.pick(role="quorum", kind="FOLLOWERINFO")[0]
    edited = script.replaced(one, rewritten(one, 4, ">q", 5 << 32))
    _only(verified(edited, engine), "epoch-order", "went back to 1")


def test_an_epoch_forgotten(engine: str) -> None:
    script = _healthy(healthy(size=5, terms=3).script, engine)
    one = next(
        message
        for message in script.pick(role="quorum", kind="FOLLOWERINFO", zxid=2 << 32)
        if message.packet.data and message.packet.data[7] == 5
    )
    edited = script.replaced(one, rewritten(one, 4, ">q", 1 << 32))
    _only(verified(edited, engine), "epoch-order", "server 5", "knew only of 1")


def test_a_proposal_of_another_epoch(engine: str) -> None:
    """Behind the last txn, so that nothing else is out of order."""
    zab = healthy(terms=1)
    learner = next(one for one in zab.learning if one.observer)
    _healthy(zab.script, engine)
    zab.tell(learner, SERVER, "INFORM", 7 << 32 | 1, zab.txn(7 << 32 | 1, "/late"))
    _only(verified(zab.script, engine), "epoch-order", "leads in epoch 1 and proposed 0x700000001")


def test_a_committed_txn_lost(engine: str) -> None:
    script = _healthy(healthy().script, engine)
    last = 1 << 32 | 12
    syncs = script.pick(role="quorum", kind="DIFF", zxid=last)
    edited = script.replaced(syncs[0], syncs[0].at_zxid(last - 1))
    _only(verified(edited, engine), "committed-kept", "0x10000000c was committed", "0x10000000b")


def test_a_committed_txn_lost_in_a_real_capture(engine: str) -> None:
    script = _healthy(of_capture("12_leader_kill"), engine)
    sync = script.pick(role="quorum", kind="DIFF")[0]
    edited = script.replaced(sync, sync.at_zxid(sync.zxid - 5))
    _only(verified(edited, engine), "committed-kept")


def test_uptodate_before_newleader(engine: str) -> None:
    script = _healthy(of_capture("54_v39_sync_snap"), engine)
    (new,) = script.pick(role="quorum", kind="NEWLEADER")
    (done,) = script.pick(role="quorum", kind="UPTODATE")
    _only(verified(swapped(script, new, done), engine), "sync-order", "out of order")


def test_uptodate_before_the_ack(engine: str) -> None:
    script = _healthy(healthy(terms=1).script, engine)
    done = script.pick(role="quorum", kind="UPTODATE")[0]
    ack = script.pick(role="quorum", kind="ACK", zxid=1 << 32)[0]
    earlier = script.edited(lambda all_: _before(all_, done, ack))
    _only(verified(earlier, engine), "sync-order", "before it acknowledged NEWLEADER")


def _before(messages: list[Message], one: Message, other: Message) -> list[Message]:
    rest = [message for message in messages if message is not one]
    at = next(at for at, message in enumerate(rest) if message is other)
    return [*rest[:at], one.but(ts_ns=other.ts_ns - 1), *rest[at:]]


# ---- alarms


def test_bare_check(engine: str) -> None:
    _only(verified(of_capture("18_bare_check_poison"), engine), "bare-check")


def test_no_quorum_left(engine: str) -> None:
    script = healthy(size=5, terms=1).script
    _healthy(script, engine)
    commits = script.pick(role="quorum", kind="COMMIT", zxid=1 << 32 | 8)
    until = commits[-1].ts_ns
    stays = commits[-1].conn

    def edit(messages: list[Message]) -> list[Message]:
        return [
            one
            for one in messages
            if one.ts_ns <= until or (one.conn == stays and one.kind in ("PROPOSAL", "ACK"))
        ]

    found = verified(script.edited(edit), engine)
    _only(found, "no-quorum", "after it had lost its quorum")
    assert found.ok


def test_a_leader_that_flaps(engine: str) -> None:
    found = verified(healthy(terms=4).script, engine)
    _only(found, "flapping-leader", "4 epochs began within")
    assert found.ok


def test_every_check_has_its_violation() -> None:
    """So that a check added later comes with one."""
    planted = {
        *("session-zxid", "session-order", "session-reads", "session-events", "session-move"),
        *("leader-order", "commit-order", "same-txn", "digest", "commit-quorum", "one-leader"),
        *("uptodate-quorum", "epoch-order", "committed-kept", "sync-order"),
        *("bare-check", "no-quorum", "flapping-leader"),
    }
    assert set(CHECKS) == planted
