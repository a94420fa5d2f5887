"""DIGEST-MD5, the server's side (RFC 2831, as the JDK's DigestMD5Server and ZooKeeper's
SaslServerCallbackHandler do it): challenge, response, the server's own proof.

Without a security layer (qop auth), one realm. The nonce comes from outside. What a client sends is
bounded as in the JDK. MD5 is what the mechanism is; it is not for secrets that matter elsewhere.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from hashlib import md5
from typing import Final

#: "zk-sasl-md5" is fixed between client and server (ZooKeeperSaslServer).
REALM: Final = "zk-sasl-md5"
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
    """The client did not prove who it is; the text is for the log, and has no secret."""


def valid_principal(name: str) -> bool:
    """Whether an ACL of scheme sasl may name it (KerberosName)."""
    return "@" not in name or _PRINCIPAL.match(name) is not None


class SaslServer:
    """One authentication. `users`: passwords by name."""

    def __init__(self, users: Mapping[str, str], nonce: str, super_password: str | None) -> None:
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
            challenge = f'realm="{REALM}",nonce="{self._nonce}",charset=utf-8,algorithm=md5-sess'
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
        if realm not in ("", REALM):
            raise SaslError("another realm than that of the challenge")
        cnonce, uri = said.get("cnonce"), said.get("digest-uri")
        if not cnonce or not uri:
            raise SaslError("no cnonce or no digest-uri")
        # One of the services that the server is known as.
        if uri.lower().split("/")[:2] != ["zookeeper", REALM]:
            raise SaslError("a digest-uri of another service")
        password = self._users.get(name)
        if name == _SUPER and password is not None and self._super_password is not None:
            password = self._super_password
        if password is None:
            raise SaslError("an unknown user")
        secret = md5(
            b":".join(map(_bytes, (name, realm, password))), usedforsecurity=False
        ).digest()
        a1 = secret + f":{nonce}:{cnonce}".encode()
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
