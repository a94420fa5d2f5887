"""TLS between servers (sslQuorum): ours and Java's as fellow members, each leading in turn; who has
no certificate of theirs is not let in.
"""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest

from tests.server.quorum.mixed import PATIENCE_S, led_in_turn, make, mixed
from tests.support.certificates import PASSWORD, Certificates

_HELLO = bytes.fromhex("ffffffffffff0000")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


def _keys(certificates: Certificates) -> dict[str, str]:
    keys = certificates.java_store(certificates.issue("peer", "/CN=peer"))
    return {
        "sslQuorum": "true",
        "ssl.quorum.keyStore.location": str(keys),
        "ssl.quorum.keyStore.password": PASSWORD,
        "ssl.quorum.trustStore.location": str(certificates.java_trust()),
        "ssl.quorum.trustStore.password": PASSWORD,
    }


def _refused(port: int, context: ssl.SSLContext) -> bool:
    """Whether nothing can be said there."""
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
        ):
            secure.sendall(_HELLO)
            return secure.recv(1) == b""
    except (ssl.SSLError, ConnectionResetError):
        return True


def test_each_leads(tmp_path: Path, certificates: Certificates) -> None:
    kinds = "ojo"
    with mixed(tmp_path, kinds, **_keys(certificates)) as servers:
        led_in_turn(servers, 2)
        # The ports of ours speak TLS, with those who show a certificate that they trust.
        ours = next(s for s, kind in zip(servers, kinds, strict=True) if kind == "o")
        ports = [int(p) for p in ours.given[f"server.{ours.sid}"].split(":")[1:3]]
        context = ssl.create_default_context(cafile=str(certificates.authority))
        assert all(_refused(port, context) for port in ports)


def test_a_certificate_of_somebody_else(tmp_path: Path, certificates: Certificates) -> None:
    """A server whose certificate others do not trust, or which is for another host, stays alone."""
    good = _keys(certificates)
    other = Certificates(tmp_path / "other")
    bad = other.java_store(other.issue("peer", "/CN=peer"))
    named = certificates.java_store(certificates.issue("named", "/CN=x", names="DNS:elsewhere"))
    servers = make(tmp_path, "ooo", good)
    try:
        for server, keys in zip(servers[:2], (bad, named), strict=True):
            config = server.data.parent / "zoo.cfg"
            said = config.read_text().replace(good["ssl.quorum.keyStore.location"], str(keys))
            config.write_text(said)
        for server in servers:
            server.start()
        log = servers[2].log
        servers.until(lambda: "certificate is not taken: self-signed" in log.read_text())
        servers.until(lambda: "certificate is not taken: IP address mismatch" in log.read_text())
        assert all(server.mode() is None for server in servers)
    finally:
        servers.stop()
