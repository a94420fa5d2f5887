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

    @property
    def init_ms(self) -> int:
        return self.tick_ms * self.init_limit

    @property
    def sync_ms(self) -> int:
        return self.tick_ms * self.sync_limit

    @property
    def connect_ms(self) -> int:
        return self.tick_ms * (self.connect_limit or self.init_limit)
