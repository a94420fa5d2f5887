"""Scripted transcripts of an ensemble: what its servers say to each other, step by step, in a
simulation without chance (as etcd-io/raft keeps them).

A ``.txt`` file beside this one is commands, each followed by what came of it, indented:

    servers N [observers M]     an ensemble of so many; servers are numbered from 1
    start SID...                at once
    crash SID...                with the loss of what is not synced
    cut SID...                  off from all others, both ways; `heal` ends it
    disk SID MS                 how long its disk takes from now on
    run MS                      lets time pass
    write SID PATH...           a client of that server creates these znodes, one after the other
    fill SID COUNT              the same for COUNT of them, told in one line
    show                        state, epoch and last txn of each server
    votes on|off, pings on|off  whether notifications and PINGs are told (off)
    quiet on|off                whether nothing is told (off)

A line of output is ``A > B packet``. What takes no time here takes 100 microseconds on the way and
50 on a disk, so the order is always the same. ``python -m tests.server.quorum.transcripts`` writes
the files anew; the tests hold the core to them.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Protocol

from tests.server.core.harness import OPEN
from zktrace.wire import zxid as zxids
from zktrace.wire.election import Notification
from zktrace.wire.records import ConnectRequest, CreateRequest
from zktrace.wire.txn import Transaction
from zktrace_server.core import request as op
from zktrace_server.core.quorum import packets as p
from zktrace_server.core.quorum.election import State
from zktrace_server.core.quorum.ensemble import Ensemble, Member
from zktrace_server.core.quorum.link import Link
from zktrace_server.core.quorum.packets import Packet, PacketReader
from zktrace_server.sim.checks import Checks
from zktrace_server.sim.cluster import LIMITS, SETTINGS
from zktrace_server.sim.node import Node
from zktrace_server.sim.world import Connection, Pipe, World

HERE: Final = Path(__file__).parent
_CLIENT: Final = 100
#: A session does not end in between.
_TIMEOUT_MS: Final = 4000


class _NoChance(random.Random):
    """The least of all that may happen, nothing that is rare; a crash loses what is not synced."""

    def random(self) -> float:
        return 0.4

    def randrange(self, start: int, stop: int | None = None, step: int = 1) -> int:
        return 0 if stop is None else start


class _Spoken(Node):
    """Tells what it sends."""

    script: Script

    def _send_link(self, link: Link) -> None:
        known = self._links.get(link)
        if known is not None and link.out:
            connection, is_a = known
            pipe = connection.to_b if is_a else connection.to_a
            self.script.sent(self.sid, pipe, b"".join(link.out))
        if known is not None and link.closed:
            self.script.say(f"{self.sid} closes: {link.why}")
        super()._send_link(link)

    def add_link(self, link: Link, connection: Connection, is_a: bool) -> None:
        if is_a:
            self.script.linked(connection)
        super().add_link(link, connection, is_a)

    def _vote(self, sid: int, vote: Notification) -> None:
        self.script.voted(self.sid, sid, vote)
        super()._vote(sid, vote)


class Wire(Protocol):
    """Who writes down the bytes (``pcaps/zab.py``)."""

    def carried(self, now_us: int, pipe: Pipe, data: bytes | None) -> None: ...
    def dialled(self, now_us: int, connection: Connection, server: bool) -> None: ...
    def voted(self, now_us: int, sid: int, target: int, vote: Notification) -> None: ...
    def crashed(self, now_us: int, sid: int) -> None: ...


class Script:
    """Runs commands; `lines` is what they gave, `packets` all that went over the quorum port,
    `writes` the paths that clients asked for and whether they got an answer, by their host.
    """

    def __init__(self, wire: Wire | None = None) -> None:
        self.lines: list[str] = []
        self.packets: list[Packet] = []
        self.writes: dict[int, list[tuple[str | None, bool]]] = {}
        self._wire = wire
        self._world = World(0)
        self._world.chance = _NoChance()
        if wire is not None:
            self._world.tap = lambda pipe, data: wire.carried(self._world.now_us, pipe, data)
        self._nodes: dict[int, _Spoken] = {}
        self._readers: dict[Pipe, PacketReader] = {}
        self._told = {"votes": False, "pings": False}
        self._quiet = False
        self._clients = 0

    def say(self, text: str) -> None:
        if not self._quiet:
            self.lines.append(f"    {text}")

    # --- what servers say ---------------------------------------------------------------------

    def sent(self, sid: int, pipe: Pipe, data: bytes) -> None:
        """Bytes of the quorum port."""
        reader = self._readers.setdefault(pipe, PacketReader())
        for packet in reader.feed(data):
            self.packets.append(packet)
            if packet.type != p.PING or self._told["pings"]:
                self.say(f"{sid} > {pipe.ends[1]} {_packet(packet)}")

    def linked(self, connection: Connection) -> None:
        """A learner has connected."""
        if self._wire is not None:
            self._wire.dialled(self._world.now_us, connection, True)

    def voted(self, sid: int, target: int, vote: Notification) -> None:
        """A notification."""
        there = self._nodes[target].peer is not None and not self._world.blocked(sid, target)
        if self._wire is not None and there:
            self._wire.voted(self._world.now_us, sid, target, vote)
        if self._told["votes"]:
            state = State(vote.state).name
            self.say(
                f"{sid} > {target} {state} leader {vote.leader}, zxid {zxids.text(vote.zxid)}, "
                f"round {vote.election_epoch}, epoch {vote.peer_epoch}"
            )

    # --- commands -----------------------------------------------------------------------------

    def do(self, command: str) -> None:
        """One line of a script."""
        name, *words = command.split()
        act: Callable[..., None] = getattr(self, f"_do_{name}")
        self.lines.append(command)
        act(*words)

    def _do_servers(self, count: str, *more: str) -> None:
        size = int(count)
        observers = int(more[1]) if more else 0
        members = {
            sid: Member(sid, f"10.0.0.{sid}", 2888, 3888, sid > size)
            for sid in range(1, size + observers + 1)
        }
        checks = Checks()
        for sid in members:
            node = _Spoken(self._world, sid, Ensemble(members), LIMITS, SETTINGS, checks)
            node.script = self
            node.disk_us = (50, 51)
            self._nodes[sid] = node
        for node in self._nodes.values():
            node.others = {o.sid: o for o in self._nodes.values() if o is not node}

    def _do_start(self, *sids: str) -> None:
        for sid in sids:
            self._nodes[int(sid)].start()

    def _do_crash(self, *sids: str) -> None:
        for sid in sids:
            self._nodes[int(sid)].crash()
            if self._wire is not None:
                self._wire.crashed(self._world.now_us, int(sid))

    def _do_disk(self, sid: str, ms: str) -> None:
        us = int(ms) * 1000
        self._nodes[int(sid)].disk_us = (us, us + 1)

    def _do_cut(self, *sids: str) -> None:
        side = set(map(int, sids))
        for a in side:
            for b in self._nodes.keys() - side:
                self._world.cut |= {(a, b), (b, a)}

    def _do_heal(self) -> None:
        pairs = set(self._world.cut)
        self._world.heal(pairs)
        for a, b in sorted(pairs):
            if self._nodes[a].peer and self._nodes[b].peer:
                self._nodes[a].meet(self._nodes[b])

    def _do_run(self, ms: str) -> None:
        self._world.run(self._world.now_us + int(ms) * 1000)

    def _do_votes(self, wanted: str) -> None:
        self._told["votes"] = wanted == "on"

    def _do_pings(self, wanted: str) -> None:
        self._told["pings"] = wanted == "on"

    def _do_quiet(self, wanted: str) -> None:
        self._quiet = wanted == "on"

    def _do_show(self) -> None:
        for sid, node in self._nodes.items():
            peer = node.peer
            if peer is None:
                self.say(f"{sid} down")
                continue
            tree = peer.replica.tree
            serving = "serves" if peer.server is not None else "does not serve"
            children = sorted(tree.nodes["/"].children or ())
            names = " ".join(children) if len(children) < 10 else f"{len(children)} znodes"
            self.say(
                f"{sid} {peer.state.name.lower()}, {serving}, "
                f"zxid {zxids.text(tree.last_zxid)}: {names}"
            )

    def _do_write(self, sid: str, *paths: str) -> None:
        self._write(int(sid), iter(paths))

    def _do_fill(self, sid: str, count: str) -> None:
        before, self._quiet = self._quiet, True
        self._write(int(sid), (f"/n{number}" for number in range(int(count))))
        self._quiet = before

    def _write(self, sid: int, paths: Iterator[str]) -> None:
        node, world = self._nodes[sid], self._world
        answers: list[bytes | None] = []
        host = _CLIENT + self._clients
        self._clients += 1

        def at_server(data: bytes | None) -> None:
            assert side is not None
            node.client_received(side, data)

        connection = Connection(world, host, sid, answers.append, at_server)
        side = node.accept_client(connection)
        assert side is not None, f"server {sid} serves nobody"
        if self._wire is not None:
            self._wire.dialled(world.now_us, connection, False)
        written = self.writes.setdefault(host, [])

        def ask(data: bytes, path: str | None = None) -> None:
            before = len(answers)
            connection.to_b.send(len(data).to_bytes(4, "big") + data)
            # What is not answered in this time waits for servers that are not there.
            world.run(world.now_us + 20_000, lambda: len(answers) > before)
            written.append((path, len(answers) > before))

        ask(ConnectRequest(0, 0, _TIMEOUT_MS, 0, bytes(16), False).encode())
        for xid, path in enumerate(paths, 1):
            body = CreateRequest(path, b"", OPEN, 0).encode()
            ask(struct.pack(">ii", xid, op.CREATE) + body, path)
            world.run(world.now_us + 1000)


def _packet(packet: Packet) -> str:
    """In a line, as the decoder's text has it."""
    text = packet.name + (f" {zxids.text(packet.zxid)}" if packet.zxid != -1 else "")
    if packet.type in (p.PROPOSAL, p.INFORM) and packet.data is not None:
        txn = Transaction.decode(packet.data)
        path = getattr(txn.body, "path", None)
        kind = type(txn.body).__name__.removesuffix("Txn") if txn.body is not None else "close"
        text += f" {kind}" + (f" {path}" if path else "")
    elif packet.type == p.SNAP:
        text += f", {len(packet.data or b'')} bytes of snapshot"
    elif packet.type == p.NEWLEADER:
        text += ", with the configuration"
    return text


def commands(text: str) -> Iterator[str]:
    """Of a file: what is not indented, comments and empty lines, too."""
    for line in text.splitlines():
        if not line.startswith(" "):
            yield line


def replay(text: str, wire: Wire | None = None) -> Script:
    """Runs the commands of a file."""
    script = Script(wire)
    for line in commands(text):
        if not line or line.startswith("#"):
            script.lines.append(line)
        else:
            script.do(line)
    return script


def rewritten(text: str) -> str:
    """The file as it ought to be."""
    return "\n".join(replay(text).lines) + "\n"


def files() -> list[Path]:
    """All transcripts."""
    return sorted(HERE.glob("*.txt"))
