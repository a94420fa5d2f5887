"""A client that speaks jute and nothing more: what it is told is what is on the wire."""

from __future__ import annotations

import socket
import struct
from typing import Final

from zktrace.wire.message import Body, encode_request
from zktrace.wire.opcodes import PING, PING_XID, WATCH_XID
from zktrace.wire.records import ConnectRequest, ConnectResponse, Empty

_LENGTH: Final = struct.Struct(">i")
_XID: Final = struct.Struct(">i")
#: A server that does not answer in this time will not.
_PATIENCE_S: Final = 60.0


class RawClient:
    """One connection. Frames are payloads, without their length."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._socket = socket.create_connection(address, timeout=_PATIENCE_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray()
        self.ended = False
        self.session_id = 0
        self.password: bytes | None = None

    def connect(
        self,
        *,
        session_id: int = 0,
        password: bytes | None = bytes(16),
        timeout_ms: int = 30000,
        last_zxid: int = 0,
        read_only: bool | None = False,
    ) -> ConnectResponse | None:
        """Asks for a session; None where the server closes instead of answering."""
        request = ConnectRequest(0, last_zxid, timeout_ms, session_id, password, read_only)
        self.send(request.encode())
        payload = self.frame()
        if payload is None:
            return None
        response = ConnectResponse.decode(payload)
        self.session_id, self.password = response.session_id, response.password
        return response

    def send(self, *payloads: bytes) -> None:
        """Frames, in one segment where they fit."""
        self.send_bytes(b"".join(_LENGTH.pack(len(p)) + p for p in payloads))

    def send_bytes(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # what was sent back before is still to be read

    def request(self, xid: int, number: int, body: Body) -> None:
        self.send(encode_request(xid, number, body))

    def frame(self) -> bytes | None:
        """The next payload; None when the server has closed."""
        while not self.ended:
            if len(self._buffer) >= 4:
                end = 4 + _LENGTH.unpack_from(self._buffer)[0]
                if len(self._buffer) >= end:
                    payload = bytes(self._buffer[4:end])
                    del self._buffer[:end]
                    return payload
            try:
                data = self._socket.recv(1 << 18)
            except ConnectionResetError:
                data = b""
            if data:
                self._buffer += data
            else:
                self.ended = True
        return None

    def replies(self, count: int) -> list[bytes]:
        """Frames up to the `count`th that is no watch event, those included; fewer if the server
        closes.
        """
        got: list[bytes] = []
        while count:
            payload = self.frame()
            if payload is None:
                break
            got.append(payload)
            if _XID.unpack_from(payload)[0] != WATCH_XID:
                count -= 1
        return got

    def events(self) -> list[bytes]:
        """Watch events that were sent before the answer to a ping that is sent now."""
        self.request(PING_XID, PING, Empty())
        return [p for p in self.replies(1) if _XID.unpack_from(p)[0] == WATCH_XID]

    def close(self) -> None:
        """Without a word to the server."""
        self._socket.close()
        self.ended = True
