"""A learner as its leader sees it: how far it has come, and when it was last heard of
(LearnerHandler, LearnerHandler.SyncLimitCheck).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from zktrace.wire import zxid as zxids
from zktrace_server.core.quorum.limits import Limits
from zktrace_server.core.quorum.link import Link


class Stage(IntEnum):
    """What it has to say next, or what it waits for."""

    INFO = 0  # FOLLOWERINFO or OBSERVERINFO
    WAIT_EPOCH = 1  # for an epoch to be found
    ACK_EPOCH = 2
    WAIT_SYNC = 3  # for a quorum to know the epoch
    ACK_LEADER = 4  # what it lacked is under way
    WAIT_START = 5  # for a quorum to have the history
    SYNCED = 6


#: In words, where a learner can be overdue.
_WAITED: Final = {
    Stage.INFO: "has not said who it is",
    Stage.ACK_EPOCH: "has not accepted the epoch",
    Stage.ACK_LEADER: "has not acknowledged the history it was sent",
    Stage.SYNCED: "serves",
}


class Handle:
    """`epoch` and `zxid` are what it said of its history; `pings` and `pongs` count; `heard_ms` is
    when it said something last.
    """

    def __init__(self, link: Link, now_ms: int, limits: Limits) -> None:
        self.link = link
        self.sid = -1
        self.observer = False
        self.old = False
        self.stage = Stage.INFO
        self.accepted_epoch = 0
        self.zxid = 0
        self.forwarding = False
        self.pings = 0
        self.pongs = 0
        self._held: list[bytes] | None = None
        self._limits = limits
        self.heard_ms = now_ms
        self._oldest = (0, 0)
        self._latest = (0, 0)

    def hold(self) -> None:
        """What is said from now on waits for `release`. Java 3.8.0 trips over the COMMIT, between
        NEWLEADER and UPTODATE, of what was proposed before NEWLEADER (ZOOKEEPER-4394).
        """
        self._held = []

    def release(self, now_ms: int) -> None:
        """It goes out, and all behind it at once; its time to acknowledge begins."""
        if self._oldest[0]:
            self._oldest = (self._oldest[0], now_ms)
        held, self._held = self._held, None
        for packet in held or ():
            self.link.send(packet)

    def send(self, packet: bytes) -> None:
        """A packet of the broadcast."""
        if self._held is None:
            self.link.send(packet)
        else:
            self._held.append(packet)

    def heard(self, now_ms: int) -> None:
        """It said something."""
        self.heard_ms = now_ms

    def expires(self) -> int:
        """When it has been silent for too long: the time until it has its history may be longer."""
        synced = self.stage >= Stage.WAIT_START
        return self.heard_ms + (self._limits.sync_ms if synced else self._limits.init_ms)

    def waits(self) -> bool:
        """Whether it is our turn to say something."""
        return self.stage in (Stage.WAIT_EPOCH, Stage.WAIT_SYNC, Stage.WAIT_START)

    def overdue(self, now_ms: int) -> str | None:
        """What it has taken too long for; None if it has not."""
        if self.late(now_ms):
            taken = now_ms - self._oldest[1]
            return f"no ACK of {zxids.text(self._oldest[0])} for {taken} ms, longer than syncLimit"
        if self.waits() or now_ms <= self.expires():
            return None
        limit = "syncLimit" if self.stage is Stage.SYNCED else "initLimit"
        return (
            f"silent for {now_ms - self.heard_ms} ms, longer than {limit} ({_WAITED[self.stage]})"
        )

    def present(self, now_ms: int) -> bool:
        """Whether it counts for the quorum that a leader needs to go on."""
        limit = self._limits.sync_ms
        if self.stage < Stage.SYNCED:
            limit += self._limits.init_ms
        return now_ms <= self.heard_ms + limit

    # --- proposals it has not acknowledged ----------------------------------------------------

    def propose(self, zxid: int, packet: bytes, now_ms: int) -> None:
        """It is sent a proposal."""
        self._latest = latest = (zxid, now_ms)
        if not self._oldest[0]:
            self._oldest = latest
        if self._held is None:
            self.link.send(packet)
        else:
            self._held.append(packet)

    def acked(self, zxid: int) -> None:
        """It has logged all up to `zxid`."""
        if self._oldest[0] and zxid >= self._oldest[0]:
            self._oldest = self._latest if zxid < self._latest[0] else (0, 0)

    def late(self, now_ms: int) -> bool:
        """A proposal has been with it for longer than syncLimit; to be brought up to date it has
        initLimit (SyncLimitCheck.start).
        """
        since = self._oldest
        return (
            self.stage is Stage.SYNCED
            and bool(since[0])
            and now_ms > since[1] + self._limits.sync_ms
        )
