"""A seed, run: servers, clients, and what goes wrong; then all is well again, and everything has to
come to rest with one tree everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial

from zktrace.wire.records import ReconfigRequest
from zktrace_server.core import request as op
from zktrace_server.core.acl import SUPER
from zktrace_server.core.quorum.ensemble import Ensemble, Member
from zktrace_server.core.quorum.limits import Limits
from zktrace_server.core.quorum.peer import Peer
from zktrace_server.core.quorum.roles import LeaderServer
from zktrace_server.core.request import Request
from zktrace_server.core.settings import Settings
from zktrace_server.sim.checks import Broken, Checks
from zktrace_server.sim.client import Client
from zktrace_server.sim.history import WRITE, Op, check
from zktrace_server.sim.node import Node
from zktrace_server.sim.stranded import who_could_lead
from zktrace_server.sim.world import World

#: Short ticks, so that a second of the simulation holds several elections.
LIMITS = Limits(tick_ms=100, init_limit=10, sync_limit=5, read_only_grace_ms=300)
SETTINGS = Settings(tick_ms=100, min_session_timeout_ms=200, max_session_timeout_ms=4000)
_SECOND = 1_000_000
#: How long things may go wrong, and how long it may take until all is well, in simulated seconds.
_TROUBLE_S = 4
_REST_S = 30
_CLIENTS = 3
#: Of requests that no client waits for.
_NOBODYS_XID = -77


@dataclass(slots=True)
class Report:
    """What became of a seed. `wrong` is empty if nothing was. `stranded`: a reconfiguration has
    left it where nobody can lead; what clients saw until then is checked.
    """

    seed: int
    stranded: bool = False
    wrong: list[str] = field(default_factory=list)
    events: int = 0
    committed: int = 0
    acknowledged: int = 0
    epochs: int = 0
    configurations: int = 0
    seconds: float = 0.0


def _member(sid: int, observer: bool) -> Member:
    return Member(sid, f"10.0.1.{sid}", 2888, 3888, observer, "0.0.0.0:2181")


class Cluster:
    """`trace` gets a line for each thing that goes wrong. `changing`: whether servers join and
    leave; as the seed has it, if nobody says.
    """

    def __init__(
        self, seed: int, trace: list[str] | None = None, *, changing: bool | None = None
    ) -> None:
        if changing is None:
            changing = seed % 2 == 0
        self.seed = seed
        self.world = World(seed, trace)
        chance = self.world.chance
        size = chance.choice((3, 3, 3, 5))
        observers = chance.choice((0, 0, 1))
        # Three to spare can take the place of all.
        spare = chance.choice((0, 1, 2, 3, 3, 3)) if changing else 0
        members = {
            sid: Member(sid, f"10.0.1.{sid}", 2888, 3888, sid > size)
            for sid in range(1, size + observers + 1)
        }
        self.checks = Checks()
        self.history: list[Op] = []
        # Those to spare know of the ensemble and of themselves, as a server that is to join.
        views = {sid: Ensemble(members) for sid in members}
        for sid in range(len(members) + 1, len(members) + spare + 1):
            views[sid] = Ensemble({**members, sid: _member(sid, chance.random() < 0.3)})
        # Sessions of one server alone, which become the ensemble's; reads without a leader.
        local, reads = seed % 16 == 5, seed % 16 in (7, 10)
        settings = replace(
            SETTINGS,
            local_sessions=local,
            local_sessions_upgrade=True,
            read_only_enabled=reads,
        )
        if changing:
            # Whether it may come down to one server.
            alone = chance.random() < 0.3
            settings = replace(settings, reconfig_enabled=True, standalone_enabled=not alone)
        self.nodes = [
            Node(self.world, sid, view, LIMITS, settings, self.checks)
            for sid, view in views.items()
        ]
        self._changes = 0 if not changing else chance.choice((1, 4)) if spare < 3 else 3
        for node in self.nodes:
            node.others = {other.sid: other for other in self.nodes if other is not node}
        self.clients = [
            Client(self.world, 100 + number, self.nodes, self._record, chance.choice((400, 1500)))
            for number in range(_CLIENTS)
        ]
        # Disks and clients of all kinds: a race that needs a slow one is lost on a fast one.
        self._disk_us = (50, chance.choice((1000, 4000, 40_000)))
        for client in self.clients:
            client.private, client.can_read_only = local or reads, reads
        pace = chance.choice((15_000, 15_000, 60_000, 300_000))
        for client in self.clients:
            client.pace_us = pace
        for node in self.nodes:
            node.disk_us = self._disk_us
            self.world.after(chance.randrange(0, 300_000), node.start)

    def _record(self, op: Op) -> None:
        self.history.append(op)
        if op.kind == WRITE and op.answered is not None:
            self.checks.acknowledge(op.mzxid)

    # --- trouble ------------------------------------------------------------------------------

    def _trouble(self) -> None:
        """Something goes wrong, and will be well again some time later."""
        world, chance = self.world, self.world.chance
        node = chance.choice(self.nodes)
        lasts = int(chance.expovariate(1 / 500_000)) + 20_000
        leader = [n for n in self.nodes if n.peer is not None and n.peer.leader is not None]
        if leader and chance.random() < 0.6:
            node = chance.choice(leader)
        what = chance.random()
        if what < 0.35:
            if node.peer is not None:
                node.crash()
                world.after(lasts, lambda: self._restart(node))
        elif what < 0.5:
            self._power_cut(leader[0] if leader else node, lasts)
        elif what < 0.7:
            self._cut(node, lasts)
        elif what < 0.8:
            world.say(f"{node.sid} is paused for {lasts / 1e6:.3f} s")
            node.pause(lasts)
        elif what < 0.88:
            slow = chance.randrange(5_000, 200_000)
            world.say(f"the disk of {node.sid} takes {slow} us")
            node.disk_us = (slow // 2, slow)
            world.after(lasts, lambda: setattr(node, "disk_us", self._disk_us))
        elif what < 0.95:
            world.slow[node.sid] = chance.randrange(5_000, 80_000)
            world.after(lasts, partial(self._hurry, node))
        else:
            node.wall_jump_ms += chance.randrange(-20_000, 20_000)

    def _reconfigure(self) -> None:
        """Who leads is asked to change the membership: a server joins, leaves, or has another role;
        one after the other, or all of the members at once.
        """
        chance = self.world.chance
        leading = [n for n in self.nodes if n.peer and isinstance(n.peer.server, LeaderServer)]
        if not leading:
            return
        node = chance.choice(leading)
        assert node.peer is not None
        now = node.peer.membership.seen.members
        joining, leaving, whole = None, None, None
        if chance.random() < (0.6 if len(self.nodes) - len(now) > 2 else 0.2):
            picked = chance.sample(self.nodes, chance.randrange(1, len(self.nodes) + 1))
            if chance.random() < 0.5:
                picked = [n for n in self.nodes if n.sid not in now] or picked
            chosen = [_member(n.sid, chance.random() < 0.2) for n in picked]
            self._change_of_guard(list(now), [m.sid for m in chosen])
            whole = ",".join(f"server.{m.sid}={m.text()}" for m in chosen)
        else:
            other = chance.choice(self.nodes).sid if chance.random() < 0.7 else node.sid
            if other in now and chance.random() < 0.6:
                leaving = str(other)
            else:
                joins = _member(other, chance.random() < 0.3)
                joining = f"server.{other}={joins.text()}"
        self.world.say(f"{node.sid} is to reconfigure: +{joining} -{leaving} ={whole}")
        body = ReconfigRequest(joining, leaving, whole, -1).encode()

        def ask(peer: Peer) -> None:
            sessions = sorted(peer.replica.timeouts)
            if isinstance(peer.server, LeaderServer) and sessions:
                request = Request(sessions[0], _NOBODYS_XID, op.RECONFIG, body, (SUPER,))
                peer.server.operate(request)

        node.step(ask)

    def _change_of_guard(self, old: list[int], new: list[int]) -> None:
        """While members change, something happens to one side of it: those who come are slow, and
        the one that is not crashes when it may lead; or those who go crash one by one, and come
        back where they see each other alone.
        """
        world, chance = self.world, self.world.chance
        lasts = chance.randrange(200_000, 1_500_000)
        come = [n for n in self.nodes if n.sid in new and n.sid not in old]
        go = [n for n in self.nodes if n.sid in old and n.sid not in new]
        what = chance.random()
        if what < 0.4 and come:
            first, *others = chance.sample(come, len(come))
            for node in others:
                world.after(chance.randrange(5000), partial(node.pause, lasts))
            world.after(chance.randrange(lasts), first.crash)
            world.after(2 * lasts, partial(self._restart, first))
        elif what < 0.8 and go:
            for node in go:
                world.after(chance.randrange(30_000), node.crash)
                world.after(chance.randrange(40_000, 400_000), partial(self._restart, node))
            pairs = {(a.sid, b.sid) for a in go for b in self.nodes if b not in go}
            pairs |= {(b, a) for a, b in pairs}
            world.after(30_000, lambda: world.cut.update(pairs))
            world.after(lasts + 400_000, lambda: self._heal(pairs))

    def _power_cut(self, last: Node, lasts: int) -> None:
        """All at once, or nearly: one comes back last, perhaps when the others go on without it."""
        world, chance = self.world, self.world.chance
        world.say(f"all crash, {last.sid} comes back last")
        for each in self.nodes:
            if each is not last and each.peer is not None:
                each.crash()
                world.after(chance.randrange(lasts), partial(self._restart, each))
        world.after(chance.randrange(2000), last.crash)
        world.after(lasts + chance.randrange(800_000), partial(self._restart, last))

    def _hurry(self, node: Node) -> None:
        self.world.slow.pop(node.sid, None)

    def _restart(self, node: Node) -> None:
        if node.peer is None:
            node.start()

    def _cut(self, node: Node, lasts: int) -> None:
        """A partition: one side alone, or one direction of one way."""
        world, chance = self.world, self.world.chance
        sids = [n.sid for n in self.nodes]
        if chance.random() < 0.3:
            other = chance.choice([n for n in self.nodes if n is not node])
            pairs = {(node.sid, other.sid)}
        else:
            side = {node.sid} | {s for s in sids if chance.random() < 0.2}
            hosts = sids + [client.number for client in self.clients if chance.random() < 0.3]
            pairs = {(a, b) for a in side for b in hosts if b not in side}
            if chance.random() < 0.8:
                pairs |= {(b, a) for a, b in pairs}
        world.say(f"cut {sorted(pairs)}")
        world.cut |= pairs
        world.after(lasts, lambda: self._heal(pairs))

    def _heal(self, pairs: set[tuple[int, int]]) -> None:
        self.world.say(f"heal {sorted(pairs)}")
        self.world.heal(pairs)
        by_sid = {node.sid: node for node in self.nodes}
        for a, b in sorted(pairs):
            if a in by_sid and b in by_sid and by_sid[a].peer and by_sid[b].peer:
                by_sid[a].meet(by_sid[b])

    # --- the whole ----------------------------------------------------------------------------

    def run(self) -> Report:
        """Never raises for what goes wrong in the servers: that is what is reported."""
        report = Report(self.seed)
        try:
            report.stranded = self._run()
        except Exception as error:
            report.wrong.append(f"{type(error).__name__}: {error}")
            self.world.say(report.wrong[-1])
        else:
            under_way = [op for client in self.clients for op in client.under_way()]
            report.wrong += check(self.history + under_way)[:5]
        report.events = self.world.events
        report.committed = len(self.checks.order)
        report.acknowledged = self.checks.acknowledged
        report.configurations = len(self.checks.configurations)
        report.epochs = len(self.checks.order) and (self.checks.order[-1] >> 32)
        report.seconds = self.world.now_us / 1e6
        return report

    def _run(self) -> bool:
        """True if it ends where nobody can lead, by a reconfiguration."""
        world, chance = self.world, self.world.chance
        now = world.now_us + _SECOND // 2
        while now < _TROUBLE_S * _SECOND:
            world.at(now, self._trouble)
            now += int(chance.expovariate(1 / 250_000)) + 1000
        for _ in range(self._changes * chance.randrange(1, 4) if self._changes else 0):
            world.at(chance.randrange(_SECOND // 2, _TROUBLE_S * _SECOND), self._reconfigure)
        world.run(_TROUBLE_S * _SECOND)
        world.say("all is well")
        self._heal(set(world.cut))
        world.slow.clear()
        for node in self.nodes:
            node.disk_us = (50, 1000)
            self._restart(node)
        # Writes must get through again; then nobody writes any more.
        before = self.checks.acknowledged
        if not world.run(
            (_TROUBLE_S + _REST_S) * _SECOND, lambda: self.checks.acknowledged > before + 5
        ):
            peers = [node.peer for node in self.nodes if node.peer is not None]
            if not self._changes or who_could_lead(peers):
                raise Broken("liveness: no writes within the time to recover")
            world.say("nobody can lead")
            return True
        for client in self.clients:
            client.quiet = True
        until = world.now_us + _REST_S * _SECOND
        world.run(world.now_us + _SECOND)
        if not world.run(until, lambda: self.checks.settled(self.nodes)):
            raise Broken("liveness: the servers do not come to the same tree")
        for node in self.nodes:
            self.checks.at_rest(node)
        return False
