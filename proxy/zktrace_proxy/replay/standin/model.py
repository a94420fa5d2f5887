"""The tree that a recording is played on: the reference server's core, and what a recording shows.

The core (``zktrace_server.core``) is the one thing here that knows how a request is answered: this
module, and no other of the proxy, stands on it. What a recorded reply shows and the tree does not
have (writes that nobody recorded, nodes from before) is put into the tree, and sets watches off as
the write itself did. zxids are the recording's where its requests come in its order, and go up in
any case. Sessions and passwords are the core's own. No input or output, no clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from zktrace.wire.message import frame
from zktrace.wire.multi import MultiRequest, MultiResponse
from zktrace.wire.records import Stat
from zktrace_proxy.replay.effects import Effects, parent
from zktrace_proxy.replay.standin.script import SEQUENTIAL, number_of
from zktrace_proxy.replay.start import Node as StartNode
from zktrace_server.core import tree as events
from zktrace_server.core.connection import Connection, State
from zktrace_server.core.node import Node
from zktrace_server.core.server import Refused, Server
from zktrace_server.core.settings import Settings
from zktrace_server.core.tree import DataTree

#: Frames up to this; a recording may be of servers with a large jute.maxbuffer.
MAX_FRAME: Final = 16 << 20
#: Sessions may ask for what they like; who plays a recorded client never expires.
_LONGEST_MS: Final = 3_600_000
_NEVER_MS: Final = 1 << 40
_SETTINGS: Final = Settings(
    tick_ms=500,
    min_session_timeout_ms=1000,
    max_session_timeout_ms=_LONGEST_MS,
    max_buffer=MAX_FRAME,
    extended_types=True,
    # containers and TTL nodes go where the recording shows that they are gone
    container_check_interval_ms=_NEVER_MS,
)
#: A name's new path, and a recorded session's live id.
Rename = Callable[[str], str]
Owner = Callable[[int], int]

__all__ = ["MAX_FRAME", "Connection", "Model", "Refused", "State"]


class Model:
    """`wall_ms` and `now_ms`: as the core's :meth:`Server.set_time`."""

    def __init__(self, wall_ms: int, now_ms: int) -> None:
        self.tree = DataTree(_SETTINGS.extended_types)
        self.server = Server(_SETTINGS, self.tree, {}, fast=False)
        self.server.start(wall_ms, now_ms)

    # ---- clients

    def connect(self, address: str) -> Connection:
        """A client that connected, from this IP address."""
        return self.server.connect(address)

    def play(self) -> Connection:
        """A session of a recorded client, which nobody has to keep alive."""
        connection = self.server.connect("127.0.0.1")
        connection.session_id = self.server.sessions.new_id()
        connection.timeout_ms = _NEVER_MS
        connection.state = State.OPEN
        self.server.sessions.track(connection.session_id, _NEVER_MS, self.server.now_ms)
        return connection

    def ask(self, connection: Connection, payload: bytes) -> bytes | None:
        """The core's answer to a request, without its length; None: there is none. What else it
        has to say stays in the connection's `out`.

        :raises Refused: the connection is closed without an answer.
        """
        before = len(connection.out)
        self.server.receive(connection, frame(payload))
        self.server.log.clear()
        if len(connection.out) <= before:
            return None
        # events that the request itself sets off go first
        return connection.out.pop()[4:]

    def say(self, connection: Connection, answer: bytes | None) -> None:
        """To be sent behind what the connection's `out` has."""
        if answer is not None:
            connection.out.append(frame(answer))
            self.server.dirty[connection] = None

    def begin_session(self, connection: Connection, payload: bytes) -> bytes | None:
        """The core's answer to a ConnectRequest. A new session takes no zxid: those of the
        recording are for what it has.
        """
        before = self.server.preparer.zxid, self.tree.last_zxid
        answer = self.ask(connection, payload)
        self.server.preparer.zxid, self.tree.last_zxid = before
        return answer

    def alive(self, connection: Connection) -> None:
        """The client was heard of."""
        self.server.sessions.touch(connection.session_id, connection.timeout_ms, self.server.now_ms)

    def end_session(self, session_id: int) -> None:
        """It expires now, if it has not ended before."""
        if self.server.sessions.get(session_id) is not None:
            self.server.expire(session_id)
            self.server.log.clear()

    def lives(self, session_id: int) -> bool:
        """Whether there is such a session."""
        return self.server.sessions.get(session_id) is not None

    def ephemerals(self, session_id: int) -> list[str]:
        """Nodes that go with a session."""
        return list(self.tree.ephemerals.get(session_id, ()))

    def tick(self) -> list[str]:
        """Ends sessions that were not heard of in time; nodes that went with them."""
        before = {one: list(paths) for one, paths in self.tree.ephemerals.items()}
        self.server.tick()
        self.server.log.clear()
        return [
            path for one, paths in before.items() if not self.lives(one) for path in paths
            if path not in self.tree.nodes
        ]  # fmt: skip

    # ---- where the recording is

    def advance(self, zxid: int) -> None:
        """All writes up to this zxid have been made."""
        preparer = self.server.preparer
        preparer.zxid = max(preparer.zxid, zxid)
        self.tree.last_zxid = max(self.tree.last_zxid, zxid)

    def begin(self, nodes: Iterable[StartNode], zxid: int) -> None:
        """Nodes that were there when the recording began; its first zxid."""
        self.advance(max(zxid - 1, 0))
        for node in nodes:
            data = node.data if node.data is not None else bytes(node.length)
            if node.path not in self.tree.nodes and _above(node.path) in self.tree.nodes:
                made = Node(data, self.tree.acls.use(node.acl), self.tree.last_zxid, 0, node.owner)
                self.tree.put(node.path, made)

    # ---- what replies show

    def observe(self, found: Effects, rename: Rename, owner: Owner, time_ms: int) -> None:
        """What a recorded reply shows of the tree at the time of its request."""
        for path in found.absent:
            self._absent(rename(path))
        for path, stat, data, children in found.seen:
            self._present(rename(path), stat, data, owner, time_ms)
            if children is not None:
                self._children(path, children, rename, time_ms)

    def follow(self, found: Effects, rename: Rename, time_ms: int) -> None:
        """A recorded write of a kind that the core does not know was made."""
        for made in found.made:
            self._present(rename(made.path), None, None, int, time_ms)
        for path in found.removed:
            self._absent(rename(path))

    def foresee(self, found: Effects, rename: Rename, time_ms: int) -> None:
        """What the tree was like for a recorded write to succeed as it did, before it is made."""
        body, reply = found.request, found.reply
        if isinstance(body, MultiRequest):
            results = reply.results if isinstance(reply, MultiResponse) else []
            pairs = [(op.body, result.body) for op, result in zip(body.ops, results, strict=False)]
        else:
            pairs = [(body, reply)]
        numbered: set[str] = set()
        made: set[str] = set()
        for one, result in pairs:
            path = getattr(one, "path", None)
            if not isinstance(path, str) or not path.startswith("/"):
                continue
            if hasattr(one, "flags"):
                got = getattr(result, "created_path", None)
                made.add(got or path)
                self._for_create(one, got, rename, numbered, time_ms)
            elif path not in made:
                self._for_change(one, result, rename(path), time_ms)

    def _for_create(
        self, body: Any, got: str | None, rename: Rename, numbered: set[str], time_ms: int
    ) -> None:
        above = parent(body.path)
        self._present(rename(above), None, None, int, time_ms)
        if body.flags not in SEQUENTIAL:
            self._absent(rename(body.path))
        elif got is not None and above not in numbered:
            numbered.add(above)
            number = number_of(got)
            node = self.tree.nodes[_name(rename(above))]
            if number is not None and node.cversion != number:
                node.cversion = number
                self.tree.changed(node)

    def _for_change(self, body: Any, result: Any, path: str, time_ms: int) -> None:
        self._present(path, None, None, int, time_ms)
        node = self.tree.nodes[_name(path)]
        stat = getattr(result, "stat", None)
        if isinstance(stat, Stat):
            if hasattr(body, "data"):
                node.version = stat.version - 1
            elif hasattr(body, "acl"):
                node.aversion = stat.aversion - 1
        elif getattr(body, "version", -1) >= 0:
            node.version = body.version
        self.tree.changed(node)

    def _absent(self, path: str) -> None:
        node = self.tree.nodes.get(path)
        if path in ("", "/") or node is None:
            return
        for name in node.child_names():
            self._absent(f"{path}/{name}")
        self.tree.delete(path, self.tree.last_zxid)

    def _present(
        self, path: str, stat: Stat | None, data: bytes | None, owner: Owner, time_ms: int
    ) -> None:
        tree, name = self.tree, _name(path)
        if name and name not in tree.nodes:
            self._present(parent(path), None, None, int, time_ms)
            zxid, acl = tree.last_zxid, tree.acls.use(None)
            tree.create(name, data or b"", acl, _owner_of(stat, owner), -1, zxid, time_ms)
        node = tree.nodes[name]
        if stat is None:
            return
        changed = data is not None and data != (node.data or b"")
        if changed or stat.version != node.version:
            self._changed(name, node, data, stat)
        node.czxid, node.mzxid, node.pzxid = stat.czxid, stat.mzxid, stat.pzxid
        node.ctime, node.mtime, node.aversion = stat.ctime, stat.mtime, stat.aversion
        node.cversion = (stat.cversion + stat.num_children) // 2
        tree.changed(node)

    def _changed(self, name: str, node: Node, data: bytes | None, stat: Stat) -> None:
        if data is None:
            same = len(node.data or b"") == stat.data_length
            data = node.data if same else bytes(stat.data_length)
        if node.version == 0 and node.mzxid != stat.mzxid and data == (node.data or b""):
            # a node from before, and the first look at it: nothing tells of a write
            node.data, node.version = data, stat.version
        else:
            self.tree.set_data(name, data, stat.version, stat.mzxid, stat.mtime)

    def _children(self, path: str, children: list[str], rename: Rename, time_ms: int) -> None:
        base = path.rstrip("/")
        wanted = [rename(f"{base}/{name}") for name in children]
        live = _name(rename(path))
        for name in self.tree.nodes[live].child_names():
            if f"{live}/{name}" not in wanted:
                self._absent(f"{live}/{name}")
        for one in wanted:
            self._present(one, None, None, int, time_ms)

    # ---- watch events

    def is_watched(self, connection: Connection, event: int, path: str) -> bool:
        """Whether a client waits for this."""
        tree = self.tree
        if event == events.CHILDREN_CHANGED:
            return tree.child_watches.has(path, connection)
        return tree.data_watches.has(path, connection) or (
            event == events.DELETED and tree.child_watches.has(path, connection)
        )

    def happen(self, event: int, path: str, time_ms: int) -> None:
        """Something that nobody recorded, and of which only the watch event is known."""
        tree = self.tree
        name, zxid = _name(path), self.tree.last_zxid
        node = tree.nodes.get(name)
        if event == events.DELETED:
            self._absent(path)
        elif event == events.CREATED and node is None:
            self._present(path, None, None, int, time_ms)
        elif event == events.DATA_CHANGED and node is not None:
            tree.set_data(name, node.data, node.version + 1, zxid, time_ms)
        elif event == events.CHILDREN_CHANGED and node is not None:
            for watcher in tree.child_watches.fire(path):
                tree.deliver(watcher, event, path, zxid, tree.acl(node))


def _name(path: str) -> str:
    """The tree's name of a node: the root is "" there."""
    return "" if path == "/" else path


def _above(path: str) -> str:
    return _name(parent(path))


def _owner_of(stat: Stat | None, owner: Owner) -> int:
    return owner(stat.ephemeral_owner) if stat is not None and stat.ephemeral_owner else 0
