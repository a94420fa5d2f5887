"""DIGEST-MD5: what Java's client and server said, what pure-sasl says, what proves nothing."""

from __future__ import annotations

from typing import Final

import pytest
from puresasl.client import SASLClient

from zktrace_server.core.sasl import MAX_RESPONSE, SaslError, SaslServer, valid_principal

#: Of pcaps/30_sasl_digest_md5.pcap, between Java's client and server.
NONCE: Final = "mxXCTXEh08BR29VwSy3CX4HYy8+1/i9qLvGf4dKx"
CHALLENGE: Final = f'realm="zk-sasl-md5",nonce="{NONCE}",charset=utf-8,algorithm=md5-sess'.encode()
RESPONSE: Final = (
    'charset=utf-8,username="carol",realm="zk-sasl-md5",nonce="' + NONCE + '",nc=00000001,'
    'cnonce="8T67ziJVoVFw+qPZkcFol++QEMCV4g/nsJl2OBS9",digest-uri="zookeeper/zk-sasl-md5",'
    'maxbuf=65536,response=5a85c43318cb28727fd23eadbf2515c5,qop=auth,authzid="carol"'
).encode()
PROOF: Final = b"rspauth=b2ca97e1412f60e0ff62bb3dec6f1cc3"
USERS: Final = {"carol": "SASLPASS-carol", "super": "one", "josé": "clé€"}


def begun(nonce: str = NONCE, super_password: str | None = None) -> SaslServer:
    server = SaslServer(USERS, nonce, super_password)
    server.evaluate(b"")
    return server


def test_as_java_does() -> None:
    server = SaslServer(USERS, NONCE, None)
    assert server.evaluate(b"") == CHALLENGE
    assert server.authorized is None
    assert server.evaluate(RESPONSE) == PROOF
    assert server.authorized == "carol"


@pytest.mark.parametrize(
    ("name", "password", "given"),
    [("carol", "SASLPASS-carol", None), ("super", "two", "two"), ("super", "one", None)],
)
def test_with_the_client_that_kazoo_takes(name: str, password: str, given: str | None) -> None:
    server = SaslServer(USERS, "a-nonce", given)
    client = SASLClient(
        *("zk-sasl-md5", "zookeeper", "DIGEST-MD5"), username=name, password=password
    )
    response = client.process(server.evaluate(b""))
    client.process(server.evaluate(response))
    assert server.authorized == name
    assert client.complete


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"5a85c433", b"5a85c434", "wrong password"),
        (b'username="carol"', b'username="nobody"', "unknown user"),
        (b"nc=00000001", b"nc=00000002", "nonce count"),
        (NONCE.encode(), b"x", "another nonce"),
        (b'realm="zk-sasl-md5"', b'realm="other"', "another realm"),
        (b"qop=auth,", b"qop=auth-conf,", "quality of protection"),
        (b"zookeeper/", b"ldap/", "another service"),
        (b'cnonce="8T67ziJVoVFw+qPZkcFol++QEMCV4g/nsJl2OBS9",', b"", "no cnonce"),
        (b'authzid="carol"', b'authzid="carol",qop=auth', "twice"),
        (b'authzid="carol"', b'authzid="carol', "no list"),
        (b"maxbuf=65536", b"\xff\xfe", "not UTF-8"),
    ],
)
def test_what_proves_nothing(old: bytes, new: bytes, reason: str) -> None:
    assert old in RESPONSE
    server = begun()
    with pytest.raises(SaslError, match=reason) as caught:
        server.evaluate(RESPONSE.replace(old, new))
    assert server.authorized is None
    assert "carol" not in str(caught.value)


def test_the_order_of_things() -> None:
    with pytest.raises(SaslError, match="initial response"):
        SaslServer(USERS, NONCE, None).evaluate(RESPONSE)
    with pytest.raises(SaslError, match=f"{MAX_RESPONSE + 1} bytes"):
        begun().evaluate(bytes(MAX_RESPONSE + 1))
    server = begun()
    server.evaluate(RESPONSE)
    with pytest.raises(SaslError, match="complete already"):
        server.evaluate(b"")


def test_principals() -> None:
    for name in ("carol", "a/b", "a@B", "a/b@C", ""):
        assert valid_principal(name), name
    for name in ("a@b@c", "a/b/c@D", "@b@"):
        assert not valid_principal(name), name
