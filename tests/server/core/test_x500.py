"""Names in certificates: as Java shows them, and what is none."""

from __future__ import annotations

import random
import ssl
from pathlib import Path

import pytest

from tests.support.certificates import Certificates
from zktrace_server.core.x500 import BadCertificate, subject, valid_name


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def der(pem: Path) -> bytes:
    text = pem.read_text()
    begin = text.index("-----BEGIN CERTIFICATE-----")
    end = text.index("-----END CERTIFICATE-----", begin) + len("-----END CERTIFICATE-----")
    return ssl.PEM_cert_to_DER_cert(text[begin:end])


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("/C=NL/O=Acme/OU=Ops/CN=alice", "CN=alice,OU=Ops,O=Acme,C=NL"),
        ("/O=A, B+C/CN=a\\+b", "CN=a\\+b,O=A\\, B\\+C"),
        ("/CN=Łódź", "CN=Łódź"),
        ("/CN=a+UID=b", "CN=a+UID=b"),
        ("/CN=x/emailAddress=a@b.c", "1.2.840.113549.1.9.1=#160561406" + "22e63,CN=x"),
        (
            "/DC=org/DC=example/L=Here/ST=There/street=S",
            "STREET=S,ST=There,L=Here,DC=example,DC=org",
        ),
    ],
)
def test_subjects(certificates: Certificates, given: str, shown: str) -> None:
    if "A, B+C" in given:
        given = given.replace("B+C", "B\\+C")
    assert subject(der(certificates.issue("one", given))) == shown
    assert valid_name(shown)


def test_noise_is_told(certificates: Certificates) -> None:
    whole = der(certificates.issue("noise", "/O=Acme/CN=alice"))
    chance = random.Random(1)
    seen = set()
    for _ in range(3000):
        data = bytearray(whole[: chance.randrange(len(whole) + 1)])
        for _ in range(chance.randrange(4)):
            if data:
                data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            subject(bytes(data))
            seen.add("a name")
        except BadCertificate:
            seen.add("none")
    assert seen == {"a name", "none"}


def test_names_for_acls() -> None:
    for text in ("CN=a", "cn=a, o=b", 'CN="a,b"', "CN=a\\,b", "1.2.3=#0401aa", "", "OID.1.2=x"):
        assert valid_name(text), text
    for text in ("alice", "CN", "=a", "CN=a,", "CN=a,,O=b", 'CN="a', "CN=a=b+"):
        assert not valid_name(text), text
