"""How long the ends of a quorum connection wait for each other (zoo.cfg)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """tickTime in ms; initLimit, syncLimit and connectToLearnerMasterLimit in ticks."""

    tick_ms: int = 2000
    init_limit: int = 10
    sync_limit: int = 5
    connect_limit: int = 0
    #: Java's snapshotSizeFactor: a log larger than this part of a snapshot is not sent for it.
    log_factor: float = 0.33
    #: The least time without a leader after which a server may serve reads.
    read_only_grace_ms: int = 2000

    @property
    def init_ms(self) -> int:
        return self.tick_ms * self.init_limit

    @property
    def read_only_ms(self) -> int:
        """How long it looks for a leader before it serves reads (QuorumPeer.run)."""
        return max(self.read_only_grace_ms, self.tick_ms)

    @property
    def sync_ms(self) -> int:
        return self.tick_ms * self.sync_limit

    @property
    def connect_ms(self) -> int:
        return self.tick_ms * (self.connect_limit or self.init_limit)
