"""How servers prove to each other who they are, before the first packet of the quorum port and
behind the initial message of the election port (QuorumAuth, SaslQuorumAuthServer,
SaslQuorumAuthLearner): QuorumAuthPackets with the tokens of DIGEST-MD5, one after the other without
lengths. Who has dialled begins.

Sans-IO: `receive` takes bytes and gives those that are behind the exchange, `take` is what is to be
sent. Chance and secrets come from outside.
"""

from __future__ import annotations

import struct
from typing import Final

from zktrace.wire.quorum import AUTH_MAGIC, AUTH_STATUS, QuorumAuthPacket
from zktrace_server.core.sasl import MAX_RESPONSE, SaslClient, SaslError, SaslServer

_IN_PROGRESS: Final = 0
_SUCCESS: Final = 1
_ERROR: Final = -1
_MAGIC: Final = AUTH_MAGIC.to_bytes(8, "big")
#: Magic, status, length of the token.
_HEAD: Final = struct.Struct(">qii")


class AuthError(Exception):
    """The connection cannot stay; the text is for the log, and has no secret."""


class Exchange:
    """One connection's. It is over when `done`."""

    def __init__(self) -> None:
        self.done = False
        self._out = bytearray()
        self._buffer = bytearray()

    def take(self) -> bytes:
        """What is to be sent now."""
        out = bytes(self._out)
        self._out.clear()
        return out

    def receive(self, data: bytes) -> bytes:
        """Bytes of the other end; AuthError where it is not who it should be, when what `take`
        gives is to be sent all the same.
        """
        self._buffer += data
        while not self.done and self._whole():
            pass
        if not self.done:
            return b""
        behind = bytes(self._buffer)
        self._buffer.clear()
        return behind

    def _whole(self) -> bool:
        """Handles the next packet, if all of it is there."""
        buffer = self._buffer
        if len(buffer) < _HEAD.size:
            return False
        magic, status, size = _HEAD.unpack_from(buffer)
        if magic != AUTH_MAGIC or status not in AUTH_STATUS:
            raise AuthError("it says something else than QuorumAuth")
        if not -1 <= size <= MAX_RESPONSE:
            raise AuthError(f"a token of {size} bytes")
        end = _HEAD.size + max(size, 0)
        if len(buffer) < end:
            return False
        token = bytes(buffer[_HEAD.size : end])
        del buffer[:end]
        try:
            self._packet(status, token)
        except SaslError as error:
            self._failed(str(error))
        return True

    def _packet(self, status: int, token: bytes) -> None:
        raise NotImplementedError

    def _failed(self, why: str) -> None:
        raise AuthError(f"SASL: {why}")

    def _say(self, status: int, token: bytes) -> None:
        self._out += QuorumAuthPacket(AUTH_MAGIC, status, token).encode()


class Accepting(Exchange):
    """Of a server that was connected to. Unless it is `required`, whoever says something else, or
    fails, is let through as well, as in Java.
    """

    def __init__(self, sasl: SaslServer, *, required: bool) -> None:
        super().__init__()
        self._sasl = sasl
        self._required = required
        self._begun = False

    def _whole(self) -> bool:
        if not self._begun:
            if len(self._buffer) < len(_MAGIC):
                return False
            self._begun = True
            if not self._buffer.startswith(_MAGIC):
                if self._required:
                    raise AuthError("SASL: it does not authenticate itself, and has to")
                self.done = True
                return True
        return super()._whole()

    def _packet(self, status: int, token: bytes) -> None:
        answer = self._sasl.evaluate(token)
        self.done = self._sasl.authorized is not None
        self._say(_SUCCESS if self.done else _IN_PROGRESS, answer)

    def _failed(self, why: str) -> None:
        self._say(_ERROR, b"")
        if self._required:
            super()._failed(why)
        self.done = True


class Dialling(Exchange):
    """Of the server that has connected: it says nothing else until the other has proved that it
    knows the password, too.
    """

    def __init__(self, sasl: SaslClient) -> None:
        super().__init__()
        self._sasl = sasl
        self._say(_IN_PROGRESS, b"")

    def _packet(self, status: int, token: bytes) -> None:
        if status == _ERROR:
            raise AuthError("SASL: the other end refuses this server")
        answer = self._sasl.evaluate(token)
        if status == _SUCCESS:
            if not self._sasl.complete:
                raise AuthError("SASL: the other end is satisfied before it has proved anything")
            self.done = True
        elif answer is None:
            raise AuthError("SASL: the other end goes on behind the end")
        else:
            self._say(_IN_PROGRESS, answer)
