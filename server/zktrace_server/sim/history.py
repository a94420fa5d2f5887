"""What concurrent clients saw, and whether ZooKeeper may have shown them that.

Checked: writes are linearizable (what was answered before another was asked comes before it);
a session's replies come in the order of its requests, and its zxids never go back, over all servers
it moves to; it sees its own writes; what is read is what was written by the txn that it is said to
be of; a read behind a sync sees all writes that were answered before the sync was asked; a watch
event comes before the client sees the change it tells of.

Works on records alone: of the simulation, or of real clients (`tests.server.chaos`). Times may be
of any one clock that all clients share.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

WRITE = "write"
READ = "read"
SYNC = "sync"
EVENT = "event"


@dataclass(slots=True)
class Op:
    """One operation of a client, or a watch event. `asked` and `answered` are times; `answered`
    None: nobody knows what became of it. `zxid` is that of the reply, `mzxid` that of the last
    write of the node (for a write: its own). `order` is its place among what the session saw.
    `behind_sync`: when the sync was asked that this read came directly behind.
    """

    session: int
    kind: str
    path: str
    value: bytes | None
    asked: int
    answered: int | None = None
    zxid: int = 0
    mzxid: int = 0
    order: int = 0
    xid: int = 0
    watch: bool = False
    behind_sync: int | None = None
    #: Watches that were not set anew end with the connection.
    connection: int = 0


def check(ops: Iterable[Op]) -> list[str]:
    """What is wrong, a line each; nothing if all could be."""
    known = list(ops)
    answered = [op for op in known if op.answered is not None]
    wrong = _linearizable([op for op in answered if op.kind == WRITE])
    sessions: dict[int, list[Op]] = defaultdict(list)
    for op in answered:
        sessions[op.session].append(op)
    for session in sessions.values():
        session.sort(key=lambda op: op.order)
        wrong += _session(session)
        wrong += _watches(session)
    wrong += _values(known)
    wrong += _behind_sync(answered)
    return wrong


def _text(op: Op) -> str:
    return (
        f"{op.kind} {op.path} session {op.session:#x} xid {op.xid} zxid {op.zxid:#x} "
        f"mzxid {op.mzxid:#x} [{op.asked}, {op.answered}]"
    )


def _linearizable(writes: list[Op]) -> list[str]:
    """The order of zxids against that of time: an earlier answer means a smaller zxid."""
    wrong = []
    by_zxid: dict[int, Op] = {}
    for op in writes:
        other = by_zxid.setdefault(op.mzxid, op)
        if other is not op:
            wrong.append(f"two writes of one zxid: {_text(other)}; {_text(op)}")
    # From the last zxid down: none may have been asked after the answer of one above... so the
    # earliest answer among larger zxids must not lie before the asking.
    earliest: Op | None = None
    for op in sorted(writes, key=lambda op: op.mzxid, reverse=True):
        if earliest is not None and earliest.answered is not None and earliest.answered < op.asked:
            wrong.append(f"answered first, but ordered behind: {_text(earliest)}; {_text(op)}")
        if earliest is None or (op.answered or 0) < (earliest.answered or 0):
            earliest = op
    return wrong


def _session(ops: list[Op]) -> list[str]:
    """In order, never back, its own writes seen."""
    wrong = []
    last: Op | None = None
    own: dict[str, Op] = {}
    asked_last: Op | None = None
    for op in ops:
        if last is not None and op.zxid and op.zxid < last.zxid:
            wrong.append(f"zxid goes back: {_text(last)}; {_text(op)}")
        if op.zxid:
            last = op
        if op.kind == EVENT:
            continue
        if asked_last is not None and op.asked < asked_last.asked:
            wrong.append(f"answered out of order: {_text(asked_last)}; {_text(op)}")
        asked_last = op
        if op.kind == WRITE:
            own[op.path] = op
        elif op.kind == READ:
            mine = own.get(op.path)
            if mine is not None and op.mzxid < mine.mzxid:
                wrong.append(f"own write not seen: {_text(mine)}; {_text(op)}")
    return wrong


def _watches(ops: list[Op]) -> list[str]:
    """Behind a read that set a watch: no read of a later state before the event."""
    wrong = []
    armed: dict[str, Op] = {}
    for op in ops:
        if op.kind == EVENT:
            armed.pop(op.path, None)
        elif op.kind == READ:
            before = armed.get(op.path)
            if before is not None and before.connection != op.connection:
                del armed[op.path]
                before = None
            if before is not None and op.mzxid > before.mzxid:
                wrong.append(f"seen before the watch event: {_text(before)}; {_text(op)}")
                armed.pop(op.path)
            if op.watch and op.path not in armed:
                armed[op.path] = op
    return wrong


def _values(ops: list[Op]) -> list[str]:
    """A value is that of the write with its zxid; values are all different."""
    wrong = []
    written: dict[tuple[str, bytes], Op] = {}
    at: dict[int, Op] = {}
    for op in ops:
        if op.kind == WRITE and op.value is not None:
            written[op.path, op.value] = op
            if op.answered is not None:
                at[op.mzxid] = op
    seen: dict[int, Op] = {}
    for op in ops:
        if op.kind != READ or op.answered is None or op.value is None:
            continue
        source = written.get((op.path, op.value))
        if source is None:
            wrong.append(f"nobody wrote what was read: {_text(op)}")
            continue
        if source.answered is not None and source.mzxid != op.mzxid:
            wrong.append(f"a value with another's zxid: {_text(source)}; {_text(op)}")
        if source.asked > op.answered:
            wrong.append(f"read before it was written: {_text(source)}; {_text(op)}")
        other = seen.setdefault(op.mzxid, op)
        if other.value != op.value:
            wrong.append(f"two values of one zxid: {_text(other)}; {_text(op)}")
    return wrong


def _behind_sync(ops: list[Op]) -> list[str]:
    """A read behind a sync against all writes answered before that was asked."""
    wrong = []
    writes: dict[str, list[Op]] = defaultdict(list)
    for op in sorted((o for o in ops if o.kind == WRITE), key=lambda o: o.answered or 0):
        writes[op.path].append(op)
    for op in ops:
        if op.kind != READ or op.behind_sync is None:
            continue
        for write in writes[op.path]:
            if (write.answered or 0) >= op.behind_sync:
                break
            if write.mzxid > op.mzxid:
                wrong.append(f"not seen behind a sync: {_text(write)}; {_text(op)}")
                break
    return wrong
