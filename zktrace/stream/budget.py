"""What is held on behalf of all connections of a capture together, and the limit of it.

Each part of the stream layer has a limit per connection that its own work asks for. A capture of
many connections reaches them many times over, so what they hold is summed up here: unfinished
frames, bytes that wait for a role, for their cause or for a boundary, requests that wait for their
reply. Where that is too much, who holds most gives up all of it first (`Analyzer` asks for that,
between two pieces of bytes): a hostile connection pays for itself, and what is given up is counted
and told. Costs are what the native engine needs; both count the same, so that both give up the
same. Knows neither connections nor what is held.
"""

from __future__ import annotations

#: What all connections may hold together, each one's own state included. With the interpreter
#: (some 36 MB), what reassembly holds (16 MB) and remembers of ended connections (6 MB) that keeps
#: `zktrace stats` below 100 MB.
TOTAL = 32 * 1024 * 1024
#: Of that, what a connection costs before it holds anything: its entry in the tables of the flow
#: and stream layers, its machine.
CONNECTION_COST = 1_024
#: What may be held however many connections there are.
HELD_MIN = 4 * 1024 * 1024

#: A piece of bytes that waits, beside its bytes.
PIECE_COST = 160
#: A piece of bytes whose boundaries are looked for: its time.
MARK_COST = 32
#: A request that waits for its reply, beside its path; each part of a multi, beside its path.
PENDING_COST = 320
PART_COST = 64
#: An unfinished message that gave up its bytes keeps so many: its header and most paths, and all of
#: a handshake. They are not counted: `CONNECTION_COST` is for them, too.
CUT_HEAD = 96


class Budget:
    """Bytes held by all connections of one capture."""

    __slots__ = ("cut", "limit", "used")

    def __init__(self) -> None:
        self.used = 0
        self.limit = TOTAL
        #: frames that gave up their bytes
        self.cut = 0

    @property
    def is_over(self) -> bool:
        """Somebody must give up what it holds."""
        return self.used > self.limit

    @property
    def goal(self) -> int:
        """What may be left then: enough is freed that it does not happen at every packet."""
        return self.limit // 4 * 3

    def shared_by(self, connections: int) -> None:
        """There are so many connections now."""
        self.limit = max(TOTAL - connections * CONNECTION_COST, HELD_MIN)

    def take(self, cost: int) -> None:
        """So much more is held."""
        self.used += cost

    def release(self, cost: int) -> None:
        """So much less is held."""
        self.used -= cost


class Kept:
    """What is kept of the unfinished message of a direction: its first `most` bytes in `buf`."""

    __slots__ = ("_budget", "buf", "charged", "most")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.buf = bytearray()
        self.most = 0
        #: what the budget was told
        self.charged = 0

    def begin(self, most: int) -> None:
        """So many bytes may come."""
        self.most = self.charged = most
        self._budget.take(most)

    def add(self, data: bytes, pos: int, size: int) -> None:
        """Take data[pos : pos + size], as much of it as is kept."""
        self.buf += data[pos : pos + min(size, self.most - len(self.buf))]

    def drop(self) -> None:
        """Nothing is kept any more."""
        self._budget.release(self.charged)
        self.most = self.charged = 0
        self.buf = bytearray()

    def cut(self) -> bool:
        """Give up all but a small head; whether that is less than what would have been kept."""
        self._budget.release(self.charged)
        self.charged = 0
        if self.most <= CUT_HEAD:
            return False
        self._budget.cut += 1
        self.most = CUT_HEAD
        del self.buf[CUT_HEAD:]
        return True
