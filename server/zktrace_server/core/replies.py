"""Replies kept ready: the body of an answer by the bytes of its question.

Most of what a ZooKeeper server is asked it was asked before, of a node that has not changed since.
So the bytes of a request behind its xid (opcode, path, watch flag) stand for the bytes of the
reply's body, as long as the node stays as it is. Only answers that are the same for everyone are
kept: no watch set, readable by world:anyone, no error. Java's ResponseCache is the model; it saves
the encoding alone.
"""

from __future__ import annotations

from typing import Final

from zktrace_server.core.node import Node

#: When one of these is passed everything is forgotten: simple, and seldom enough to cost little.
MAX_REPLIES: Final = 1 << 16
MAX_BYTES: Final = 64 << 20
#: Larger answers are made anew: what is saved of them is little.
MAX_REPLY: Final = 256 << 10


class Replies:
    """`bodies` is read by the fast path without a call."""

    def __init__(self) -> None:
        self.bodies: dict[bytes, bytes] = {}
        self._owners: list[Node] = []
        self._bytes = 0

    def keep(self, question: bytes, body: bytes, node: Node) -> None:
        """An answer that holds until `node` changes."""
        if len(body) > MAX_REPLY:
            return
        self._bytes += len(body) + len(question)
        if len(self.bodies) >= MAX_REPLIES or self._bytes > MAX_BYTES:
            self.clear()
        if node.keys is None:
            node.keys = []
            self._owners.append(node)
        node.keys.append(question)
        self.bodies[question] = body

    def forget(self, node: Node) -> None:
        """The node is about to change, or go."""
        for question in node.keys or ():
            body = self.bodies.pop(question, None)
            if body is not None:
                self._bytes -= len(body) + len(question)
        node.keys = None

    def clear(self) -> None:
        """Forgets everything."""
        for node in self._owners:
            node.keys = None
        self._owners.clear()
        self.bodies.clear()
        self._bytes = 0
