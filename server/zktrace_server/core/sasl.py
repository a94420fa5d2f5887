"""DIGEST-MD5, both sides (RFC 2831, as the JDK's DigestMD5Server, DigestMD5Client and ZooKeeper's
SaslServerCallbackHandler do it): challenge, response, the server's own proof.

Without a security layer (qop auth), one realm. Nonces come from outside. What the other end sends
is bounded as in the JDK. MD5 is what the mechanism is; it is not for secrets that matter elsewhere.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from hashlib import md5
from typing import Final, NamedTuple


class Service(NamedTuple):
    """What a digest-uri names, fixed between both ends."""

    protocol: str
    realm: str


#: A client at a server (ZooKeeperSaslServer).
CLIENTS: Final = Service("zookeeper", "zk-sasl-md5")
#: A server at another (QuorumAuth).
SERVERS: Final = Service("zookeeper-quorum", "zk-quorum-sasl-md5")
#: DigestMD5Base.MAX_RESPONSE_LENGTH of the JDK.
MAX_RESPONSE: Final = 4096
_SUPER: Final = "super"
_NC: Final = "00000001"
#: `key=value` or `key="value"`, with a backslash before any character of the latter.
_DIRECTIVE: Final = re.compile(
    r'[\s,]*([!#-\'*+.0-9A-Z^-z|~-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))\s*(?=,|\Z)',
    re.DOTALL,
)
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)
_PRINCIPAL: Final = re.compile(r"([^/@]*)(/([^/@]*))?@([^/@]*)\Z")


class SaslError(Exception):
    """The other end did not prove who it is; the text is for the log, and has no secret."""


def valid_principal(name: str) -> bool:
    """Whether an ACL of scheme sasl may name it (KerberosName)."""
    return "@" not in name or _PRINCIPAL.match(name) is not None


class SaslServer:
    """One authentication. `users`: passwords by name."""

    def __init__(
        self,
        users: Mapping[str, str],
        nonce: str,
        super_password: str | None,
        service: Service = CLIENTS,
    ) -> None:
        self._service = service
        self._users = users
        self._super_password = super_password
        self._nonce = nonce
        self._challenged = False
        #: Whoever the client is, when it has proved it.
        self.authorized: str | None = None

    def evaluate(self, response: bytes) -> bytes:
        """The answer to what a client sent. SaslError where it fails."""
        if self.authorized is not None:
            raise SaslError("the authentication is complete already")
        if len(response) > MAX_RESPONSE:
            raise SaslError(f"a response of {len(response)} bytes")
        if not self._challenged:
            if response:
                raise SaslError("an initial response, which the mechanism does not have")
            self._challenged = True
            realm = self._service.realm
            challenge = f'realm="{realm}",nonce="{self._nonce}",charset=utf-8,algorithm=md5-sess'
            return challenge.encode()
        return self._proved(_directives(response))

    def _proved(self, said: Mapping[str, str]) -> bytes:
        name, nonce = said.get("username", ""), said.get("nonce")
        if nonce != self._nonce:
            raise SaslError("another nonce than that of the challenge")
        if said.get("nc") != _NC:
            raise SaslError("another nonce count than 1")
        if said.get("qop", "auth") != "auth":
            raise SaslError("a quality of protection that was not offered")
        realm = said.get("realm", "")
        if realm not in ("", self._service.realm):
            raise SaslError("another realm than that of the challenge")
        cnonce, uri = said.get("cnonce"), said.get("digest-uri")
        if not cnonce or not uri:
            raise SaslError("no cnonce or no digest-uri")
        # One of the services that the server is known as.
        if uri.lower().split("/")[:2] != list(self._service):
            raise SaslError("a digest-uri of another service")
        password = self._users.get(name)
        if name == _SUPER and password is not None and self._super_password is not None:
            password = self._super_password
        if password is None:
            raise SaslError("an unknown user")
        a1 = _a1(name, realm, password, nonce, cnonce)
        authzid = said.get("authzid")
        if authzid:
            a1 += f":{authzid}".encode()
        expected = _response(a1, nonce, cnonce, f"AUTHENTICATE:{uri}")
        if not hmac.compare_digest(expected, said.get("response", "").encode()):
            raise SaslError("a wrong password")
        if not valid_principal(name):
            raise SaslError("a name that is no principal")
        self.authorized = name
        return b"rspauth=" + _response(a1, nonce, cnonce, f":{uri}")


class SaslClient:
    """The other side of it: `evaluate` a challenge, then the server's proof."""

    def __init__(self, service: Service, name: str, password: str, cnonce: str) -> None:
        self._service = service
        self._name = name
        self._password = password
        self._cnonce = cnonce
        self._proof: bytes | None = None
        #: Whether the server has proved that it knows the password, too.
        self.complete = False

    def evaluate(self, challenge: bytes) -> bytes | None:
        """The answer; None where there is nothing more to say. SaslError where it fails."""
        if self.complete:
            raise SaslError("the authentication is complete already")
        if len(challenge) > MAX_RESPONSE:
            raise SaslError(f"a challenge of {len(challenge)} bytes")
        said = _directives(challenge)
        if self._proof is not None:
            if not hmac.compare_digest(self._proof, said.get("rspauth", "").encode()):
                raise SaslError("the server does not know the password")
            self.complete = True
            return None
        nonce, realm = said.get("nonce"), said.get("realm", "")
        if not nonce or said.get("algorithm") != "md5-sess":
            raise SaslError("a challenge that is none of DIGEST-MD5")
        if "auth" not in re.split(r"[\s,]+", said.get("qop", "auth")):
            raise SaslError("a quality of protection that is more than authentication")
        uri = "/".join(self._service)
        a1 = _a1(self._name, realm, self._password, nonce, self._cnonce)
        response = _response(a1, nonce, self._cnonce, f"AUTHENTICATE:{uri}").decode()
        self._proof = _response(a1, nonce, self._cnonce, f":{uri}")
        answer = (
            f"charset=utf-8,username={_quoted(self._name)},realm={_quoted(realm)},"
            f"nonce={_quoted(nonce)},nc={_NC},cnonce={_quoted(self._cnonce)},"
            f"digest-uri={_quoted(uri)},response={response},qop=auth"
        )
        return answer.encode()


def _quoted(text: str) -> str:
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


def _a1(name: str, realm: str, password: str, nonce: str, cnonce: str) -> bytes:
    """RFC 2831, 2.1.2.1, without an authzid."""
    secret = md5(b":".join(map(_bytes, (name, realm, password))), usedforsecurity=False).digest()
    return secret + f":{nonce}:{cnonce}".encode()


def _bytes(text: str) -> bytes:
    """ISO 8859-1 where that is enough, as RFC 2831 wants what is hashed (2.1.2.1)."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode()


def _response(a1: bytes, nonce: str, cnonce: str, a2: str) -> bytes:
    """RFC 2831, 2.1.2.1."""
    inner = md5(a2.encode(), usedforsecurity=False).hexdigest()
    outer = md5(a1, usedforsecurity=False).hexdigest()
    text = f"{outer}:{nonce}:{_NC}:{cnonce}:auth:{inner}"
    return md5(text.encode(), usedforsecurity=False).hexdigest().encode()


def _directives(response: bytes) -> dict[str, str]:
    try:
        text = response.decode()
    except UnicodeDecodeError:
        raise SaslError("a response that is not UTF-8") from None
    found: dict[str, str] = {}
    pos = 0
    while pos < len(text.rstrip(", \t\r\n")):
        match = _DIRECTIVE.match(text, pos)
        if match is None:
            raise SaslError("a response that is no list of directives")
        key = match[1].lower()
        if key in found:
            raise SaslError(f"the directive {key} twice")
        found[key] = match[3] if match[2] is None else _ESCAPED.sub(r"\1", match[2])
        pos = match.end()
    return found
