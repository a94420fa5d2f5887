"""TLS, certificates and SASL at the port of a server that runs; with kazoo as the client."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import AuthFailedError, NoAuthError
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.security import make_acl

from tests.server.ourzk import NotStarted, OurServer, ours
from tests.server.rawclient import RawClient
from tests.support.certificates import PASSWORD, Certificates
from tests.support.javazk import need_java
from zktrace.cli.main import run
from zktrace.wire.message import decode_reply
from zktrace.wire.records import PathWatchRequest, ReplyHeader, SaslToken
from zktrace_server.net.keystore import Store, TlsError

_AUTH = "org.apache.zookeeper.server.auth."
SASL = {"authProvider.1": _AUTH + "SASLAuthenticationProvider"}
ALICE = "CN=alice,O=Acme"
JAAS = """
// users of the tests
Client { com.sun.security.auth.module.Krb5LoginModule required useKeyTab=true; };
Server {
    org.apache.zookeeper.server.auth.DigestLoginModule required
        user_jaasuser="jaas_\\"password"
        user_admin="admin_password"
        user_super="of the file";
};
"""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    made = Certificates(tmp_path_factory.mktemp("certificates"))
    made.issue("server", "/CN=localhost", rsa=True)
    made.issue("alice", "/O=Acme/CN=alice")
    made.issue("root", "/O=Acme/CN=root")
    return made


def pem(certificates: Certificates, name: str) -> str:
    return str(certificates.authority.with_name(f"{name}.pem"))


def secure(certificates: Certificates, **more: str) -> dict[str, str]:
    """Keys for a server with TLS; `__` stands for a dot."""
    return {
        "secureClientPort": "0",
        "secureClientPortAddress": "127.0.0.1",
        "ssl.keyStore.location": pem(certificates, "server"),
        "ssl.trustStore.location": str(certificates.authority),
        **{key.replace("__", "."): value for key, value in more.items()},
    }


@contextmanager
def client(port: int, certificates: Certificates, name: str | None) -> Iterator[KazooClient]:
    file = None if name is None else pem(certificates, name)
    one = KazooClient(
        f"127.0.0.1:{port}",
        use_ssl=True,
        ca=str(certificates.authority),
        timeout=30,
        certfile=file,
        keyfile=file,
    )
    one.start(30)
    try:
        yield one
    finally:
        one.stop()
        one.close()


def test_certificates_are_who_the_client_is(tmp_path: Path, certificates: Certificates) -> None:
    given = secure(certificates, X509AuthenticationProvider__superUser="CN=root,O=Acme")
    with ours(tmp_path, given) as server:
        with client(server.secure_port, certificates, "alice") as alice:
            alice.create("/hers", b"1", acl=[make_acl("x509", ALICE, all=True)])
            assert alice.get("/hers")[0] == b"1"
            alice.create("/auth", b"1", acl=[make_acl("auth", "", all=True)])
            assert [a.id for a in alice.get_acls("/auth")[0]] == [("x509", ALICE)]
        plain = KazooClient(server.hosts)
        plain.start(30)
        with pytest.raises(NoAuthError):
            plain.get("/hers")
        plain.stop()
        plain.close()
        with client(server.secure_port, certificates, "root") as root:
            assert root.get("/hers")[0] == b"1"


def handshake(port: int, context: ssl.SSLContext) -> bytes:
    """What is answered to a four-letter word behind a handshake."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        secured.sendall(b"ruok")
        return secured.recv(100)


def test_who_has_no_certificate(tmp_path: Path, certificates: Certificates) -> None:
    context = ssl.create_default_context(cafile=str(certificates.authority))
    with ours(tmp_path / "need", secure(certificates)) as server:
        # With TLS 1.3 a client learns of it when it reads.
        try:
            assert handshake(server.secure_port, context) == b""
        except OSError:
            pass
        server.wait_for_log("closed, TLS:")
        # Not TLS at all; and nothing at all: others are served.
        for noise in (b"ruok", b"\x16\x03\x01\xff\xff" + bytes(300), b""):
            with socket.create_connection(("127.0.0.1", server.secure_port), timeout=60) as one:
                one.sendall(noise)
                if noise:
                    assert b"imok" not in one.recv(1000)
        with client(server.secure_port, certificates, "alice") as alice:
            assert alice.exists("/") is not None
    with ours(tmp_path / "want", secure(certificates, ssl__clientAuth="want")) as server:
        assert handshake(server.secure_port, context) == b"imok"
    given = secure(certificates, ssl__clientAuth="none", ssl__enabledProtocols="TLSv1.2")
    del given["ssl.trustStore.location"]
    with ours(tmp_path / "none", given) as server:
        assert handshake(server.secure_port, context) == b"imok"
        newer = ssl.create_default_context(cafile=str(certificates.authority))
        newer.minimum_version = ssl.TLSVersion.TLSv1_3
        with pytest.raises(OSError, match=r"(?i)protocol"):
            handshake(server.secure_port, newer)


def test_a_load_by_tls(certificates: Certificates, tmp_path: Path) -> None:
    with ours(tmp_path, secure(certificates)) as server:
        connect = ["server", "load", "--connect", f"localhost:{server.secure_port}", "--ops", "30"]
        ca = ["--ca", str(certificates.authority)]
        assert run([*connect, *ca, "--cert", pem(certificates, "alice")]) == 0
        assert run([*connect, *ca]) == 2
        assert run([*connect, "--ca", "/nothing"]) == 2


@pytest.mark.parametrize("kind", ["JKS", "PKCS12"])
def test_stores_of_java(tmp_path: Path, certificates: Certificates, kind: str) -> None:
    need_java()
    keys = certificates.java_store(Path(pem(certificates, "server")), kind=kind)
    trust = certificates.java_trust(kind)
    if kind == "PKCS12":
        # As a present keytool writes what it is told to call keystore.jks.
        trust = trust.rename(trust.with_name("newer.jks"))
    given = secure(
        certificates,
        ssl__keyStore__location=str(keys),
        ssl__keyStore__password=PASSWORD,
        ssl__trustStore__location=str(trust),
        ssl__trustStore__password=PASSWORD,
    )
    with (
        ours(tmp_path, given) as server,
        client(server.secure_port, certificates, "alice") as alice,
    ):
        assert alice.exists("/") is not None
    server = OurServer(tmp_path / "other", {**given, "ssl.keyStore.password": "another"})
    with pytest.raises(NotStarted, match="the password is another one, or it is damaged"):
        server.start()


def test_pkcs12_without_openssl(
    tmp_path: Path, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = certificates.java_store(Path(pem(certificates, "server")), kind="PKCS12")
    store = Store("ssl.keyStore.location", keys, "PKCS12", PASSWORD, None)
    assert "PRIVATE KEY" in store.private()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TlsError, match="is read by the command openssl, which is not here"):
        store.private()


def serial_of(port: int) -> str:
    """The number of the certificate that a server shows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port), timeout=60) as raw,
        context.wrap_socket(raw) as secured,
    ):
        shown = secured.getpeercert(binary_form=True)
        assert shown is not None
        return ssl.DER_cert_to_PEM_cert(shown)


@pytest.mark.parametrize("reload", ["true", "false"])
def test_certificates_written_anew(tmp_path: Path, certificates: Certificates, reload: str) -> None:
    """They are shown to who comes next; what is broken is not, and clients that are there stay."""
    store = tmp_path / "server.pem"
    first = Path(pem(certificates, "server")).read_text()
    store.write_text(first)
    given = secure(
        certificates,
        ssl__keyStore__location=str(store),
        ssl__clientAuth="want",
        client__certReload=reload,
    )
    second = certificates.issue("second", "/CN=localhost").read_text()
    with (
        ours(tmp_path / "server", given) as server,
        client(server.secure_port, certificates, "alice") as alice,
    ):
        before = serial_of(server.secure_port)
        assert before in first
        store.write_text("nothing")
        assert serial_of(server.secure_port) == before
        store.write_text(second)
        after = serial_of(server.secure_port)
        assert after == before if reload == "false" else after != before and after in second
        assert alice.exists("/") is not None
        told = server.log.read_text().count("the former certificates stay in use")
        assert told == (1 if reload == "true" else 0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ssl.keyStore.location": "/nothing.pem"}, "cannot read /nothing.pem"),
        ({"ssl.keyStore.location": "x.p12"}, "cannot read x.p12"),
        ({"ssl.keyStore.location": "x.bcfks"}, "BCFKS is not supported, PEM, JKS, PKCS12 are"),
        ({"ssl.keyStore.location": "x.key"}, "the type follows from the ending"),
        ({"ssl.trustStore.location": ""}, "wants a ssl.trustStore.location"),
        ({"ssl.crl": "true"}, "ssl.crl is not supported"),
        ({"ssl.authProvider": "mine"}, "ssl.authProvider=mine is not supported"),
        ({"ssl.clientAuth": "perhaps"}, "none of none, want, need"),
        ({"ssl.enabledProtocols": "SSLv3"}, "only TLSv1.2, TLSv1.3"),
        ({"ssl.ciphersuites": "TLS_MADE_WITH_NOTHING"}, "OpenSSL knows none of them"),
    ],
)
def test_what_cannot_be_had_is_one_line(
    tmp_path: Path, certificates: Certificates, change: Mapping[str, str], reason: str
) -> None:
    server = OurServer(tmp_path, {**secure(certificates), **change})
    with pytest.raises(NotStarted, match=reason) as caught:
        server.start()
    assert "Traceback" not in str(caught.value)


@pytest.fixture(scope="module")
def sasl_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OurServer]:
    directory = tmp_path_factory.mktemp("sasl")
    jaas = directory / "jaas.conf"
    jaas.write_text(JAAS)
    properties = {
        "java.security.auth.login.config": str(jaas),
        "zookeeper.SASLAuthenticationProvider.superPassword": "of the property",
        "zookeeper.superUser.1": "admin",
    }
    with ours(directory / "server", SASL, properties) as server:
        yield server


def sasl_client(server: OurServer, name: str, password: str) -> KazooClient:
    options = {"mechanism": "DIGEST-MD5", "username": name, "password": password}
    return KazooClient(server.hosts, sasl_options=options, timeout=30)


def test_sasl(sasl_server: OurServer) -> None:
    user = sasl_client(sasl_server, "jaasuser", 'jaas_"password')
    user.start(30)
    user.create("/sasl", b"1", acl=[make_acl("sasl", "jaasuser", all=True)])
    user.create("/auth", b"1", acl=[make_acl("auth", "", all=True)])
    assert [a.id for a in user.get_acls("/auth")[0]] == [("sasl", "jaasuser")]
    user.stop()
    user.close()
    nobody = KazooClient(sasl_server.hosts, timeout=30)
    nobody.start(30)
    with pytest.raises(NoAuthError):
        nobody.get("/sasl")
    nobody.stop()
    nobody.close()
    for name, password in (("admin", "admin_password"), ("super", "of the property")):
        one = sasl_client(sasl_server, name, password)
        one.start(30)
        assert one.get("/sasl")[0] == b"1"
        one.stop()
        one.close()


def _connected(client: KazooClient) -> None:
    client.start(30)
    client.exists("/")


def test_a_wrong_password(sasl_server: OurServer) -> None:
    user = sasl_client(sasl_server, "jaasuser", "another")
    # Which of the two depends on how far kazoo's thread is.
    with pytest.raises((AuthFailedError, KazooTimeoutError)):
        _connected(user)
    user.stop()
    user.close()
    sasl_server.wait_for_log("closed, SASL: a wrong password")
    assert "jaasuser" not in sasl_server.log.read_text()


def test_sasl_on_the_wire(sasl_server: OurServer) -> None:
    """An error with a body, and the end; a session of another client lives on."""
    raw = RawClient(sasl_server.address)
    raw.connect()
    raw.request(1, 102, SaslToken(b"not empty"))
    payload = raw.frame()
    assert payload is not None
    header, pos = ReplyHeader.decode_from(payload, 0, len(payload))
    assert (header.xid, header.err) == (1, -115)
    assert payload[pos:] == b"\xff\xff\xff\xff"
    assert raw.frame() is None
    raw.close()


@pytest.mark.parametrize(
    "config",
    [
        {"sessionRequireClientSASLAuth": "true"},
        {"enforce.auth.enabled": "true", "enforce.auth.schemes": "sasl, digest"},
    ],
)
def test_who_must_prove_to_be_somebody(tmp_path: Path, config: Mapping[str, str]) -> None:
    jaas = tmp_path / "jaas.conf"
    jaas.write_text(JAAS)
    properties = {"java.security.auth.login.config": str(jaas)}
    with ours(tmp_path / "server", {**SASL, **config}, properties) as server:
        raw = RawClient(server.address)
        raw.connect()
        raw.request(1, 4, PathWatchRequest("/", False))
        assert decode_reply(4, raw.replies(1)[0])[0].err == -124
        assert raw.frame() is None
        raw.close()
        user = sasl_client(server, "jaasuser", 'jaas_"password')
        user.start(30)
        assert user.exists("/") is not None
        user.stop()
        user.close()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Server { some.Krb5LoginModule required; };", "Krb5LoginModule is not supported"),
        ("Server {", "does not end with"),
        ('Server { x.DigestLoginModule required user_a="b', "a string or comment does not end"),
        ("Server x", "there is no {"),
        (None, "cannot read"),
    ],
)
def test_files_of_logins(tmp_path: Path, text: str | None, reason: str) -> None:
    jaas = tmp_path / "jaas.conf"
    if text is not None:
        jaas.write_text(text)
    properties = {"java.security.auth.login.config": str(jaas)}
    server = OurServer(tmp_path / "server", SASL, properties)
    with pytest.raises(NotStarted, match=reason) as caught:
        server.start()
    assert "Traceback" not in str(caught.value)
