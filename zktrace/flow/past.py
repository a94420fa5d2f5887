"""What may have passed before a segment without being captured: is its time the first of its bytes?

A latency runs from the first time that bytes passed the capture point. Where the capture lost that
copy and has a retransmission, the time of the latter says nothing. A sniffer cannot see what it did
not see, but most such losses leave a trace; where there is one, a segment with new bytes is *late*:

* **Proof by sequence.** Bytes below the highest ones that are known to have been sent (their
  receiver acknowledged them, or their sender has sent something behind them, be it an empty
  acknowledgement, which carries the next sequence number to be used) were sent before that was
  seen. A copy with a later time is a retransmission or reordered, and which is not known.
* **Proof by count.** Linux, and others, number the packets of a connection in the identification
  of IPv4 (RFC 6864 leaves the value free): where numbers are missing, packets were not captured. A
  segment behind may repeat one of them, if so much time passed since the packet before the missing
  ones that a timer can have fired; retransmissions without a timer follow later data (RFC 6675),
  which is the first rule's case. A segment right behind its predecessor by number is an original.
  Missing numbers are used up by a hole in the stream (they were its bytes), by late segments, and
  by the acknowledgement that their sender owed for so long that it must have been sent. They are
  settled by one without data that says nothing beyond what was captured was sent. A packet that
  comes behind later numbers is merely reordered if none before its own is missing. Where packets
  with older numbers come with older times, the file is not in order: then numbers prove nothing.
* **Asked again.** A side that repeats what it sent (by number: the packet itself was not captured
  twice) has no acknowledgement of it. Where the other side has not sent a number yet, or does not
  count, an answer with it may have been sent and lost: the next data may be its copy, unless a
  packet says that nothing was sent.

Times are compared, not places in the file, so that a capture whose packets are merely swapped
loses little. What remains: a sender that does not count (IPv6; some stacks send 0 or random
numbers), whose last segment was lost by the capture and on the way to its receiver too, or was
acknowledged by a packet that was lost by the capture as well. Nothing in the packets that are left
tells that its retransmission is one. The other way round, a segment whose first copy the network
lost before the capture point is taken for late: its time is right, but only a capture that lost
nothing could know.

Knows sequence offsets, numbers and times of one direction; nothing of buffers or connections.
"""

from __future__ import annotations

# No timer of TCP fires sooner: Linux has two jiffies of 1 ms at least (TCP_TIMEOUT_MIN), of which
# the first may be nearly over; RFC 6298 wants 1 s, RFC 8985 10 ms.
RETRANSMIT_NS = 1_000_000

# A segment that is alone on its way waits longer: its acknowledgement may be delayed (200 ms by
# RFC 8985 and in Linux, whose retransmission timeout is not less either, unless a route is told to
# have a shorter one). A little less, since packets are not captured when they are sent.
ALONE_NS = 180_000_000
# An acknowledgement is not delayed by more (RFC 1122, 4.2.3.2).
OWED_NS = 500_000_000

# A packet that is longer than a segment may be several, sent or received as one (segmentation
# offload), each with a number of its own. Of so many bytes each on Ethernet, with timestamps and
# without; where they are smaller, numbers seem to be missing.
SEGMENTS = (1_448, 1_460)
# No packet carries more.
PACKET_MAX = 1 << 16

# Numbers of which it is kept whether they were captured. One that is older is not a reordered
# packet's.
WINDOW = 64
_ALL = (1 << WINDOW) - 1
# Of more missing numbers than this no account is kept: an outage.
MISSING_MAX = 64

# Numbers out of turn that are believed to be losses: so many, and one per so many packets of the
# connection, of both directions. A sender with more does not count per connection.
ODD_MIN = 4
ODD_SHARE = 6
# Where more are missing at once, it is as odd as this.
ODD_MANY = 4
# Of packets that stand in the file behind later ones, so many are taken for losses at first.
SWAPPED_MAX = 2
# Proofs of one direction: beyond it they are coarser.
PROOFS_MAX = 32

_NEVER = -(1 << 63)


class Past:
    """Of one direction: what is known to have been sent before."""

    __slots__ = (
        "_asked",
        "_counts",
        "_id",
        "_length",
        "_missing",
        "_missing_since",
        "_odd",
        "_seen",
        "_swapped",
        "is_copy",
        "is_original",
        "last_ts",
        "proofs",
    )

    def __init__(self) -> None:
        # Bytes before this offset were sent before this time; both grow from one to the next. Of
        # interest as far as they are beyond what was delivered.
        self.proofs: list[tuple[int, int]] = []
        self.last_ts = _NEVER  # latest time of a packet
        # Of the last packet: it was captured before; it was not, nor was another copy of it sent.
        self.is_copy = False
        self.is_original = False
        self._asked = False  # again, of a side whose numbers do not tell what it sent
        self._counts = True  # numbers may mean something
        self._id = -1  # the latest number; -1: none yet
        self._length = 0  # payload of the packet that had it
        self._seen = _ALL  # bit n: number `_id` - n was captured
        self._odd = 0  # numbers out of turn
        self._swapped = 0  # packets behind later ones, by number and by time
        self._missing = 0  # numbers of which nothing is known
        self._missing_since = 0  # time of the packet before them

    def packet(self, ident: int, length: int, ts_ns: int, packets: int) -> None:
        """A packet of this direction, whatever it holds, `packets` into its connection."""
        since, self.last_ts = self.last_ts, max(self.last_ts, ts_ns)
        self.is_copy = self.is_original = False
        step = (ident - self._id) & 0xFFFF
        if self._id < 0 or not self._counts:
            self.is_copy = ts_ns - since < RETRANSMIT_NS
            if not ident or not self._counts:
                return
            self.is_copy = False
        elif step == 0 or step >= 0x8000:
            self._older(-step & 0xFFFF, ident, packets, ts_ns < since)
            return
        else:
            several = any(step == -(-self._length // size) for size in SEGMENTS)
            missing = 0 if several else step - 1
            if step < WINDOW:
                self._seen = (self._seen << step | (1 << step) - 1) & _ALL
            if missing:
                self._seen &= ~((1 << step) - 2) if step < WINDOW else 1
                if not self._missing:
                    self._missing_since = since
                self._missing = min(self._missing + missing, MISSING_MAX)
                self._is_odd(packets, missing)
        self._id = ident
        self._length = length

    def _older(self, back: int, ident: int, packets: int, swapped: bool) -> None:
        if back == 0 and ident == 0:
            self._stop_counting()
        elif back >= WINDOW:
            self._is_odd(packets)
        elif self._seen >> back & 1:
            self.is_copy = True
        else:
            self._seen |= 1 << back
            self._missing = max(self._missing - 1, 0)
            self.is_original = self._seen >> back == _ALL >> back
            self._swapped += swapped
            if self._swapped > SWAPPED_MAX:
                self._stop_counting()

    def _is_odd(self, packets: int, missing: int = ODD_MANY) -> None:
        self._odd += ODD_MANY if missing >= ODD_MANY else 1
        if self._odd > ODD_MIN + packets // ODD_SHARE:
            self._stop_counting()

    def _stop_counting(self) -> None:
        self._counts = False
        self._missing = 0

    def prove(self, off: int, ts_ns: int, expected: int) -> None:
        """Bytes up to `off` were sent before `ts_ns`; those up to `expected` were delivered."""
        if off <= expected:
            return
        known = [proof for proof in self.proofs if proof[0] > expected]
        if any(end >= off and before <= ts_ns for end, before in known):
            self.proofs = known  # nothing new
            return
        known = [proof for proof in known if proof[0] > off or proof[1] < ts_ns]
        self.proofs = sorted([*known, (off, ts_ns)])
        if len(self.proofs) > PROOFS_MAX:
            # the last two as one: more bytes at the earlier time
            self.proofs[-2:] = [(self.proofs[-1][0], self.proofs[-2][1])]

    def _top(self, expected: int) -> int:
        return max(self.proofs[-1][0], expected) if self.proofs else expected

    def nothing_beyond(self) -> None:
        """The last packet says that nothing was sent beyond what was delivered."""
        if not self.is_copy:
            self._missing = 0
            self._asked = False

    def asked_again(self, other: Past) -> None:
        """The other side repeated what it sent, by number: it may lack what was sent in answer."""
        if other.counts:
            self._asked = not self.counts

    @property
    def counts(self) -> bool:
        """Numbers were seen, and mean something."""
        return self._id >= 0 and self._counts

    def owed(self, since_ns: int, ts_ns: int) -> None:
        """Up to the last packet, at `ts_ns`, an acknowledgement was owed since `since_ns`."""
        if self._missing == 1 and ts_ns - since_ns >= OWED_NS:
            self._missing = 0

    def is_late(self, low: int, ts_ns: int, expected: int, acked: int) -> bool:
        """Whether new bytes from `low` on, captured at `ts_ns`, may have passed before. Their
        sender knows that those before `acked` arrived.
        """
        if self.is_original:
            return False
        asked, self._asked = self._asked, False
        top = self._top(expected)
        if self.is_copy and low >= top:
            self._stop_counting()  # a number for several packets
        if self._missing and low > top:
            self._missing -= min(self._missing, -(-(low - top) // PACKET_MAX))
        late = asked or any(off > low and ts_ns > proved_ts for off, proved_ts in self.proofs)
        if self._missing:
            timer = ALONE_NS if acked >= low and self._missing == 1 else RETRANSMIT_NS
            if late or ts_ns - self._missing_since >= timer:
                self._missing -= 1
                return True
            if low <= top:
                self._missing = 0
        return late
