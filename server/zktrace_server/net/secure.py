"""Before a client with TLS is a client: the handshake, and who its certificate says it is
(NettyServerCnxnFactory.CertificateVerifier).
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from typing import Final

from zktrace_server.core.x500 import BadCertificate, subject
from zktrace_server.net.client import ClientPort, peer_of
from zktrace_server.net.tls import Tls

log: Final = logging.getLogger(__name__)

#: As Netty's SslHandler has it.
_HANDSHAKE_S: Final = 10.0


class TlsGate(asyncio.Protocol):
    """One socket until its handshake is done; then a :class:`ClientProtocol` has it."""

    def __init__(self, port: ClientPort, tls: Tls) -> None:
        self._port = port
        self._tls = tls
        self._early = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._ended = False

    @classmethod
    def factory(cls, port: ClientPort, tls: Tls) -> Callable[[], TlsGate]:
        """What asyncio wants for a new connection."""
        return lambda: cls(port, tls)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        name, address = peer_of(transport)
        if self._port.admit(transport, name, address):
            transport.pause_reading()
            self._task = self._port.loop.create_task(self._shake(transport, name, address))

    def data_received(self, data: bytes) -> None:
        # Right behind the handshake, before anybody has seen that it is done.
        self._early += data

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True

    async def _shake(self, transport: asyncio.Transport, name: str, address: str) -> None:
        stats = self._port.service.stats
        stats.handshakes += 1
        try:
            secured = await self._port.loop.start_tls(
                transport,
                self,
                self._tls.context(),
                server_side=True,
                ssl_handshake_timeout=_HANDSHAKE_S,
            )
        except (OSError, asyncio.IncompleteReadError) as error:
            self._refuse(transport, name, address, getattr(error, "reason", None) or str(error))
            return
        finally:
            stats.handshakes -= 1
        assert isinstance(secured, asyncio.Transport)
        try:
            who = self._subject(secured)
        except BadCertificate as error:
            self._refuse(secured, name, address, str(error))
            return
        if self._ended:
            self._port.leave(address)
            return
        client = self._port.protocol()
        secured.set_protocol(client)
        client.begin(secured, who, secure=True)
        if self._early:
            client.data_received(bytes(self._early))

    def _subject(self, transport: asyncio.Transport) -> str | None:
        secured = transport.get_extra_info("ssl_object")
        assert isinstance(secured, (ssl.SSLObject, ssl.SSLSocket))
        certificate = secured.getpeercert(binary_form=True) if self._tls.verifies else None
        if certificate is None:
            return None
        return subject(certificate)

    def _refuse(self, transport: asyncio.Transport, name: str, address: str, reason: str) -> None:
        log.info("%s: closed, TLS: %s", name, reason or "the client went away")
        self._port.service.stats.failed_handshakes += 1
        self._port.leave(address)
        transport.abort()
