"""Which watches each recorded connection has, as far as its requests and events tell.

The end of a session, or of a connection, has to come before the writes that would have set off its
watches; so it needs to be known what they look at. Memory: the watches that are set.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from zktrace.wire.jute import WireError
from zktrace.wire.multi import MultiRequest
from zktrace.wire.records import WatcherEvent
from zktrace_proxy.messages.exchanges import Exchange
from zktrace_proxy.replay.effects import NO_NODE, Effects

_EXISTS, _GET_DATA, _GET_CHILDREN, _GET_CHILDREN2, _ADD_WATCH = 3, 4, 8, 12, 106
_DELETED, _CHILDREN = 2, 4


@dataclass(slots=True)
class _Watches:
    data: set[str] = field(default_factory=set)
    child: set[str] = field(default_factory=set)
    persistent: set[str] = field(default_factory=set)
    recursive: bool = False


class Watching:
    """Of all connections."""

    def __init__(self) -> None:
        self._of: dict[int, _Watches] = {}

    def asked(self, exchange: Exchange, found: Effects) -> None:
        """A request that may set a watch, with its reply."""
        body = found.request
        if isinstance(body, MultiRequest) or body is None:
            return
        path = getattr(body, "path", None)
        opcode, error = exchange.opcode, exchange.error
        if path is None:
            self._set_again(exchange, body)
            return
        if opcode == _ADD_WATCH and not error:
            watches = self._watches(exchange.conn)
            watches.persistent.add(path)
            watches.recursive |= bool(body.mode)
        elif getattr(body, "watch", False):
            if opcode in (_GET_CHILDREN, _GET_CHILDREN2) and not error:
                self._watches(exchange.conn).child.add(path)
            elif (opcode == _GET_DATA and not error) or (
                opcode == _EXISTS and error in (0, NO_NODE, None)
            ):
                self._watches(exchange.conn).data.add(path)

    def _set_again(self, exchange: Exchange, body: Any) -> None:
        if not hasattr(body, "data_watches"):
            return
        watches = self._watches(exchange.conn)
        watches.data.update(
            p for p in (*(body.data_watches or ()), *(body.exist_watches or ())) if p
        )
        watches.child.update(p for p in body.child_watches or () if p)
        for name in ("persistent_watches", "persistent_recursive_watches"):
            paths = getattr(body, name, None) or ()
            watches.persistent.update(p for p in paths if p)
            watches.recursive |= bool(paths) and name.endswith("recursive_watches")

    def _watches(self, conn: int) -> _Watches:
        found = self._of.get(conn)
        if found is None:
            found = self._of[conn] = _Watches()
        return found

    def heard(self, conn: int, events: list[bytes]) -> None:
        """Watch events: those watches are gone."""
        watches = self._of.get(conn)
        if watches is None:
            return
        for payload in events:
            event = event_of(payload)
            if event is None or event.path is None:
                continue
            if event.type != _CHILDREN:
                watches.data.discard(event.path)
            if event.type in (_DELETED, _CHILDREN):
                watches.child.discard(event.path)

    def end(self, conn: int, found: Effects, *, persistent: bool) -> None:
        """The connection's watches end: what they look at is read by `found`. Persistent ones only
        where they are asked for: an event of theirs says nothing of whether they go on.
        """
        watches = self._of.pop(conn, None)
        if watches is None:
            return
        for path in watches.data:
            found.reads.add("n" + path)
        for path in watches.child:
            # the end of the node itself sets them off, too
            found.reads.update(("c" + path, "n" + path))
        if persistent:
            for path in watches.persistent:
                found.reads.update(("n" + path, "c" + path))
            found.wide |= watches.recursive


def event_of(payload: bytes) -> WatcherEvent | None:
    """A watch event's body."""
    try:
        return WatcherEvent.decode(payload[16:])
    except WireError:
        return None
