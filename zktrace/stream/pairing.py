"""Which request a reply answers.

Replies are matched to requests by xid, first in first out among equal xids (protocol reference, 2.3
and 2.4). A server answers the requests of a connection in order, except auth (xid -4), which it
answers at receipt. Bytes that were not captured may hide a request or a reply; after such a loss an
ordinary xid still names its request, but a repeated one (-2, -4, -8, or one that is outstanding
twice) does not, until an ordinary reply to a request sent after the loss has been seen: by then
everything sent before that request is answered. The module knows xids and order, nothing of bodies.

Where requests are given up for room that is such a loss, too: their replies will come, and must
not be taken for those of later requests with the same xid.
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
        cost = PENDING_COST + len(self.fields.path or b"")
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
    #: the last ordinary xid sent
    last_xid: int | None = None

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
            if last is not None and not 0 < (xid - last) & 0xFFFFFFFF < 0x80000000:
                self._repeats = True
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

    def lost(self) -> None:
        """Bytes that may have held a request or a reply were not captured, or not kept."""
        self._joined = False
        self._tainted = True
        self._auth_tainted = True
        self._taint_from = self._next

    def resumed(self) -> None:
        """Requests are being framed again; those sent until now may have been missed."""
        if self._tainted:
            self._taint_from = self._next

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
        self._remove(found)
        if not repeated and requests_in_sync and found.number >= self._taint_from:
            self._settle(found)
        return found

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
