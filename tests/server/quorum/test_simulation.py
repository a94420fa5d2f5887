"""Whole ensembles from seeds (``zktrace_server.sim``): what must hold holds, a seed is what it was,
and planted bugs are found. `make simulate` runs many more.
"""

from __future__ import annotations

import pytest

from zktrace_server.core.connection import Connection
from zktrace_server.core.quorum.election import Election
from zktrace_server.sim.bugs import BUGS, OF_CHANGES, find
from zktrace_server.sim.campaign import main, run_seed
from zktrace_server.sim.cluster import Cluster
from zktrace_server.sim.history import EVENT, READ, WRITE, Op, check
from zktrace_server.sim.stranded import who_could_lead

_SEEDS = range(1, 16)
#: Where a bug shows that takes something rare: a history that has to be cut, as it happens in one
#: of 15 seeds; a quorum of those who are to go and none of those who are to come.
_SHOWN = {
    "keeps what the leader tells it to cut": (58, 74, 79, 100, 117),
    "sends DIFF where it has to cut": (58, 74, 79, 100, 117),
    # Every sixteenth has local sessions.
    "gives ephemeral nodes to sessions of one server": (5, 21, 37, 53),
    "counts the old quorum alone behind a reconfiguration": (111, 120, 126, 38, 47),
}


def test_seeds() -> None:
    written = 0
    for seed in _SEEDS:
        report = run_seed(seed)
        assert not report.wrong, f"seed {seed}: {report.wrong}"
        written += report.acknowledged
    # They did something.
    assert written > 20 * len(_SEEDS)


def test_a_log_with_a_hole() -> None:
    """A server that was brought up to date by a snapshot leads then, and its log has not what the
    snapshot stood for. A follower was given a DIFF out of that log, and lost an epoch.
    """
    assert run_seed(3805).wrong == []


def test_who_stands_where_it_has_to_does_not_stand_for_ever() -> None:
    """A participant of a proposed configuration alone, which the old ones voted for, while the
    other one of the proposed had never heard of it, and was needed.
    """
    assert run_seed(7862).wrong == []


def test_who_stands_down_is_not_voted_for_by_those_that_know_them() -> None:
    """All members were to be replaced; one of the new ones stood and stood down, and three that
    could have voted for another kept their votes for it.
    """
    assert run_seed(13244).wrong == []


def test_who_joins_a_later_round_hears_of_its_leader() -> None:
    """The only member of a proposed configuration had doubled its interval to a minute in earlier
    rounds. It joined those of others, and asked again when their leaders had given up waiting.
    """
    assert run_seed(21398).wrong == []


def test_what_was_proposed_behind_a_reconfiguration_does_not_wait_for_who_has_left() -> None:
    """Two of the old voters observed from then on; writes on their way waited for them."""
    assert run_seed(13028).wrong == []


def test_a_seed_replays() -> None:
    first: list[str] = []
    second: list[str] = []
    one, two = run_seed(3, trace=first), run_seed(3, trace=second)
    assert one == two
    assert first == second
    assert len(first) > 3


@pytest.mark.parametrize("name", BUGS)
def test_planted(name: str) -> None:
    """By one of these seeds; without the bug, seeds pass (`test_seeds`)."""
    changing = name in OF_CHANGES
    seeds = _SHOWN.get(name, _SEEDS)
    assert find(name, lambda seed: run_seed(seed, changing=changing).wrong, seeds) is not None


def test_nobody_can_lead(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of an ensemble of two replaced at once, and the leader dies before the other old one has
    heard of it: told apart from a seed that fails.
    """
    # The seed is of when writes did not wait for a sync before them; who can lead is the same.
    monkeypatch.setattr(Connection, "syncs", property(lambda _: 0, lambda _, value: None), False)
    cluster = Cluster(592)
    report = cluster.run()
    assert (report.stranded, report.wrong) == (True, [])
    peers = [node.peer for node in cluster.nodes if node.peer is not None]
    assert [p.sid for p in peers if p.membership.committed.voters != [1, 2]] == []
    # The other old one has not: if it had, who is elected could lead.
    peers[0].membership.see(peers[1].membership.seen)
    assert who_could_lead(peers) == [4, 5, 6]


def test_somebody_could_lead_and_nobody_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elections that never end are a fault, with a reconfiguration and without."""
    monkeypatch.setattr(Election, "_decide", lambda self, vote: None)
    for seed in (3, 4):
        report = run_seed(seed)
        assert not report.stranded
        assert "liveness" in report.wrong[0]


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "5-6"]) == 0
    assert "2 seeds, 0 failed" in capsys.readouterr().out
    assert main(["--seeds", "1-15", "--bug", "elects by sid alone"]) == 1
    assert "seed " in capsys.readouterr().out


def _write(zxid: int, asked: int, answered: int | None, value: bytes = b"", session: int = 1) -> Op:
    return Op(session, WRITE, "/a", value or b"%d" % zxid, asked, answered, zxid, zxid, order=zxid)


def _read(of: Op, asked: int, answered: int, **more: int | bool) -> Op:
    op = Op(2, READ, "/a", of.value, asked, answered, of.zxid, of.mzxid, order=answered)
    for name, value in more.items():
        setattr(op, name, value)
    return op


def test_history_of_nothing_wrong() -> None:
    one, two = _write(1, 0, 10), _write(2, 5, 12)
    assert check([one, two, _read(one, 6, 9), _read(two, 13, 14)]) == []


@pytest.mark.parametrize(
    ("ops", "word"),
    [
        ([_write(2, 0, 10), _write(1, 11, 12)], "ordered behind"),
        ([_write(1, 0, 10), _write(1, 0, 11, b"x")], "two writes"),
        ([_write(1, 0, 9), _write(2, 0, 9), _read(_write(2, 0, 9), 10, 11),
          _read(_write(1, 0, 9), 12, 13)], "goes back"),
        ([_write(1, 0, 9), _write(2, 0, 9), _read(_write(1, 0, 9), 10, 11, behind_sync=10)],
         "behind a sync"),
        ([_read(_write(7, 0, 9), 10, 11)], "nobody wrote"),
        ([_write(3, 20, 30), _read(_write(3, 20, 30), 10, 11)], "before it was written"),
        ([_write(1, 0, 9), _write(2, 0, 9), _read(_write(1, 0, 9), 1, 2, watch=True),
          _read(_write(2, 0, 9), 3, 4)], "before the watch event"),
        ([_write(1, 0, 1), _write(2, 2, 3),
          Op(1, READ, "/a", b"1", 4, 5, 3, 1, order=9)], "own write"),
    ],
)  # fmt: skip
def test_history_of_something_wrong(ops: list[Op], word: str) -> None:
    assert any(word in line for line in check(ops)), check(ops)


def test_history_with_the_event_in_its_place() -> None:
    one, two = _write(1, 0, 9), _write(2, 0, 9)
    event = Op(2, EVENT, "/a", None, 3, 3, order=3)
    assert check([one, two, _read(one, 1, 2, watch=True), event, _read(two, 3, 4)]) == []
