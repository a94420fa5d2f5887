"""Clients' syncs at the leader: when one is done (Leader.processSync).

Java answers when what is outstanding is committed; that does not show a leader that it is one no
longer, so here a quorum has to answer a ping as well, and a read behind a sync is linearizable.
Knows nothing of packets: the leader sends the pings, and the answers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from zktrace_server.core.quorum.link import Link


@dataclass(slots=True)
class _Sync:
    """Done when all up to `zxid` is committed, and a quorum has answered a ping that was sent after
    it came: `pings` has their numbers by sid.
    """

    link: Link | None
    zxid: int
    pings: dict[int, int]


class Syncs:
    """Those under way, in order. A link is that of the learner who asked; None: a client of the
    leader's own.
    """

    def __init__(self) -> None:
        self._new: list[Link | None] = []
        self._under_way: deque[_Sync] = deque()

    def add(self, link: Link | None) -> None:
        """One has come; it begins with `begin`."""
        self._new.append(link)

    @property
    def waiting(self) -> bool:
        """Whether some are to begin."""
        return bool(self._new)

    @property
    def under_way(self) -> bool:
        """Whether some have begun."""
        return bool(self._under_way)

    def begin(self, zxid: int, pings: dict[int, int]) -> None:
        """All that have come together, behind the pings with these numbers that were sent now."""
        for link in self._new:
            self._under_way.append(_Sync(link, zxid, pings))
        self._new = []

    def forget(self, link: Link) -> None:
        """The learner is gone."""
        self._under_way = deque(s for s in self._under_way if s.link is not link)
        self._new = [other for other in self._new if other is not link]

    def take_done(
        self,
        committed: Callable[[int], bool],
        pongs: Mapping[int, int],
        has_quorum: Callable[[Iterable[int]], bool],
    ) -> Iterable[Link | None]:
        """Whom to answer. `committed` says of a zxid whether all up to it is; `pongs`: answers to
        pings by sid; `has_quorum`: whether these are one with the leader.
        """
        while self._under_way:
            first = self._under_way[0]
            if not committed(first.zxid):
                return
            answered = [sid for sid, number in first.pings.items() if pongs.get(sid, -1) >= number]
            if not has_quorum(answered):
                return
            self._under_way.popleft()
            yield first.link
