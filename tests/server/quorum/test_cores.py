"""The cores one by one: notifications of all formats, who wins, how histories are brought together,
packets cut anywhere.
"""

from __future__ import annotations

import pytest

from zktrace.wire.election import NO_VOTE, Notification, decode_notification
from zktrace.wire.jute import WireError
from zktrace.wire.records import Id
from zktrace_server.core.quorum import packets as p
from zktrace_server.core.quorum.election import FINALIZE_MS, Election, State
from zktrace_server.core.quorum.ensemble import (
    Ensemble,
    Member,
    MembershipError,
    parse_ensemble,
    parse_member,
)
from zktrace_server.core.quorum.handle import Handle, Stage
from zktrace_server.core.quorum.limits import Limits
from zktrace_server.core.quorum.link import Link
from zktrace_server.core.quorum.membership import Membership
from zktrace_server.core.quorum.packets import PacketReader
from zktrace_server.core.quorum.proposals import Proposal, Proposals
from zktrace_server.core.quorum.sync import plan


def _ensemble(voters: int, observers: int = 0) -> Ensemble:
    return Ensemble(
        {
            sid: Member(sid, "127.0.0.1", 2000 + sid, 3000 + sid, sid > voters)
            for sid in range(1, voters + observers + 1)
        }
    )


# --- membership -------------------------------------------------------------------------------


def test_text_is_javas() -> None:
    text = _ensemble(1, 1).text().decode()
    assert text.split("\n") == [
        "server.1=127.0.0.1:2001:3001:participant",
        "server.2=127.0.0.1:2002:3002:observer",
        "version=0",
    ]
    assert parse_member(2, "[::1]:1:2:observer;4").text() == "[::1]:1:2:observer;0.0.0.0:4"
    assert parse_member(2, "a:1:2;;b:4").text() == "a:1:2:participant;;b:4"


@pytest.mark.parametrize("value", ["", "h", "h:1", "h:1:x", "h:1:2:boss", "h:0:2", "a:1:2|b:1:2"])
def test_members_that_are_none(value: str) -> None:
    with pytest.raises(MembershipError, match=r"server\.3"):
        parse_member(3, value)


def test_quorums() -> None:
    assert not _ensemble(4).has_quorum([1, 2])
    assert _ensemble(4, 2).has_quorum([1, 2, 3])
    assert not _ensemble(3, 2).has_quorum([1, 4, 5])
    servers = {sid: f"h:{sid}:{sid}" for sid in range(1, 10)}
    groups = {1: "1:2:3", 2: "4:5:6", 3: "7:8:9"}
    hierarchy = parse_ensemble(servers, groups, {9: "0", 8: "0", 7: "0"})
    # The third group has no weight, so it does not count.
    assert hierarchy.has_quorum([1, 2, 4, 5])
    assert not hierarchy.has_quorum([1, 2, 3, 4])
    with pytest.raises(MembershipError, match="in no group"):
        parse_ensemble(servers, {1: "1:2"}, {})


# --- election ---------------------------------------------------------------------------------


def _run(elections: dict[int, Election], now: int = 0, ms: int = 3000) -> None:
    """Carries notifications at once, lets time pass."""
    for at in range(now, now + ms, 50):
        for sid, one in elections.items():
            one.tick(at)
            while one.out:
                target, vote = one.out.pop(0)
                if target in elections:
                    data = decode_notification(vote.encode())
                    elections[target].receive(at, sid, data)
        if all(one.state is not State.LOOKING for one in elections.values()):
            return


def _elect(histories: dict[int, tuple[int, int]], observers: int = 0) -> dict[int, Election]:
    ensemble = _ensemble(len(histories) - observers, observers)
    elections = {sid: Election(sid, Membership(ensemble)) for sid in histories}
    for sid, (epoch, zxid) in histories.items():
        elections[sid].look(0, zxid, epoch)
    _run(elections)
    return elections


@pytest.mark.parametrize(
    ("histories", "winner"),
    [
        ({1: (0, 0), 2: (0, 0), 3: (0, 0)}, 3),
        ({1: (2, 5), 2: (1, 9), 3: (1, 9)}, 1),
        ({1: (1, 5), 2: (1, 9), 3: (1, 9)}, 3),
        ({1: (1, 5), 2: (1, 9), 3: (1, 8)}, 2),
    ],
)
def test_who_wins(histories: dict[int, tuple[int, int]], winner: int) -> None:
    for sid, one in _elect(histories).items():
        assert one.leader == winner
        assert one.state is (State.LEADING if sid == winner else State.FOLLOWING)


def test_observers_watch_and_do_not_vote() -> None:
    elections = _elect({1: (0, 0), 2: (0, 0), 3: (0, 0), 4: (9, 9)}, observers=1)
    assert elections[4].state is State.OBSERVING
    assert {one.leader for one in elections.values()} == {3}


def test_one_of_three_waits_for_ever() -> None:
    alone = Election(1, Membership(_ensemble(3)))
    alone.look(0, 0, 0)
    for at in range(0, 100_000, 200):
        alone.tick(at)
    assert alone.state is State.LOOKING
    # Less and less often.
    assert 2 * 5 < len(alone.out) < 2 * 20


def test_a_better_vote_within_the_wait() -> None:
    ensemble = _ensemble(3)
    one, two = (Election(sid, Membership(ensemble)) for sid in (1, 2))
    one.look(0, 5, 1)
    two.look(0, 5, 1)
    _run({1: one, 2: two}, ms=100)
    assert one.state is State.LOOKING
    late = Notification(0, 3, 9, one.round, 1, 2, b"")
    one.receive(150, 3, late)
    one.tick(FINALIZE_MS + 10)
    assert one.leader != 2


def test_latecomers_find_the_leader_there_is() -> None:
    elections = _elect({1: (0, 0), 2: (0, 0), 3: (0, 0)})
    for one in elections.values():
        one.lead_in(7)
    late = Election(1, Membership(_ensemble(3)))
    late.round = 40
    late.look(0, 1 << 40, 90)  # a better history: it does not matter any more
    elections[1] = late
    _run(elections)
    assert late.leader == 3
    assert late.state is State.FOLLOWING


def test_a_leader_must_say_so_itself() -> None:
    late = Election(1, Membership(_ensemble(3)))
    late.look(0, 0, 0)
    for sid in (2, 3):
        late.receive(0, sid, Notification(1, 3, 0, 9, 1, 2, b""))
    states = [late.state]
    late.receive(0, 3, Notification(2, 3, 0, 9, 1, 2, b""))
    assert [*states, late.state] == [State.LOOKING, State.FOLLOWING]


@pytest.mark.parametrize("size", [28, 40, 48])
def test_formats(size: int) -> None:
    """Of 3.4.0, of 3.4, and with a configuration: all three are votes."""
    one = Election(1, Membership(_ensemble(3)))
    one.look(0, 0, 0)
    data = Notification(0, 3, 1 << 32 | 9, 1, 1, 2, b"conf").encode()[:size]
    for sid in (2, 3):
        one.receive(0, sid, decode_notification(data))
    one.tick(FINALIZE_MS)
    assert one.leader == 3


def test_who_votes_for_a_stranger_is_no_candidate() -> None:
    """Its configuration is one that was not seen here: it will not lead in this round."""
    one = Election(1, Membership(_ensemble(3)))
    one.look(0, 5, 1)
    one.receive(0, 3, Notification(0, 3, 9, 1, 1, 2, b""))
    assert one.out[-1][1].leader == 3
    one.receive(0, 3, Notification(0, 6, 20, 1, 1, 2, b""))
    assert one.out[-1][1].leader == 1
    # Not by way of another's vote either; but if it stands again.
    one.receive(0, 2, Notification(0, 3, 9, 1, 1, 2, b""))
    assert one.out[-1][1].leader == 1
    one.receive(0, 3, Notification(0, 3, 9, 1, 1, 2, b""))
    assert one.out[-1][1].leader == 3


def test_who_votes_for_less_than_itself_stands_no_longer() -> None:
    one = Election(1, Membership(_ensemble(3)))
    one.look(0, 5, 1)
    one.receive(0, 2, Notification(0, 3, 9, 1, 1, 2, b""))
    assert one.out[-1][1].leader == 3
    one.receive(0, 3, Notification(0, 2, 7, 1, 1, 2, b""))
    assert one.out[-1][1].leader == 2
    # Not by way of another's vote either; but if it stands again.
    one.receive(0, 2, Notification(0, 3, 9, 1, 1, 2, b""))
    assert one.out[-1][1].leader == 2
    one.receive(0, 3, Notification(0, 3, 9, 1, 1, 2, b""))
    assert one.out[-1][1].leader == 3


def test_who_stands_for_nothing_joins_a_lower_round() -> None:
    """Others do not hear of its round: it has no vote to tell it by."""
    joining = Election(4, Membership(_ensemble(3)))
    for _ in range(3):
        joining.look(0, 5, 1)
    joining.receive(0, 3, Notification(0, 3, 9, 1, 1, 2, b""))
    assert joining.round == 1
    assert joining.out[-1][1].leader == 3
    standing = Election(2, Membership(_ensemble(3)))
    for _ in range(3):
        standing.look(0, 5, 1)
    standing.receive(0, 3, Notification(0, 3, 9, 1, 1, 2, b""))
    assert standing.round == 3


def test_designated() -> None:
    """No election: the last leader has said who leads, and who looks is told so."""
    one = Election(1, Membership(_ensemble(3)))
    one.look(0, 5, 1)
    one.designate(2, 7)
    assert (one.state, one.leader) == (State.FOLLOWING, 2)
    one.designate(1, 7)
    assert one.state is State.LEADING
    one.receive(0, 3, Notification(0, 3, 9, 1, 1, 2, b""))
    assert one.out[-1][0] == 3
    assert (one.out[-1][1].leader, one.out[-1][1].state) == (1, State.LEADING)


def test_nonsense_is_ignored() -> None:
    one = Election(1, Membership(_ensemble(3)))
    one.look(0, 0, 0)
    one.out.clear()
    one.receive(0, 2, Notification(77, 3, 0, 1, 0, 2, b""))
    one.receive(0, 2, Notification(0, 99, 0, 1, 0, 2, b""))
    one.receive(0, 2, Notification(0, NO_VOTE, NO_VOTE, 1, NO_VOTE, 2, b""))
    assert one.out == []


# --- histories --------------------------------------------------------------------------------

_E1 = 1 << 32
_E2 = 2 << 32
_HISTORY = [(_E1 + n, b"") for n in range(5, 9)] + [(_E2 + n, b"") for n in range(1, 4)]


def _plan(peer: int, disk: list[tuple[int, bytes]] | None = None) -> tuple[str, int, int]:
    chosen = plan(peer, _E2 + 3, _HISTORY, lambda: disk or [])
    return p.Packet(chosen.kind, 0, None).name, chosen.zxid, len(chosen.entries)


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        (_E2 + 3, ("DIFF", _E2 + 3, 0)),
        (_E1 + 6, ("DIFF", _E2 + 3, 5)),
        (_E2 + 9, ("TRUNC", _E2 + 3, 0)),
        (3 * _E1, ("DIFF", _E2 + 3, 0)),
        (_E2, ("DIFF", _E2 + 3, 3)),
        (_E1 + 12, ("SNAP", _E2 + 3, 0)),
        (_E1 + 1, ("SNAP", _E2 + 3, 0)),
    ],
)
def test_plans(peer: int, expected: tuple[str, int, int]) -> None:
    assert _plan(peer) == expected


def test_plan_of_the_log_on_disk() -> None:
    """What is in it and not committed is left out."""
    disk = [(_E1 + n, b"") for n in range(1, 9)]
    assert _plan(_E1 + 1, disk) == ("DIFF", _E2 + 3, 10)
    assert _plan(_E1 + 1, disk[:2]) == ("SNAP", _E2 + 3, 0)


def test_plan_cuts_to_what_both_have() -> None:
    history = [(_E1 + n, b"") for n in (1, 2, 5, 6)]
    chosen = plan(_E1 + 4, _E1 + 6, history, list)
    assert (chosen.kind, chosen.zxid, len(chosen.entries)) == (p.TRUNC, _E1 + 2, 2)


# --- the commit rule --------------------------------------------------------------------------


def test_committed_in_order_by_a_quorum() -> None:
    proposals, quorums = Proposals(0), (_ensemble(3, 1),)
    for zxid in (1, 2, 3):
        proposals.add(Proposal(zxid, b"", quorums))
    assert _acked(proposals, 1, 2) == []
    assert _acked(proposals, 4, 3) == []
    assert _acked(proposals, 2, 1) == [1]
    proposals.forget(1)
    assert _acked(proposals, 2, 3) == []
    assert _acked(proposals, 3, 3) == [2, 3]


def test_behind_a_reconfiguration_both_quorums_count() -> None:
    old, new = _ensemble(3), Ensemble({sid: _ensemble(5).members[sid] for sid in (3, 4, 5)})
    proposals = Proposals(0)
    proposals.add(Proposal(1, b"", (old,)))
    proposals.add(Proposal(2, b"", (old, new), new))
    proposals.add(Proposal(3, b"", (old, new)))
    assert _acked(proposals, 1, 3) == []
    assert _acked(proposals, 2, 3) == [1]
    assert _acked(proposals, 4, 3) == []
    assert _acked(proposals, 5, 2) == [2]
    assert _acked(proposals, 5, 3) == [3]


def _acked(proposals: Proposals, sid: int, zxid: int) -> list[int]:
    """What is committed by that."""
    proposals.ack(sid, zxid)
    done = []
    while (proposal := proposals.take()) is not None:
        done.append(proposal.zxid)
    return done


# --- packets ----------------------------------------------------------------------------------


def test_packets_in_pieces() -> None:
    who = (Id("world", "anyone"), Id("ip", "::1"))
    sent = (
        p.bare(p.ACK, 5)
        + p.with_data(p.PROPOSAL, 7, b"x" * 40)
        + p.request(5, b"data", who)
        + p.request(6, b"more", who)
        + p.request(7, b"", ())
        + p.with_data(p.INFORM, 8, b"")
        + p.bare(p.UPTODATE, -1)
    )
    for size in range(1, len(sent) + 1):
        reader = PacketReader()
        got = [
            packet
            for at in range(0, len(sent), size)
            for packet in reader.feed(sent[at : at + size])
        ]
        kinds = [p.ACK, p.PROPOSAL, p.REQUEST, p.REQUEST, p.REQUEST, p.INFORM, p.UPTODATE]
        assert [g.type for g in got] == kinds
        assert got[1].data == b"x" * 40
        assert [g.data for g in got[2:5]] == [
            bytes(7) + b"\5data",
            bytes(7) + b"\6more",
            bytes(7) + b"\7",
        ]
        assert [g.ids for g in got[2:6]] == [who, who, None, None]
        assert got[5].data == b""


def test_of_acks_in_a_row_the_last_says_all() -> None:
    epoch = 3 << 32

    def last(*zxids: int) -> list[int]:
        data = b"".join(p.bare(p.ACK, zxid) for zxid in zxids)
        return [packet.zxid for packet in PacketReader().feed(data + data[:7])]

    assert last(epoch + 4, epoch + 5, epoch + 6) == [epoch + 6]
    assert last(epoch, epoch + 1, epoch + 2) == [epoch, epoch + 2]
    assert last(epoch + 1, epoch, epoch + 2) == [epoch + 1, epoch, epoch + 2]
    assert last(epoch - 1, epoch) == [epoch - 1, epoch]
    assert last(epoch + 7, epoch + 7) == [epoch + 7, epoch + 7]


@pytest.mark.parametrize(
    "data",
    [b"\0\0\0\x63" + bytes(16), b"\0\0\0\x01" + bytes(8) + b"\x7f\xff\xff\xff", bytes(20)],
)
def test_no_packets(data: bytes) -> None:
    with pytest.raises(WireError):
        list(PacketReader().feed(data))


# --- what a leader grants a learner -----------------------------------------------------------


def test_a_learner_is_late_only_when_it_serves() -> None:
    """What was held back for it while it was brought up to date is counted from when it is sent."""
    link = Link({})
    handle = Handle(link, 0, Limits(tick_ms=100, init_limit=100, sync_limit=5))
    handle.stage = Stage.ACK_LEADER
    handle.hold()
    handle.propose(1, b"the proposal", 0)
    handle.send(p.bare(p.COMMIT, 1))
    assert not handle.late(9_000)
    assert link.out == []
    handle.stage = Stage.SYNCED
    handle.release(9_000)
    assert link.out == [b"the proposal", p.bare(p.COMMIT, 1)]
    assert not handle.late(9_500)
    assert handle.late(9_501)
    assert handle.overdue(9_501) == "no ACK of 0x1 for 501 ms, longer than syncLimit"
    handle.acked(1)
    assert not handle.late(9_501)


@pytest.mark.parametrize(
    ("stage", "limit_ms", "said"),
    [
        (Stage.INFO, 1000, "longer than initLimit (has not said who it is)"),
        (Stage.ACK_EPOCH, 1000, "longer than initLimit (has not accepted the epoch)"),
        (Stage.ACK_LEADER, 1000, "has not acknowledged the history it was sent)"),
        (Stage.SYNCED, 500, "longer than syncLimit (serves)"),
        (Stage.WAIT_EPOCH, None, ""),
        (Stage.WAIT_SYNC, None, ""),
        (Stage.WAIT_START, None, ""),
    ],
)
def test_a_silent_learner(stage: Stage, limit_ms: int | None, said: str) -> None:
    """It is told what it has not done in time; nothing where it waits for us."""
    handle = Handle(Link({}), 0, Limits(tick_ms=100, init_limit=10, sync_limit=5))
    handle.stage = stage
    if limit_ms is None:
        assert handle.overdue(1_000_000) is None
        return
    assert handle.overdue(limit_ms) is None
    why = handle.overdue(limit_ms + 1)
    assert why is not None
    assert why.startswith(f"silent for {limit_ms + 1} ms")
    assert why.endswith(said)


def test_the_first_reason_of_a_closed_link_counts() -> None:
    dirty: dict[Link, None] = {}
    link = Link(dirty, "127.0.0.1:1")
    link.close("one")
    link.close("two")
    assert link.why == "one"
    assert link.over()
    assert list(dirty) == [link]


def test_who_is_out_is_not_waited_for() -> None:
    """Behind a reconfiguration both count, until it is committed."""
    old, new = _ensemble(3), Ensemble({9: Member(9, "h", 1, 2)}, version=1)
    proposals = Proposals(0)
    proposals.add(Proposal(1, b"", (old, new), new))
    proposals.add(Proposal(2, b"", (old, new)))
    proposals.ack(9, 2)
    proposals.ack(1, 1)
    assert proposals.take() is None
    proposals.ack(2, 1)
    for zxid in (1, 2):
        done = proposals.take()
        assert done is not None
        assert done.zxid == zxid
