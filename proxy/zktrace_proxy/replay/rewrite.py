"""Recorded requests as the live server must get them: other names, versions, zxids, credentials.

Where nothing differs the recorded bytes go out as they are. xids stay as they were recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, Final

from zktrace.wire.jute import WireError
from zktrace.wire.message import decode_body, encode_request
from zktrace.wire.multi import MultiRequest
from zktrace.wire.opcodes import AUTH
from zktrace.wire.records import AuthPacket
from zktrace_proxy.messages.exchanges import Exchange
from zktrace_proxy.messages.maps import Maps

_SET_WATCHES: Final = (101, 105)
_SET_ACL: Final = 7
_LISTS: Final = (
    *("data_watches", "exist_watches", "child_watches"),
    *("persistent_watches", "persistent_recursive_watches"),
)
_VERSIONED: Final = (2, 5, 7, 13, 501, 504, 505)
_BAD_VERSION: Final = -103
#: A version that no node has.
IMPOSSIBLE: Final = 0x7FFFFFFF


class Versions(StrEnum):
    """What becomes of the version that a request expects."""

    map = "map"
    """As the live node has it, where that differs."""
    keep = "keep"
    """As recorded."""
    any = "any"
    """-1, but where the recorded request failed for its version."""


class Rewriter:
    """`credentials`: by scheme, for auth packets; `names_in`: whether data of a recorded path holds
    names of sequential nodes.
    """

    def __init__(
        self,
        maps: Maps,
        versions: Versions = Versions.map,
        credentials: Mapping[str, bytes] | None = None,
        names_in: Callable[[str], object] | None = None,
    ) -> None:
        self._maps = maps
        self._versions = versions
        self._credentials = credentials or {}
        self._names_in = names_in

    def request(self, exchange: Exchange) -> bytes | None:
        """The payload to send; None: nothing is to be sent (auth without a credential)."""
        opcode = exchange.opcode
        if opcode == AUTH:
            return self._auth(exchange)
        maps = self._maps
        versions = self._versions
        plain = maps.names.is_identity and opcode not in _SET_WATCHES
        if plain and (
            versions is Versions.keep
            or (versions is Versions.map and not maps.offsets.by_path)
            or opcode not in (*_VERSIONED, 14)
        ):
            return exchange.request
        try:
            body = decode_body(opcode, "request", exchange.request[8:])
        except WireError:
            return exchange.request  # bytes that no layout fits: their answer is of interest
        if isinstance(body, MultiRequest):
            for op in body.ops:
                self._body(op.type, op.body, exchange)
        else:
            self._body(opcode, body, exchange)
        return encode_request(exchange.xid, opcode, body)

    def _body(self, opcode: int, body: Any, exchange: Exchange) -> None:
        maps = self._maps
        path = getattr(body, "path", None)
        if isinstance(path, str) and path:
            if opcode in _VERSIONED:
                body.version = self._version(opcode, path, body.version, exchange)
            if self._names_in is not None and getattr(body, "data", None) and self._names_in(path):
                body.data = maps.names.data_to_live(body.data)
            body.path = maps.names.to_live(path)
        if opcode in _SET_WATCHES:
            body.relative_zxid = maps.zxids.floor(body.relative_zxid)
            for name in _LISTS:
                paths = getattr(body, name, None)
                if paths:
                    setattr(body, name, [p and maps.names.to_live(p) for p in paths])
        prefix = getattr(body, "prefix_path", None)
        if prefix:
            body.prefix_path = maps.names.to_live(prefix)

    def _version(self, opcode: int, path: str, version: int, exchange: Exchange) -> int:
        if version < 0 or self._versions is Versions.keep:
            return version
        if self._versions is Versions.any:
            return IMPOSSIBLE if exchange.error == _BAD_VERSION else -1
        offsets = self._maps.offsets
        if opcode == _SET_ACL:
            return offsets.aversion(path, version)
        return offsets.version(path, version)

    def _auth(self, exchange: Exchange) -> bytes | None:
        packet = AuthPacket.decode(exchange.request[8:])
        given = self._credentials.get(packet.scheme or "")
        if given is not None:
            packet.auth = given
            return encode_request(exchange.xid, AUTH, packet)
        return exchange.request if any(packet.auth or b"") else None
