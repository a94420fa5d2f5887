"""TLS on either side of the proxy, in both planes: who is let in, what is seen of the traffic, and
what whoever has wrong files is told.
"""

from __future__ import annotations

import random
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import ConnectionClosedError, ConnectionLoss, NoNodeError

import zktrace
from tests.conftest import needs_native
from tests.proxy.conftest import Proxy
from tests.proxy.traffic import taken, tapped
from tests.server.ourzk import ours
from tests.support.certificates import Certificates
from tests.support.javazk import free_ports, need_java, standalone
from zktrace.engine.base import ENGINE_VARIABLE
from zktrace_proxy.attend import Attendant
from zktrace_proxy.plane import Config, Listener, Plane, PlaneError, Upstream, create
from zktrace_proxy.testing import between
from zktrace_proxy.tls import Identity, Tls, ToClients, ToServers

WAIT_S: Final = 60.0
Make = Callable[..., Proxy]
#: Of a server with TLS.
SECURE: Final = {"secureClientPort": "0", "secureClientPortAddress": "127.0.0.1"}


class Files:
    """What the tests speak TLS with."""

    def __init__(self, directory: Path) -> None:
        made = Certificates(directory / "ours")
        self.ca = str(made.authority)
        self.server = str(made.issue("server", "/CN=localhost", rsa=True))
        self.alice = str(made.issue("alice", "/O=Acme/CN=alice"))
        self.expired = str(made.issue("expired", "/CN=expired", days=-1))
        self.elsewhere = str(made.issue("elsewhere", "/CN=zk", names="DNS:zk.example.org"))
        others = Certificates(directory / "others")
        self.other_ca = str(others.authority)
        self.stranger = str(others.issue("stranger", "/O=Acme/CN=alice"))

    def client(self, shown: str | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ca)
        if shown is not None:
            context.load_cert_chain(shown)
        return context

    def serving(self, shown: str, *, asks: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(shown)
        if asks:
            context.load_verify_locations(self.ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("tls"))


@pytest.fixture(params=["python", pytest.param("native", marks=needs_native)])
def plane_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = request.param
    monkeypatch.setenv(ENGINE_VARIABLE, name)
    return name


class Side:
    """TLS over a socket, where no more can be sent and still be read."""

    def __init__(
        self, one: socket.socket, context: ssl.SSLContext, name: str | None = "localhost"
    ) -> None:
        one.settimeout(WAIT_S)
        self._socket = one
        self._coming, self._going = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self._coming, self._going, server_side=name is None, server_hostname=name
        )
        self._do(self.tls.do_handshake)

    def _do(self, what: Callable[..., Any], *arguments: Any) -> Any:
        while True:
            try:
                done = what(*arguments)
            except ssl.SSLWantReadError:
                self._flush()
                data = self._socket.recv(1 << 16)
                if data:
                    self._coming.write(data)
                else:
                    self._coming.write_eof()
            except ssl.SSLError:
                self._flush()
                raise
            else:
                self._flush()
                return done

    def _flush(self) -> None:
        self._socket.sendall(self._going.read())

    def send(self, data: bytes) -> None:
        self._do(self.tls.write, data)

    def end(self) -> None:
        try:
            self.tls.unwrap()
        except ssl.SSLWantReadError:
            pass
        self._flush()

    def read(self, count: int) -> bytes:
        """So many bytes, or all that come."""
        got = b""
        while len(got) < count:
            try:
                some = self._do(self.tls.read, 1 << 16)
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                break
            if not some:
                break
            got += some
        return got


@contextmanager
def relaying(to: Upstream, tls: Tls, **config: Any) -> Iterator[Plane]:
    plane = create(Config((Listener("127.0.0.1:0", (to,)),), **{"taps": 0, "tls": tls, **config}))
    try:
        yield plane
    finally:
        plane.stop()


@contextmanager
def answering(
    context: ssl.SSLContext | None, answer: Callable[[bytes], bytes]
) -> Iterator[Upstream]:
    """A server that reads to the end, then answers; its certificate is for ``localhost``."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    one, _ = listening.accept()
                except OSError:
                    return
                with one:
                    one.settimeout(WAIT_S)
                    try:
                        if context is None:
                            plain(one)
                        else:
                            secured(one, context)
                    except OSError:
                        pass  # a proxy that did not like the certificate, or a client that left

        def plain(one: socket.socket) -> None:
            got = b""
            while some := one.recv(1 << 16):
                got += some
            one.sendall(answer(got))

        def secured(one: socket.socket, context: ssl.SSLContext) -> None:
            side = Side(one, context, None)
            side.send(answer(side.read(1 << 40)))
            side.end()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield Upstream(f"127.0.0.1:{listening.getsockname()[1]}", "localhost")
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(WAIT_S)


def connect(plane: Plane) -> socket.socket:
    host, port = plane.addresses()[0].split(":")
    return socket.create_connection((host, int(port)), WAIT_S)


def asked(plane: Plane, context: ssl.SSLContext, what: bytes = b"hello") -> bytes:
    """What a client gets for it."""
    with connect(plane) as one:
        side = Side(one, context)
        side.send(what)
        side.end()
        return side.read(1 << 40)


def refused(plane: Plane, context: ssl.SSLContext) -> bool:
    """Whether a client gets nothing: with TLS 1.3 it learns of it when it reads."""
    try:
        return asked(plane, context) == b""
    except OSError:
        return True


def told(plane: Plane) -> str:
    """The next line about TLS that failed."""
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        lines, _ = plane.notices()
        if lines:
            return lines[0]
        time.sleep(0.01)
    raise AssertionError("nothing was told")


def serial(plane: Plane, files: Files) -> str:
    """Of the certificate that clients are shown."""
    with connect(plane) as one:
        certificate: Any = Side(one, files.client()).tls.getpeercert()
        return str(certificate["serialNumber"])


def to_clients(*shown: str, **more: Any) -> ToClients:
    return ToClients(tuple(map(Identity.of, shown)), **more)


@pytest.mark.parametrize("mode", ["terminate", "originate", "both"])
def test_bytes_out_are_bytes_in_and_the_tap_has_them_decrypted(
    plane_kind: str, files: Files, mode: str
) -> None:
    """One direction after the other: a half close goes through TLS, too."""
    there = random.Random(1).randbytes(3_000_000)
    behind = None if mode == "terminate" else files.serving(files.server)
    tls = Tls(
        None if mode == "originate" else to_clients(files.server),
        None if mode == "terminate" else ToServers(ca=files.ca),
    )
    with (
        answering(behind, lambda got: got[::-1]) as server,
        relaying(server, tls, taps=1) as plane,
    ):
        kept: list[bytes] = []

        reading = threading.Thread(target=lambda: kept.extend(taken(plane)))
        reading.start()
        if mode == "originate":
            with connect(plane) as one:
                one.sendall(there)
                one.shutdown(socket.SHUT_WR)
                back = b""
                while some := one.recv(1 << 16):
                    back += some
        else:
            back = asked(plane, files.client(), there)
        assert back == there[::-1]
        plane.stop()
        reading.join(WAIT_S)
        counted = plane.counters()
    port = int(server.address.rpartition(":")[2])
    assert tapped(b"".join(kept), port) == [there, there[::-1]]
    assert counted["bytes_to_server"] == counted["bytes_to_client"] == len(there)
    assert counted["resets"] == counted["tls_failures"] == 0


def test_a_slow_reader_stops_the_other_side(plane_kind: str, files: Files) -> None:
    """What waits is bounded, encrypted or not."""
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = Upstream(f"127.0.0.1:{listening.getsockname()[1]}", "localhost")
        with relaying(server, Tls(to_clients(files.server))) as plane, connect(plane) as one:
            side = Side(one, files.client())
            behind, _ = listening.accept()
            sent = 0
            with behind:
                behind.settimeout(0.5)
                try:
                    while True:
                        sent += behind.send(bytes(1 << 16))
                except TimeoutError:
                    done.set()
                assert done.is_set()
                relayed = plane.counters()["bytes_to_client"]
                behind.shutdown(socket.SHUT_WR)
                assert len(side.read(1 << 40)) == sent
            # The kernel's buffers, on both sides of the proxy, hold the most of it.
            assert relayed <= sent
            assert plane.counters()["resets"] == 0


@pytest.mark.parametrize("required", [True, False])
def test_certificates_of_clients(plane_kind: str, files: Files, required: bool) -> None:
    tls = Tls(to_clients(files.server, ca=files.ca, required=required))
    with answering(None, bytes.upper) as server, relaying(server, tls) as plane:
        assert asked(plane, files.client(files.alice)) == b"HELLO"
        assert refused(plane, files.client()) is required
        if required:
            assert "TLS with client 127.0.0.1:" in told(plane)
        assert refused(plane, files.client(files.stranger))
        assert "TLS with client 127.0.0.1:" in told(plane)
        assert refused(plane, files.client(files.expired))
        assert "expired" in told(plane).lower()
        assert plane.counters()["tls_failures"] == 2 + required
        # Nobody was kept from others.
        assert asked(plane, files.client(files.alice)) == b"HELLO"


def test_what_is_no_tls_is_told_and_harms_nobody(plane_kind: str, files: Files) -> None:
    tls = Tls(to_clients(files.server))
    with answering(None, bytes.upper) as server, relaying(server, tls) as plane:
        for garbage in (b"\0\0\0\x2d" + bytes(45), b"ruok", b"GET / HTTP/1.0\r\n\r\n"):
            with connect(plane) as one:
                one.settimeout(WAIT_S)
                one.sendall(garbage)
                one.shutdown(socket.SHUT_WR)
                try:
                    while one.recv(1 << 16):
                        pass
                except ConnectionResetError:
                    pass
            assert "TLS with client 127.0.0.1:" in told(plane)
        assert asked(plane, files.client()) == b"HELLO"
        assert plane.counters()["tls_failures"] == 3


def test_certificates_of_servers(plane_kind: str, files: Files) -> None:
    def answers(server: Upstream, given: ToServers) -> bool:
        with relaying(server, Tls(to_clients(files.server), given)) as plane:
            got = not refused(plane, files.client())
            if not got:
                assert f"TLS with server {server.address}" in told(plane)
                assert plane.counters()["unreachable"] == 1
            return got

    with answering(files.serving(files.server), bytes.upper) as server:
        assert answers(server, ToServers(ca=files.ca))
        assert not answers(server, ToServers(ca=files.other_ca))
        assert answers(server, ToServers("none"))
        assert answers(server._replace(name="127.0.0.1"), ToServers(ca=files.ca))
        assert not answers(server._replace(name="zk.example.org"), ToServers(ca=files.ca))
        assert answers(server._replace(name="zk.example.org"), ToServers("ca", files.ca))
        assert not answers(server, ToServers("ca", files.other_ca))
    with answering(files.serving(files.expired), bytes.upper) as server:
        assert not answers(server, ToServers("ca", files.ca))
    with answering(files.serving(files.server, asks=True), bytes.upper) as server:
        mine = Identity.of(files.alice)
        assert answers(server, ToServers(ca=files.ca, identity=mine))
        with relaying(server, Tls(to_clients(files.server), ToServers(ca=files.ca))) as plane:
            assert refused(plane, files.client())
    # A plain port: what it answers is no TLS.
    tls = Tls(None, ToServers(ca=files.ca))
    with (
        answering(None, bytes.upper) as server,
        relaying(server, tls, connect_timeout_s=1) as plane,
        connect(plane) as one,
    ):
        one.settimeout(WAIT_S)
        with pytest.raises(ConnectionResetError):
            one.recv(1)


@needs_native
def test_a_client_gets_the_certificate_for_the_name_it_asks_for(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = Tls(to_clients(files.server, files.elsewhere))
    with answering(None, bytes.upper) as server:
        with relaying(server, tls) as plane:
            for name, subject in (("zk.example.org", "zk"), ("localhost", "localhost")):
                with connect(plane) as one:
                    shown: Any = Side(one, files.client(), name).tls.getpeercert()
                    assert shown["subject"] == ((("commonName", subject),),)
        monkeypatch.setenv(ENGINE_VARIABLE, "python")
        with pytest.raises(PlaneError, match="more than one certificate needs"):
            create(Config((Listener("127.0.0.1:0", (server,)),), tls=tls))


def test_certificates_are_read_again(plane_kind: str, files: Files, tmp_path: Path) -> None:
    certificate, key = tmp_path / "own.pem", tmp_path / "own.key"
    shutil.copy(files.server, certificate)
    shutil.copy(files.server, key)
    tls = Tls(to_clients(f"{certificate},{key}"))
    said: list[str] = []
    with answering(None, bytes.upper) as server, relaying(server, tls) as plane:
        attendant = Attendant(plane, tls, said.append)
        first = serial(plane, files)
        attendant.look()
        assert said == []
        # Half of it: what is there goes on.
        shutil.copy(files.elsewhere, certificate)
        attendant.look()
        attendant.look()
        assert len(said) == 1
        assert "CERTIFICATES NOT READ AGAIN" in said[0]
        assert "own.pem: the key is not that of the first certificate" in said[0]
        assert serial(plane, files) == first
        open_before = connect(plane)
        side = Side(open_before, files.client())
        shutil.copy(files.alice, certificate)
        shutil.copy(files.alice, key)
        attendant.look()
        assert said[1:] == ["certificates were read again, for new connections"]
        assert serial(plane, files) != first
        side.send(b"still there")
        side.end()
        assert side.read(100) == b"STILL THERE"
        open_before.close()
        # Asked for, as by SIGHUP, without a change; and files that are gone.
        attendant.reload()
        attendant.look()
        assert len(said) == 3
        certificate.unlink()
        attendant.look()
        assert said[3].endswith("own.pem: No such file or directory")


def test_session_keys_are_written_for_wireshark(
    plane_kind: str, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both sides of a connection have the same, and the file is its owner's."""
    log, mine = tmp_path / "proxy.keys", tmp_path / "client.keys"
    context = files.client()
    context.keylog_filename = str(mine)
    monkeypatch.setenv("SSLKEYLOGFILE", str(log))
    tls = Tls(to_clients(files.server), ToServers(ca=files.ca))
    behind = answering(files.serving(files.server), bytes.upper)
    with behind as server, relaying(server, tls) as plane:
        assert asked(plane, context) == b"HELLO"
    known = set(log.read_text().splitlines())
    wanted = {line for line in mine.read_text().splitlines() if "_TRAFFIC_SECRET_0" in line}
    assert len(wanted) == 2
    assert wanted <= known
    # And those of the connection to the server.
    assert len({line.split()[1] for line in known if "_TRAFFIC_SECRET_0" in line}) == 2
    assert log.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("which", "words"),
    [
        ("missing.pem", "missing.pem: No such file or directory"),
        ("empty.pem", "empty.pem: "),
        ("ca.pem,other.key", "the key is not that of the first certificate"),
        ("ca.pem,locked.key", "has a password"),
    ],
)
def test_files_that_cannot_be_used(
    plane_kind: str, files: Files, tmp_path: Path, which: str, words: str
) -> None:
    (tmp_path / "empty.pem").write_text("nothing\n")
    shutil.copy(files.ca, tmp_path / "ca.pem")
    shutil.copy(Path(files.alice).with_suffix(".key"), tmp_path / "other.key")
    locked = ("-in", files.server, "-out", tmp_path / "locked.key", "-passout", "pass:secret")
    subprocess.run(["openssl", "pkcs8", "-topk8", *map(str, locked)], check=True)
    shown = ",".join(str(tmp_path / one) for one in which.split(","))
    for tls in (
        Tls(to_clients(shown)),
        Tls(None, ToServers(ca=files.ca, identity=Identity.of(shown))),
    ):
        config = Config((Listener.to("127.0.0.1:0", "127.0.0.1:1"),), tls=tls)
        with pytest.raises(PlaneError, match=words) as caught:
            create(config)
        assert "\n" not in str(caught.value)
    config = replace(config, tls=Tls(None, ToServers(ca=str(tmp_path / "empty.pem"))))
    with pytest.raises(PlaneError, match=r"empty\.pem"):
        create(config)


# -- with clients and servers that are real


@contextmanager
def kazoo(hosts: str, files: Files, shown: str | None = None) -> Iterator[KazooClient]:
    one = KazooClient(hosts, use_ssl=True, ca=files.ca, certfile=shown, keyfile=shown, timeout=30)
    one.start(30)
    try:
        yield one
    finally:
        one.stop()
        one.close()


@needs_native
def test_kazoo_through_it_to_a_server_that_wants_certificates(
    proxy: Make, files: Files, tmp_path: Path
) -> None:
    """Both sides with certificates; what goes through is recorded as it is."""
    given = {
        **SECURE,
        "ssl.keyStore.location": files.server,
        "ssl.trustStore.location": files.ca,
    }
    record = tmp_path / "all.pcapng"
    with ours(tmp_path / "server", given) as server:
        running = proxy(
            *("--listen", "127.0.0.1:0", "--upstream", f"localhost:{server.secure_port}"),
            *("--tls-cert", files.server, "--tls-client-ca", files.ca),
            *("--upstream-tls", "--upstream-ca", files.ca, "--upstream-cert", files.alice),
            *("--record", str(record), "--health-check", "60"),
        )
        address = running.address()
        with kazoo(address, files, files.alice) as client:
            client.create("/seen", b"decrypted")
            assert client.get("/seen")[0] == b"decrypted"
            # The server sees the proxy's certificate, not the client's.
            assert ("x509", "CN=alice,O=Acme") in [
                (one.id.scheme, one.id.id) for one in _whoami(client)
            ]
        assert running.end() == 0
    trace = zktrace.read(record)
    rows = trace.exchanges.select(["op", "path"]).to_pylist()
    assert {"op": "getData", "path": "/seen"} in rows
    assert trace.coverage["flows"]["tls"] == 0


def _whoami(client: KazooClient) -> Any:
    from kazoo.security import make_acl

    client.create("/mine", b"", acl=[make_acl("auth", "", all=True)])
    return client.get_acls("/mine")[0]


@needs_native
def test_faults_work_with_tls_on_both_sides(files: Files, tmp_path: Path) -> None:
    given = {**SECURE, "ssl.keyStore.location": files.server, "ssl.clientAuth": "none"}
    tls = Tls(to_clients(files.server), ToServers(ca=files.ca))
    with (
        ours(tmp_path, given) as server,
        between(f"localhost:{server.secure_port}", tls=tls) as here,
        kazoo(here.hosts, files) as client,
    ):
        client.create("/a", b"1")
        here.faults.add('error NoNode times=1 when op == "getData"')
        with pytest.raises(NoNodeError):
            client.get("/a")
        assert client.get("/a")[0] == b"1"
        # A frame that goes on in pieces, through a gate, larger than what TLS takes at once.
        here.faults.add("bandwidth 8M direction=both")
        client.set("/a", bytes(900_000))
        assert len(client.get("/a")[0]) == 900_000
        here.faults.add('drop-reply times=1 when op == "delete"')
        with pytest.raises((ConnectionLoss, ConnectionClosedError)):
            client.delete("/a")
        assert here.wait_for("drop-reply").action == "drop-reply"


def test_tls_passes_through_and_is_told_to_be_encrypted(
    proxy: Make, files: Files, tmp_path: Path
) -> None:
    given = {**SECURE, "ssl.keyStore.location": files.server, "ssl.clientAuth": "none"}
    record = tmp_path / "all.pcapng"
    with ours(tmp_path / "server", given) as server:
        running = proxy(
            *("--listen", "127.0.0.1:0", "--upstream", f"127.0.0.1:{server.secure_port}"),
            *("--record", str(record)),
        )
        with kazoo(running.address(), files) as client:
            assert client.exists("/") is not None
        assert running.end() == 0
    trace = zktrace.read(record)
    assert trace.coverage["flows"]["tls"] == 1
    assert trace.exchanges.num_rows == 0


@needs_native
def test_plain_clients_of_a_java_server_that_speaks_tls(
    proxy: Make, files: Files, tmp_path: Path
) -> None:
    need_java()
    (port,) = free_ports(1)
    given: dict[str, Any] = {
        "secureClientPort": str(port),
        "secureClientPortAddress": "127.0.0.1",
        "ssl.keyStore.location": files.server,
        "ssl.trustStore.location": files.ca,
    }
    netty = {"zookeeper.serverCnxnFactory": "org.apache.zookeeper.server.NettyServerCnxnFactory"}
    with standalone(tmp_path, properties=netty, **given):
        running = proxy(
            *("--listen", "127.0.0.1:0", "--upstream", f"localhost:{port}", "--upstream-tls"),
            *("--upstream-ca", files.ca, "--upstream-cert", files.alice),
            *("--record", str(tmp_path / "all.pcapng")),
        )
        client = KazooClient(running.address(), timeout=30)
        client.start(60)
        client.create("/through", b"1")
        assert client.get("/through")[0] == b"1"
        client.stop()
        client.close()
        assert running.end() == 0
    trace = zktrace.read(tmp_path / "all.pcapng")
    assert "create" in trace.exchanges.column("op").to_pylist()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tls-client-ca", "x"], "give --tls-cert"),
        (["--tls-cert", "x", "--tls-client-cert", "optional"], "is about --tls-client-ca"),
        (["--tls-cert", "/none.pem"], "/none.pem: No such file or directory"),
        (["--upstream-tls"], "Give --upstream-ca FILE"),
        (["--upstream-ca", "x"], "are about --upstream-tls"),
        (["--upstream-tls", "--upstream-ca", "/none.pem"], "/none.pem: No such file"),
        (
            ["--upstream-tls", "--upstream-ca", "x", "--upstream-verify", "none"],
            "does not go with a CA",
        ),
    ],
)
def test_options_that_are_wrong(
    capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    from zktrace_proxy.cli import main

    assert main(["run", "--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:1", *options]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
