"""A learner is brought to the leader's history (LearnerHandler.run, Leader.startForwarding): what
it lacks or has too much, or all of it; NEWLEADER; then what is proposed and not committed.

`sync` chooses; here it is said. Knows nothing of quorums.
"""

from __future__ import annotations

from collections.abc import Iterable

from zktrace_server.core.quorum import packets as p
from zktrace_server.core.quorum.handle import Handle, Stage
from zktrace_server.core.quorum.limits import Limits
from zktrace_server.core.quorum.proposals import Proposal
from zktrace_server.core.quorum.replica import Replica
from zktrace_server.core.quorum.storage import Entry
from zktrace_server.core.quorum.sync import plan


def bring_up_to_date(
    handle: Handle,
    replica: Replica,
    limits: Limits,
    new_leader: bytes,
    outstanding: Iterable[Proposal],
    now_ms: int,
) -> None:
    """All that it takes is sent, and it is to acknowledge `new_leader`, that packet."""
    storage, link = replica.storage, handle.link

    def on_disk() -> list[Entry]:
        return storage.read_log(handle.zxid, int(storage.snapshot_size() * limits.log_factor))

    chosen = plan(handle.zxid, replica.tree.last_zxid, replica.history, on_disk)
    if chosen.kind == p.SNAP:
        link.send(p.bare(p.SNAP, chosen.zxid) + replica.snapshot())
    else:
        link.send(p.bare(chosen.kind, chosen.zxid))
        for zxid, payload in chosen.entries:
            link.send(p.with_data(p.PROPOSAL, zxid, payload) + p.bare(p.COMMIT, zxid))
    handle.forwarding = True
    handle.stage = Stage.ACK_LEADER
    handle.heard(now_ms)
    link.send(new_leader)
    handle.hold()
    # What is proposed and not committed goes to those who vote; for others the time comes when it
    # is committed. Behind UPTODATE: a reconfiguration among it is later than the configuration of
    # NEWLEADER.
    if not handle.observer:
        for proposal in outstanding:
            if proposal.zxid > chosen.upto:
                packet = p.with_data(p.PROPOSAL, proposal.zxid, proposal.payload)
                handle.propose(proposal.zxid, packet, now_ms)
