"""Who a client connection has authenticated as, as far as the wire tells, and never with what.

Three messages name a user: an AuthPacket of scheme ``digest`` (``user:password``, of which the part
before the colon is taken; ``DigestAuthenticationProvider.generateDigest`` splits it there), the
client's response of SASL DIGEST-MD5 (``username="..."``, RFC 2831, 2.1.2), and the answer to
whoAmI, where the server itself says (``WhoAmIResponse``: scheme and user name). A claim counts when
the server has granted it: error 0, of SASL with ``rspauth`` in the token, as a server may keep a
connection whose SASL failed (``zookeeper.allowSaslFailedClients`` in ``ZooKeeperServer``).
Of ``digest`` that proves no password: servers take any, and compare it with ACLs later.

Kerberos encrypts its names, and certificates are within TLS: those users are known from whoAmI
only. Addresses (scheme ``ip``) are no users. Knows no connections and no times.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator

AUTH_OPCODE, SASL_OPCODE, WHO_AM_I_OPCODE = 100, 102, 107
OPCODES = frozenset((AUTH_OPCODE, SASL_OPCODE, WHO_AM_I_OPCODE))

#: Bytes of a scheme and of a name; of a user with a longer name the scheme is told.
MAX_SCHEME, MAX_NAME = 32, 128
#: Identities of a connection, and of an answer to whoAmI that are looked at.
MAX_IDENTITIES, MAX_ANSWER = 4, 64
#: Schemes that say nothing about who it is.
_NOBODY = (b"ip", b"world")

_INT = struct.Struct(">i")
_SCHEME = re.compile(rb"[A-Za-z0-9_.-]+")
#: A quoted string of RFC 2831, 7.1, at the beginning of a directive.
_USERNAME = re.compile(rb'(?:^|[,\s])username="((?:[^"\\]|\\.)*)"', re.DOTALL)
_QUOTED = re.compile(rb"\\(.)", re.DOTALL)
_GRANTED = b"rspauth="


def claimed(opcode: int, body: bytes) -> str | None:
    """Who the body of a request claims to be; None where it names nobody."""
    if opcode == AUTH_OPCODE:
        scheme, pos = _sized(body, 4)
        if scheme is None:
            return None
        auth, _ = _sized(body, pos)
        if scheme != b"digest":
            return _identity(scheme, b"")
        name, colon, _ = (auth or b"").partition(b":")
        # Without a colon it may be anything, a password by mistake, too.
        return _identity(scheme, name) if colon and name else None
    if opcode == SASL_OPCODE:
        token, _ = _sized(body, 0)
        found = None if token is None else _USERNAME.search(token)
        if found is not None and (name := _QUOTED.sub(rb"\1", found[1])):
            return _identity(b"sasl", name)
    return None


def granted(opcode: int, claim: str | None, body: bytes) -> list[str]:
    """Who the connection is besides, by the body of a reply without an error."""
    if opcode == WHO_AM_I_OPCODE:
        return list(_answer(body))
    if claim is None:
        return []
    if opcode == SASL_OPCODE:
        token, _ = _sized(body, 0)
        return [claim] if token is not None and token.startswith(_GRANTED) else []
    return [claim] if opcode == AUTH_OPCODE else []


def joined(known: list[str], more: Iterable[str]) -> bool:
    """Adds identities, each once; whether there were new ones."""
    before = len(known)
    for one in more:
        if one not in known and len(known) < MAX_IDENTITIES:
            known.append(one)
    return len(known) > before


def shown(known: list[str]) -> str:
    """All identities of a connection in one text."""
    return " + ".join(known)


def _answer(body: bytes) -> Iterator[str]:
    if len(body) < 4:
        return
    (count,) = _INT.unpack_from(body)
    pos = 4
    for _ in range(min(count, MAX_ANSWER)):
        scheme, pos = _sized(body, pos)
        if scheme is None:
            return
        name, pos = _sized(body, pos)
        if name is None:
            return
        identity = _identity(scheme, name)
        if identity is not None:
            yield identity


def _identity(scheme: bytes, name: bytes) -> str | None:
    if len(scheme) > MAX_SCHEME or not _SCHEME.fullmatch(scheme) or scheme in _NOBODY:
        return None
    shown = scheme.decode("ascii")
    if not name or len(name) > MAX_NAME:
        return shown
    try:
        text = name.decode("utf-8")
    except UnicodeDecodeError:
        return shown
    # Control characters have no place in a line of text.
    if any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in text):
        return shown
    return f"{shown}:{text}"


def _sized(body: bytes, pos: int) -> tuple[bytes | None, int]:
    """A string or buffer of jute at a place, None where there is none, and what follows it."""
    if pos < 0 or pos + 4 > len(body):
        return None, -1
    (size,) = _INT.unpack_from(body, pos)
    end = pos + 4 + size
    if size < 0 or end > len(body):
        return None, -1
    return body[pos + 4 : end], end
