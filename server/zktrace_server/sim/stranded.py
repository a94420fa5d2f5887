"""Whether servers that have no leader could have one at all, by what they know and what is on their
disks.

A reconfiguration of an even number of voters can leave them without: half of the old voters have
logged it and the other half has not, while new ones have logged more behind it. The new ones know
that they have more than any old one, and do not go back; the old half that knows of them votes for
them; the other half believes in no candidate that it has never heard of (FastLeaderElection's
validVoter), and neither half is a quorum of the old members. Java's servers stay there, too, and
its notifications have no place for a configuration that is not committed, so none of them can be
told. Who replaces one member after the other never comes there.

This decides by the rules of discovery alone, not by how an election goes, and in doubt says that
somebody could lead: so an election that finds nobody where there is somebody is a fault all the
same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from zktrace_server.core.quorum.ensemble import Ensemble
from zktrace_server.core.quorum.membership import has_quorums
from zktrace_server.core.quorum.peer import Peer


@dataclass(frozen=True, slots=True)
class _Known:
    """A server: its history, and the configurations of which it would want a quorum each. `knows`
    are the sids that it would follow.
    """

    sid: int
    history: tuple[int, int]
    quorums: tuple[tuple[Ensemble, ...], ...]
    knows: frozenset[int]


def who_could_lead(peers: Iterable[Peer]) -> list[int]:
    """Sids of those of these peers, all up and connected, whom enough of the others know and have
    no later history than, for a quorum of each configuration that counts.
    """
    peers = list(peers)
    latest = max((p.membership.committed for p in peers), key=lambda config: config.version)
    known = [_known(peer, latest) for peer in peers]
    return [one.sid for one in known if _could_lead(one, known)]


def _known(peer: Peer, latest: Ensemble) -> _Known:
    """With the configuration that it has, and as if it had heard of the latest committed one."""
    membership = peer.membership
    told: tuple[Ensemble, ...] = (latest,)
    if membership.seen.version > latest.version:
        told = (latest, membership.seen)
    return _Known(
        peer.sid,
        (peer.replica.storage.current_epoch(), peer.replica.last_logged),
        (membership.quorums, told),
        frozenset((*membership.voters, *latest.voters)),
    )


def _could_lead(one: _Known, all_of_them: list[_Known]) -> bool:
    follow = {
        other.sid
        for other in all_of_them
        if other is one or (one.sid in other.knows and other.history <= one.history)
    }
    return one.sid in one.knows and any(has_quorums(each, follow) for each in one.quorums)
