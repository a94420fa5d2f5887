"""How many sessions may begin at a time (BlueThrottle): a token bucket, and before it chance, which
refuses the more the longer the bucket is empty.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Throttle:
    """Keys connection_throttle_*. `tokens` 0: no limit; `freeze_ms` -1: no chance. With weights a
    new session costs `new_weight`, one that is taken up again `renew_weight`.
    """

    tokens: int = 0
    fill_ms: int = 1
    fill_count: int = 1
    freeze_ms: int = -1
    drop_increase: float = 0.02
    drop_decrease: float = 0.002
    decrease_ratio: float = 0.0
    new_weight: int = 1
    renew_weight: int = 1


class ConnectionThrottle:
    """`chance` gives numbers in [0, 1). Times are of a clock that only goes forward, in ms."""

    def __init__(self, given: Throttle, now_ms: int, chance: Callable[[], float]) -> None:
        self._given = given
        # Tokens in the file are for new sessions.
        self._most = given.tokens * given.new_weight
        self._fill = given.fill_count * given.new_weight
        self._tokens = self._most
        self._filled_ms = self._frozen_ms = now_ms
        self._chance = chance
        self.drop = 0.0

    @property
    def deficit(self) -> int:
        """Tokens that are not there now."""
        return self._most - self._tokens

    def admit(self, renew: bool, now_ms: int) -> bool:
        """Whether one more session may begin, or be taken up again."""
        given = self._given
        if not self._most:
            return True
        passed = now_ms - self._filled_ms
        if passed > given.fill_ms:
            self._tokens = min(self._tokens + passed * self._fill // given.fill_ms, self._most)
            self._filled_ms = now_ms
        if given.freeze_ms != -1 and not self._lucky(now_ms):
            return False
        need = given.renew_weight if renew else given.new_weight
        if self._tokens < need:
            return False
        self._tokens -= need
        return True

    def _lucky(self, now_ms: int) -> bool:
        given = self._given
        if now_ms - self._frozen_ms > given.freeze_ms:
            if not self._tokens and self.drop < 1:
                self.drop = min(self.drop + given.drop_increase, 1.0)
            elif self.deficit <= round(self._most * given.decrease_ratio) and self.drop > 0:
                self.drop = max(self.drop - given.drop_decrease, 0.0)
            self._frozen_ms = now_ms
        return self._chance() >= self.drop
