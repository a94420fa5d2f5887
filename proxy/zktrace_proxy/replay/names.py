"""How replay, shadow and stand-in name what they report."""

from __future__ import annotations

from typing import Any, Final

from zktrace.wire.jute import WireError
from zktrace.wire.message import decode_body
from zktrace.wire.opcodes import OPS, op_name
from zktrace_proxy.messages.exchanges import CONNECT_OP
from zktrace_proxy.messages.maps import MASK
from zktrace_proxy.replay.effects import paths_of

_NAMES: Final = {op.number: op.name for op in OPS} | {CONNECT_OP: "connect"}


def request_name(opcode: int) -> str:
    """An op's name; of a ConnectRequest, too."""
    return _NAMES.get(opcode) or op_name(opcode)


def session_text(session: int) -> str:
    """As events show it."""
    return f"0x{session & MASK:016x}" if session > 0 else f"unknown-{-session}"


def path_of(exchange: Any) -> str | None:
    """The first path of an exchange's request."""
    try:
        paths = paths_of(decode_body(exchange.opcode, "request", exchange.request[8:]))
    except WireError:
        return None
    return paths[0] if paths else None
