"""Elections: many notifications folded into one record each.

FastLeaderElection sends a vote to every peer, again whenever it changes, and to whoever asks; a
cold start of four servers makes some 150 messages. A record is what an operator wants of them: who
looked, for how long, in which rounds, who won with which zxid, and why it came to that. Elections
are few, so rows are plain dicts here. Must not know how a record is shown.

What the wire does not say: who accepted a connection (known by the address that it announced
elsewhere, else null), and the end of an election. A record ends with the last LOOKING
notification; the quorum port tells from when on the new leader served (UPTODATE).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

#: After so long without LOOKING a settled election is over: five times what a server waits for
#: better votes (FastLeaderElection.finalizeWait).
_QUIET_NS: Final = 1_000_000_000
#: FastLeaderElection.maxNotificationInterval: a server that looks is not silent for longer.
_SILENT_NS: Final = 60_000_000_000
#: How long before an election a connection may have been lost to be its cause: more than initLimit
#: and syncLimit allow by default.
_CAUSE_NS: Final = 60_000_000_000
#: Connections that end so soon one after another are lost together: by the leader's end, or when
#: its followers, who last heard of it at the same time, give it up.
_TOGETHER_NS: Final = 1_000_000_000
#: Servers of an election; a sid is a byte (myid is 1 to 255), more are made up.
_SENDERS_MAX: Final = 1024

_Row = Mapping[str, Any]


class Handshake(NamedTuple):
    """A packet of a learner's handshake with a leader."""

    ts_ns: int
    type: str
    leader: str
    epoch: int | None
    late: bool = False
    """`ts_ns` is not certain: an earlier copy may have passed."""


class Lost(NamedTuple):
    """The end of the connection of a learner that was up to date."""

    ts_ns: int
    leader: str
    event: str


@dataclass(slots=True)
class _Vote:
    round: int | None = None
    leader: int | None = None
    zxid: int | None = None
    epoch: int | None = None
    sent: int = 0
    changes: int = -1
    observer: bool = False

    def take(self, row: _Row) -> None:
        """Notes a vote. One of an earlier round was queued and is late."""
        new = (row["election_epoch"], row["leader"], row["zxid"], row["peer_epoch"])
        self.sent += 1
        late = (new[0] or 0) < (self.round or 0)
        if late or (self.changes >= 0 and new == (self.round, self.leader, self.zxid, self.epoch)):
            return
        self.round, self.leader, self.zxid, self.epoch = new
        self.changes += 1


@dataclass(slots=True)
class _Record:
    start: int
    end: int
    votes: dict[Any, _Vote] = field(default_factory=dict)
    answers: dict[tuple[Any, str], _Row] = field(default_factory=dict)
    notifications: int = 0

    def voting(self) -> list[_Vote]:
        return [vote for vote in self.votes.values() if not vote.observer]

    def winner(self) -> int | None:
        """Whom answers name that are of this round or later; else whom all who vote agree on, if
        they are several; else whom any answer names: a server alone looks for the leader that the
        others have. Answers of earlier rounds come from servers that have not noticed yet.
        """
        voting = self.voting()
        rounds = [vote.round for vote in voting if vote.round is not None]
        last = max(rounds, default=0)
        current = [a for a in self.answers.values() if (a["election_epoch"] or 0) >= last]
        leaders = {vote.leader for vote in voting}
        if not current and len(voting) > 1 and len(leaders) == 1:
            return leaders.pop()
        answers = current or list(self.answers.values())
        for answer in sorted(answers, key=lambda row: row["state"] != "LEADING"):
            if answer["leader"] is not None:
                return int(answer["leader"])
        return leaders.pop() if len(voting) > 1 and len(leaders) == 1 else None


def elections(
    rows: Iterable[_Row],
    handshakes: Sequence[Handshake] = (),
    lost: Sequence[Lost] = (),
    epochs_before: Mapping[int, int] | None = None,
) -> list[dict[str, Any]]:
    """Records in order of time. `rows` are those of the table ``elections`` as dicts, `handshakes`
    and `lost` what the quorum port adds, `epochs_before`: when each epoch was first seen there.

    Keys: ``kind`` (``election``: a new epoch, or nobody who led or followed was asked; ``join``: a
    server looked for a leader that there was), ``start_ns``, ``end_ns``, ``duration_us``,
    ``rounds`` (how many), ``round`` (the last), ``winner``, ``zxid`` and ``peer_epoch`` of the
    winning vote, ``epoch`` (the new one), ``leader`` (address), ``serving_ns`` (first UPTODATE),
    ``notifications``, ``votes`` (``sid``, or ``address`` of who is not known by sid, ``leader``,
    ``zxid``, ``peer_epoch``, ``round``, ``sent``, ``changes``, ``observer``), ``cause``: ``what``
    (``connection_lost``, ``no_leader_seen``), ``leader``, ``ts_ns``, ``connections``.
    """
    ordered = sorted(rows, key=lambda row: (row["ts_ns"], row["seq"]))
    sids = _sids(ordered)
    openers = {row["conn"]: row["sid"] for row in ordered if row["type"] == "initial"}
    records: list[_Record] = []
    observers: set[Any] = set()
    served = sorted(shake.ts_ns for shake in handshakes if shake.type == "UPTODATE")
    for row in ordered:
        if row["type"] == "notification":
            to_opener = row["direction"] == "to_opener"
            receiver = openers.get(row["conn"]) if to_opener else sids.get(row["server"])
            _fold(records, row, _sender(row, sids), receiver, observers, served)
    first_seen = dict(epochs_before or {})
    for shake in sorted(handshakes):
        if shake.type in ("LEADERINFO", "NEWLEADER") and shake.epoch is not None:
            first_seen.setdefault(shake.epoch, shake.ts_ns)
    told: set[int] = set()
    found = []
    for number, record in enumerate(records):
        until = records[number + 1].start if number + 1 < len(records) else None
        found.append(_object(record, until, handshakes, lost, first_seen, told))
    found += [
        _unheard(shake, lost, first_seen, handshakes)
        for shake in _new_epochs(handshakes, first_seen)
        if shake.epoch not in told
    ]
    found.sort(key=lambda one: int(one["start_ns"]))
    return found


def _sids(rows: Iterable[_Row]) -> dict[str, int]:
    """Listeners whose server announced their address: whoever accepts there."""
    known: dict[str, set[int]] = {}
    for row in rows:
        if row["type"] == "initial" and row["sid"] is not None and row["address"]:
            for address in row["address"].split("|"):
                known.setdefault(address, set()).add(row["sid"])
    return {address: found.pop() for address, found in known.items() if len(found) == 1}


def _sender(row: _Row, sids: Mapping[str, int]) -> Any:
    """Who sent a notification: a sid, or an address where it is not known."""
    if row["sid"] is not None:
        return row["sid"]
    if row["direction"] == "to_opener":
        return sids.get(row["server"], row["server"])
    return row["client"]


def _again(record: _Record, row: _Row, served: Sequence[int]) -> bool:
    """Whether somebody looks again after a leader of this election has served: in a later round,
    since one who has only just started begins with the first.
    """
    at = bisect_right(served, record.start)
    if at == len(served) or served[at] >= row["ts_ns"]:
        return False
    last = max((vote.round or 0 for vote in record.voting()), default=0)
    return (row["election_epoch"] or 0) > last


def _fold(
    records: list[_Record],
    row: _Row,
    sender: Any,
    receiver: int | None,
    observers: set[Any],
    served: Sequence[int],
) -> None:
    record = records[-1] if records else None
    if row["state"] != "LOOKING":
        if record is not None and row["ts_ns"] - record.end <= _SILENT_NS:
            record.notifications += 1
            if len(record.answers) < _SENDERS_MAX:
                record.answers.setdefault((sender, row["state"]), row)
        return
    if row["leader"] is None:
        observers.add(sender)  # its vote is Long.MIN_VALUE until it has heard others
        if record is not None and row["ts_ns"] - record.end <= _SILENT_NS:
            record.notifications += 1
            if sender in record.votes or len(record.votes) < _SENDERS_MAX:
                record.votes.setdefault(sender, _Vote()).take(row)
                record.votes[sender].observer = True
            return
    if receiver in observers:
        # A server that looks answers an observer by the vote of before, not by the one it has
        # (FastLeaderElection.WorkerReceiver: getCurrentVote for whoever does not vote).
        if record is not None and row["ts_ns"] - record.end <= _SILENT_NS:
            record.notifications += 1
        return
    ts = row["ts_ns"]
    mine = record.votes.get(sender) if record is not None else None
    if record is not None and ts - record.end > _QUIET_NS and record.winner() is not None:
        now = (row["election_epoch"], row["leader"], row["zxid"], row["peer_epoch"])
        if mine is not None and (mine.round, mine.leader, mine.zxid, mine.epoch) == now:
            # Sent again because a connection was made (QuorumCnxManager.lastMessageSent).
            record.notifications += 1
            return
        record = None
    elif record is not None and (ts - record.end > _SILENT_NS or _again(record, row, served)):
        record = None
    if record is None:
        record = _Record(ts, ts)
        records.append(record)
    if sender not in record.votes and len(record.votes) >= _SENDERS_MAX:
        return
    vote = record.votes.setdefault(sender, _Vote())
    vote.take(row)
    vote.observer = sender in observers
    record.notifications += 1
    if not vote.observer:
        record.end = max(record.end, ts)


def _new_epochs(handshakes: Sequence[Handshake], first_seen: Mapping[int, int]) -> list[Handshake]:
    """The first word of each epoch that began within the capture."""
    found: dict[int, Handshake] = {}
    for shake in sorted(handshakes):
        if shake.type == "NEWLEADER" and shake.epoch is not None:
            # Txns or handshakes of it before: it had begun earlier.
            begun = any(
                epoch >= shake.epoch and ts < shake.ts_ns - _QUIET_NS
                for epoch, ts in first_seen.items()
            )
            if not begun:
                found.setdefault(shake.epoch, shake)
    return list(found.values())


def _serving(epoch: int | None, handshakes: Sequence[Handshake], leader: str | None) -> int | None:
    begun = [s.ts_ns for s in handshakes if s.epoch == epoch and s.leader == leader]
    if epoch is None or not begun:
        return None
    ready = [
        s
        for s in handshakes
        if s.type == "UPTODATE" and s.leader == leader and s.ts_ns >= min(begun)
    ]
    first = min(ready, default=None)
    return None if first is None or first.late else first.ts_ns


def _cause(
    until: int,
    epoch: int | None,
    lost: Sequence[Lost],
    handshakes: Sequence[Handshake],
    first_seen: Mapping[int, int],
) -> dict[str, Any] | None:
    """Why an election was held that ended by `until`, with a new epoch if that was seen; None
    where the capture does not say.
    """
    near = [one for one in lost if until - _CAUSE_NS <= one.ts_ns <= until]
    if near:
        last = max(near)
        of_last = [last]
        for one in sorted((one for one in near if one.leader == last.leader), reverse=True)[1:]:
            if of_last[-1].ts_ns - one.ts_ns > _TOGETHER_NS:
                break
            of_last.append(one)
        if any(last.ts_ns < ts < until for number, ts in first_seen.items() if number != epoch):
            return None  # an epoch began since: how its leader was lost was not seen
        return {
            "what": "connection_lost",
            "leader": last.leader,
            "ts_ns": of_last[-1].ts_ns,
            "connections": len(of_last),
        }
    if any(ts < until for number, ts in first_seen.items() if number != epoch):
        return None
    if any(shake.type == "UPTODATE" and shake.ts_ns < until for shake in handshakes):
        return None
    return {"what": "no_leader_seen", "leader": None, "ts_ns": None, "connections": 0}


def _object(
    record: _Record,
    until: int | None,
    handshakes: Sequence[Handshake],
    lost: Sequence[Lost],
    first_seen: Mapping[int, int],
    told: set[int],
) -> dict[str, Any]:
    new = [
        shake
        for shake in _new_epochs(handshakes, first_seen)
        if shake.ts_ns >= record.start and (until is None or shake.ts_ns < until)
    ]
    began = new[0] if new else None
    winner = record.winner()
    kind = "election" if began or not record.answers else "join"
    if kind == "join":
        # Whoever answered did not look: its vote was sent again because a connection was made.
        answered = {sender for sender, _ in record.answers}
        looked = {sender: vote for sender, vote in record.votes.items() if sender not in answered}
        record.votes = looked or record.votes
    epoch = began.epoch if began else None
    if epoch is not None:
        told.add(epoch)
    votes = [
        {
            "sid": sender if isinstance(sender, int) else None,
            "address": None if isinstance(sender, int) else sender,
            "leader": vote.leader,
            "zxid": vote.zxid,
            "peer_epoch": vote.epoch,
            "round": vote.round,
            "sent": vote.sent,
            "changes": max(vote.changes, 0),
            "observer": vote.observer,
        }
        for sender, vote in sorted(record.votes.items(), key=lambda item: str(item[0]))
    ]
    winning = next(
        (v for v in record.votes.values() if v.leader == winner and not v.observer), None
    )
    ended = began.ts_ns if began else record.end
    cause = None if kind == "join" else _cause(ended, epoch, lost, handshakes, first_seen)
    rounds = {vote.round for vote in record.votes.values() if not vote.observer}
    known = [number for number in rounds if number is not None]
    return {
        "kind": kind,
        "start_ns": record.start,
        "end_ns": record.end,
        "duration_us": round((record.end - record.start) / 1000, 3),
        "rounds": len(rounds),
        "round": max(known, default=None),
        "winner": winner,
        "zxid": winning.zxid if winning else None,
        "peer_epoch": winning.epoch if winning else None,
        "epoch": epoch,
        "leader": began.leader if began else None,
        "serving_ns": _serving(epoch, handshakes, began.leader if began else None),
        "notifications": record.notifications,
        "votes": votes,
        "cause": cause,
    }


def _unheard(
    shake: Handshake,
    lost: Sequence[Lost],
    first_seen: Mapping[int, int],
    handshakes: Sequence[Handshake],
) -> dict[str, Any]:
    """An election of which only the new epoch was captured."""
    return {
        "kind": "election",
        "start_ns": shake.ts_ns,
        "end_ns": None,
        "duration_us": None,
        "rounds": None,
        "round": None,
        "winner": None,
        "zxid": None,
        "peer_epoch": None,
        "epoch": shake.epoch,
        "leader": shake.leader,
        "serving_ns": _serving(shake.epoch, handshakes, shake.leader),
        "notifications": 0,
        "votes": [],
        "cause": _cause(shake.ts_ns, shake.epoch, lost, handshakes, first_seen),
    }
