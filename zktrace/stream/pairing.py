"""Which request a reply answers.

Replies are matched to requests by xid, first in first out among equal xids (protocol reference, 2.3
and 2.4). A server answers the requests of a connection in order, except auth (xid -4), which it
answers at receipt. Bytes that were not captured may hide a request or a reply; after such a loss an
ordinary xid still names its request, but a repeated one (-2, -4, -8, or one that is outstanding
twice) does not, until an ordinary reply to a request sent after the loss has been seen: by then
everything sent before that request is answered. The module knows xids and order, nothing of bodies.

Where requests are given up for room that is such a loss, too: their replies will come, and must
not be taken for those of later requests with the same xid.

That an ordinary xid names one request is a client's habit, not the server's rule. What a loss hides
may be the first time that it was used again, so after a loss:

* A request that the reply to a later one has passed is not paired: its reply was lost.
* One is not paired that was sent before the capture lost a handshake's worth of bytes of both
  directions: another connection may have begun on the same ports, with the same xids again.
* Of a client whose xids have not been seen to grow it is not believed that no hidden request had
  the same xid: none is paired that was sent before the capture lost both requests and replies (the
  reply may be that of a hidden one), nor, behind lost requests or in a connection joined in the
  middle, one whose xid is 0 or 1, which clients that do not count use for all requests.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from zktrace.stream.budget import PART_COST, PENDING_COST
from zktrace.stream.schema import Fields, Op

PING_XID = -2
AUTH_XID = -4
SET_WATCHES_XID = -8
SPECIAL_XIDS = frozenset((PING_XID, AUTH_XID, SET_WATCHES_XID))

#: auth and sasl: answered at receipt, whatever their xid (protocol reference, 2.3).
AT_RECEIPT = frozenset((100, 102))

#: What clients that do not count use for all requests.
CONSTANT_XIDS = (0, 1)

#: A server that has just answered a ping and owes another answer, from before the capture began, is
#: not silent for so long. Needed for idle connections, which carry nothing but pings.
QUIET_NS = 1_000_000_000


@dataclass(slots=True, eq=False)
class Pending:
    """A request that waits for its reply."""

    number: int
    xid: int
    opcode: int
    op: Op | None
    ts: int
    length: int
    fields: Fields
    #: it is not known when it was complete: some of its bytes were lost, or are late
    uncertain: bool

    @property
    def cost(self) -> int:
        """What holding it costs."""
        cost = PENDING_COST + len(self.fields.path or b"") + len((self.fields.claim or "").encode())
        for _kind, path in self.fields.ops or ():
            cost += PART_COST + len(path or b"")
        return cost


@dataclass(slots=True)
class Pairing:
    """The outstanding requests of one connection."""

    #: all outstanding requests, oldest first (dict: ordered, removal anywhere)
    outstanding: dict[int, Pending] = field(default_factory=dict)
    _by_xid: dict[int, deque[Pending]] = field(default_factory=dict)
    _next: int = 0
    #: a loss may hide requests or replies; requests from `_taint_from` on were sent after it
    _tainted: bool = False
    _auth_tainted: bool = False
    _taint_from: int = 0
    #: requests with a repeated xid pair only from these on
    _clean_from: int = 0
    _auth_clean_from: int = 0
    #: nothing but the late start of the capture makes it uncertain; quiet can settle that
    _joined: bool = False
    #: the client has used an ordinary xid again or gone backwards
    _repeats: bool = False
    #: an ordinary xid was greater than the one before
    _grows: bool = False
    #: requests before this one are answered: a later one was, in a time of losses
    _passed: int = 0
    #: number + 1 of the first request after requests, after replies were last lost; 0: none were
    _asks_lost: int = 0
    _answers_lost: int = 0
    #: the same, where so much was lost that another connection may have begun
    _asks_gone: int = 0
    _answers_gone: int = 0
    #: xid and time of the latest reply without a request
    _orphan: tuple[int, int] = (0, -1)
    #: the last ordinary xid sent
    last_xid: int | None = None

    @property
    def count(self) -> int:
        """Requests noted so far."""
        return self._next

    def sent(self, pending: Pending, quiet_ns: int) -> None:
        """Note a request, sent `quiet_ns` after the answer to a ping, nothing in between."""
        pending.number = self._next
        if self._joined and self._tainted and not self.outstanding and quiet_ns >= QUIET_NS:
            self._tainted = self._auth_tainted = False
            self._clean_from = self._auth_clean_from = self._next
        self._next += 1
        xid = pending.xid
        if xid not in SPECIAL_XIDS:
            last = self.last_xid
            # signed distance, so that the wrap of an int is a step forward
            if last is not None:
                step = (xid - last) & 0xFFFFFFFF
                forward = 0 < step < 0x80000000
                self._grows |= forward
                self._repeats |= not forward
            self.last_xid = xid
        self.outstanding[pending.number] = pending
        self._by_xid.setdefault(xid, deque()).append(pending)

    def give_up(self) -> list[Pending]:
        """Take out all outstanding requests, oldest first: their replies may yet come."""
        given_up = list(self.outstanding.values())
        self.outstanding.clear()
        self._by_xid.clear()
        self.lost()
        return given_up

    def joined(self) -> None:
        """The connection was already open when the capture began."""
        self.lost()
        self._joined = True
        self._asks_lost = self._answers_lost = 0

    def lost(self, *, requests: bool = True, replies: bool = True) -> None:
        """Bytes that may have held a request or a reply were not captured, or not kept."""
        if requests:
            self._asks_lost = self._next + 1
        if replies:
            self._answers_lost = self._next + 1
        self._joined = False
        self._tainted = True
        self._auth_tainted = True
        self._taint_from = self._next

    def gone(self, *, requests: bool) -> None:
        """So many bytes were not captured that a handshake may be among them."""
        if requests:
            self._asks_gone = self._next + 1
        else:
            self._answers_gone = self._next + 1

    def resumed(self) -> None:
        """Requests are being framed again; those sent until now may have been missed."""
        if self._tainted:
            self._taint_from = self._next
            if self._asks_lost:
                self._asks_lost = self._next + 1

    def peek(self, xid: int) -> Pending | None:
        """The request a reply with this xid would be matched to by xid alone."""
        queue = self._by_xid.get(xid)
        return queue[0] if queue else None

    def answered(self, xid: int, requests_in_sync: bool) -> Pending | None:
        """Take out the request that a reply with this xid answers.

        None where there is none, or where it is not certain which one.

        `requests_in_sync`: the other direction is being framed, so that no request is missed at
        present.
        """
        queue = self._by_xid.get(xid)
        if not queue:
            return None
        special = xid in SPECIAL_XIDS
        repeated = special or len(queue) > 1 or (self._tainted and self._repeats)
        found = queue[0]
        if repeated:
            tainted = self._auth_tainted if xid == AUTH_XID else self._tainted
            clean_from = self._auth_clean_from if xid == AUTH_XID else self._clean_from
            if tainted:
                return None
            for found in queue:
                if found.number >= clean_from:
                    break
            else:
                return None
        elif self._is_doubtful(found):
            return None
        self._remove(found)
        if not repeated and found.opcode not in AT_RECEIPT:
            if self._tainted:
                self._passed = max(self._passed, found.number)
            if requests_in_sync and found.number >= self._taint_from:
                self._settle(found)
        return found

    def orphaned(self, xid: int, ts: int) -> None:
        """A reply with this xid answers no request that is known. One that was sent before, and is
        known later, since it waited behind a loss, may be the one.
        """
        self._orphan = (xid, ts)

    def _is_doubtful(self, found: Pending) -> bool:
        """Whether the reply may be that of another request with this xid, which was not seen."""
        if found.number < max(self._passed, self._clean_from):
            return True
        if found.xid == self._orphan[0] and found.ts <= self._orphan[1]:
            return True
        if found.number + 1 < min(self._asks_gone, self._answers_gone):
            return True
        if not self._tainted or self._grows or not (self._joined or self._asks_lost):
            return False
        if found.number + 1 < self._asks_lost:
            return found.number + 1 < self._answers_lost
        return found.xid in CONSTANT_XIDS

    def _settle(self, found: Pending) -> None:
        if self._tainted:
            self._tainted = False
            self._clean_from = found.number
        if self._auth_tainted:
            # an auth sent after `found` may have been answered already, ahead of order
            later = self._by_xid.get(AUTH_XID)
            if not later or later[-1].number < found.number:
                self._auth_tainted = False
                self._auth_clean_from = self._next

    def _remove(self, pending: Pending) -> None:
        del self.outstanding[pending.number]
        queue = self._by_xid[pending.xid]
        queue.remove(pending)
        if not queue:
            del self._by_xid[pending.xid]
