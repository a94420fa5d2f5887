"""Recorded replies as a live client must get them: its session ids, its names. Pure functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zktrace.wire.jute import WireError
from zktrace.wire.message import decode_body
from zktrace.wire.multi import MultiRequest, MultiResponse
from zktrace.wire.records import ReplyHeader, Stat
from zktrace_proxy.messages.exchanges import Exchange
from zktrace_proxy.messages.maps import MASK, Names
from zktrace_proxy.replay.standin.script import body_of


class Answers:
    """`sessions`: recorded session id to live one; it grows."""

    def __init__(self, names: Names, sessions: dict[int, int]) -> None:
        self._names = names
        self._sessions = sessions

    def owner(self, recorded: int) -> int:
        """An ephemeral owner; of a session that nobody plays, as recorded."""
        return self._sessions.get(recorded & MASK, recorded)

    def reply(self, exchange: Exchange, payload: bytes, zxid: int) -> tuple[bytes, bool]:
        """The reply to a request like the recorded one, and whether it tells of a failure."""
        assert exchange.reply is not None
        xid = int.from_bytes(payload[:4], "big", signed=True)
        header = ReplyHeader(xid, zxid, exchange.error or 0)
        rest = exchange.reply[16:]
        failed = bool(header.err)
        try:
            reply = decode_body(exchange.opcode, "reply", rest) if not failed else None
        except WireError:
            reply = None  # of no known layout: as it is
        if reply is not None:
            asked = body_of(exchange.opcode, exchange.request)
            if isinstance(reply, MultiResponse):
                failed = any(result.err for result in reply.results)
                ops = asked.ops if isinstance(asked, MultiRequest) else []
                for op, result in zip(ops, reply.results, strict=False):
                    self._rename(result.body, op.body)
            else:
                self._rename(reply, asked)
            rest = reply.encode()
        return header.encode() + rest, failed

    def _rename(self, body: Any, asked: Any) -> None:
        names = self._names
        stat = getattr(body, "stat", None)
        if isinstance(stat, Stat):
            stat.ephemeral_owner = self.owner(stat.ephemeral_owner)
        if names.is_identity:
            return
        made = getattr(body, "created_path", None)
        if made:
            body.created_path = names.to_live(made)
        children = getattr(body, "children", None)
        if children:
            base = (getattr(asked, "path", None) or "").rstrip("/")
            # getEphemerals gives whole paths
            body.children = [
                names.to_live(one)
                if one.startswith("/")
                else names.to_live(f"{base}/{one}").rpartition("/")[2]
                for one in children
            ]


def time_of(reply: Any) -> int:
    """When a write was made, in ms since 1970, by the Stat in its reply; 0: it has none."""
    if isinstance(reply, MultiResponse):
        return max((time_of(one.body) for one in reply.results), default=0)
    stat = getattr(reply, "stat", None)
    return stat.mtime if isinstance(stat, Stat) else 0


def data_of(body: Any) -> list[bytes]:
    """Node data in a request, in order."""
    if isinstance(body, MultiRequest):
        return [one for op in body.ops for one in data_of(op.body)]
    return [body.data or b""] if hasattr(body, "data") else []


def data_paths(body: Any, to_recorded: Callable[[str], str]) -> list[str]:
    """The nodes that they are for, under their recorded names."""
    if isinstance(body, MultiRequest):
        return [one for op in body.ops for one in data_paths(op.body, to_recorded)]
    path = getattr(body, "path", None)
    return [to_recorded(path)] if path and hasattr(body, "data") else []
