"""Servers that prove to each other who they are (quorum.auth.*): the exchange in memory, and ours
with Java's as fellow members.
"""

from __future__ import annotations

import random
import socket
from pathlib import Path

import pytest

from tests.server.quorum.mixed import PATIENCE_S, led_in_turn, make, mixed
from zktrace.wire.quorum import AUTH_MAGIC, QuorumAuthPacket
from zktrace_server.core.quorum.auth import Accepting, AuthError, Dialling, Exchange
from zktrace_server.core.sasl import CLIENTS, SERVERS, SaslClient, SaslServer, Service

USERS = {"zk": 'a "good" \\ secret', "ü": "pä€ss"}
#: An initial message, of before there were addresses.
_HELLO = bytes.fromhex("0000000000000009")


def _accepting(*, required: bool = True) -> Accepting:
    return Accepting(SaslServer(USERS, "a-nonce", None, SERVERS), required=required)


def _dialling(
    name: str = "zk", password: str = USERS["zk"], service: Service = SERVERS
) -> Dialling:
    return Dialling(SaslClient(service, name, password, "a-cnonce"))


def _join(one: Exchange, other: Exchange, size: int) -> tuple[bytes, bytes]:
    """Both ends, bytes in pieces; what is behind the exchange of each."""
    behind = {one: b"", other: b""}
    for _ in range(10):
        for end, far in ((one, other), (other, one)):
            said = end.take()
            for at in range(0, len(said), size):
                behind[far] += far.receive(said[at : at + size])
    return behind[one], behind[other]


@pytest.mark.parametrize("size", [1, 7, 4096])
@pytest.mark.parametrize("name", list(USERS))
def test_both_ends_know_the_password(name: str, size: int) -> None:
    one, other = _dialling(name, USERS[name]), _accepting()
    assert _join(one, other, size) == (b"", b"")
    assert one.done
    assert other.done
    assert other.receive(b"behind") == b"behind"


@pytest.mark.parametrize(
    "dialling",
    [_dialling(password="wrong"), _dialling("nobody"), _dialling(service=CLIENTS)],
    ids=["password", "name", "service"],
)
def test_who_does_not_is_refused(dialling: Dialling) -> None:
    accepting = _accepting()
    accepting.receive(dialling.take())
    dialling.receive(accepting.take())
    with pytest.raises(AuthError, match="SASL: ") as failed:
        accepting.receive(dialling.take())
    assert not any(secret in str(failed.value) for secret in USERS.values())
    with pytest.raises(AuthError, match="refuses this server"):
        dialling.receive(accepting.take())
    assert not dialling.done


def test_a_server_that_knows_no_password_is_found_out() -> None:
    """It takes any response for good."""
    dialling = _dialling()
    dialling.take()
    challenge = SaslServer(USERS, "n", None, SERVERS).evaluate(b"")
    dialling.receive(QuorumAuthPacket(AUTH_MAGIC, 0, challenge).encode())
    dialling.take()
    with pytest.raises(AuthError, match="the server does not know the password"):
        dialling.receive(QuorumAuthPacket(AUTH_MAGIC, 1, b"rspauth=" + b"0" * 32).encode())
    early = _dialling()
    with pytest.raises(AuthError, match="satisfied before it has proved anything"):
        early.receive(QuorumAuthPacket(AUTH_MAGIC, 1, challenge).encode())


def test_who_says_something_else() -> None:
    with pytest.raises(AuthError, match="does not authenticate itself, and has to"):
        _accepting().receive(bytes(20))
    easy = _accepting(required=False)
    assert easy.receive(b"\0" * 5) == b""
    assert easy.receive(b"\1" * 5) == b"\0" * 5 + b"\1" * 5
    # One that fails is let through, as in Java, when it has been told.
    easy = _accepting(required=False)
    wrong = _dialling(password="wrong")
    easy.receive(wrong.take())
    wrong.receive(easy.take())
    assert easy.receive(wrong.take() + b"more") == b"more"
    assert easy.take() == QuorumAuthPacket(AUTH_MAGIC, -1, b"").encode()


@pytest.mark.parametrize("seed", range(5))
def test_noise(seed: int) -> None:
    """Nothing but AuthError, and nothing is held without a limit."""
    chance = random.Random(seed)
    good = bytes(_dialling().take())
    for _ in range(400):
        end: Exchange = chance.choice((_accepting, _dialling))()
        data = bytearray(good + chance.randbytes(chance.randrange(60)))
        for _ in range(chance.randrange(4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            end.receive(bytes(data))
        except AuthError:
            continue
    with pytest.raises(AuthError, match="a token of 2147483647 bytes"):
        _accepting().receive(good[:12] + b"\x7f\xff\xff\xff")


# --- processes --------------------------------------------------------------------------------


def _jaas(path: Path, name: str, password: str) -> dict[str, str]:
    module = "org.apache.zookeeper.server.auth.DigestLoginModule required"
    path.write_text(
        f'QuorumServer {{ {module} user_test="a password"; }};\n'
        f'QuorumLearner {{ {module} username="{name}" password="{password}"; }};\n'
    )
    # 3.9 has no DIGEST-MD5 otherwise.
    return {"java.security.auth.login.config": str(path), "zookeeper.fips-mode": "false"}


_KEYS = {
    "quorum.auth.enableSasl": "true",
    "quorum.auth.learnerRequireSasl": "true",
    "quorum.auth.serverRequireSasl": "true",
}


def test_each_leads(tmp_path: Path) -> None:
    properties = _jaas(tmp_path / "jaas.conf", "test", "a password")
    kinds = "ojo"
    with mixed(tmp_path, kinds, properties, **_KEYS) as servers:
        led_in_turn(servers, 3)
        # Nobody else is let in.
        ours = next(s for s, kind in zip(servers, kinds, strict=True) if kind == "o")
        quorum, election = (int(p) for p in ours.given[f"server.{ours.sid}"].split(":")[1:3])
        for port, said in ((quorum, bytes(20)), (election, _HELLO + bytes(20))):
            with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as plain:
                plain.sendall(said)
                assert plain.recv(1) == b""
        ours.stop()
        log = ours.log.read_text()
        assert "does not authenticate itself, and has to" in log
        assert "a password" not in log


def test_a_wrong_password(tmp_path: Path) -> None:
    """Who has another password stays alone; the others do without it."""
    good = _jaas(tmp_path / "jaas.conf", "test", "a password")
    bad = _jaas(tmp_path / "bad.conf", "test", "another")
    servers = make(tmp_path, "ooo", _KEYS, properties=good)
    servers[2] = type(servers[2])(
        servers[2].data.parent,
        servers[2].address[1],
        servers[2].given,
        sid=3,
        properties=bad,
    )
    try:
        for server in servers:
            server.start()
        servers.until(lambda: "leader" in [s.mode() for s in servers[:2]])
        servers.until(lambda: "refuses this server" in servers[2].log.read_text())
        servers.until(lambda: "SASL: a wrong password" in servers[0].log.read_text())
        assert servers[2].mode() is None
    finally:
        servers.stop()
