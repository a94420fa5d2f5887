"""Java key stores (JKS), read only: keytool's format of old, and what many zoo.cfg files name.

Layout and protection as in sun.security.provider.JavaKeyStore and KeyProtector: big-endian, a
SHA-1 of password, a phrase and all bytes before it at the end; a private key is XORed with a key
stream of SHA-1 that begins with a salt. It protects badly, but it is what there is. Certificates
and keys come out as DER. A newer keytool writes PKCS12 under the same file name (`keystore`).
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass
from hashlib import sha1
from typing import Final

_MAGIC: Final = 0xFEEDFEED
_KEY: Final = 1
_TRUSTED: Final = 2
_PHRASE: Final = b"Mighty Aphrodite"
_DIGEST: Final = 20
#: AlgorithmIdentifier of 1.3.6.1.4.1.42.2.17.1.1 (KeyProtector) with NULL parameters.
_ALGORITHM: Final = bytes.fromhex("300e060a2b060104012a021101010500")
_LARGEST: Final = 16 << 20


class KeyStoreError(Exception):
    """No key store, another password, or damage; the text says which."""


@dataclass(frozen=True, slots=True)
class KeyStore:
    """`keys`: private key (PKCS #8) and its chain, DER; `trusted`: certificates."""

    keys: list[tuple[bytes, list[bytes]]]
    trusted: list[bytes]


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._pos = 0

    def take(self, count: int) -> bytes:
        end = self._pos + count
        if count < 0 or end > len(self._data):
            raise KeyStoreError("it is cut off")
        piece = self._data[self._pos : end]
        self._pos = end
        return piece

    def number(self) -> int:
        return int(struct.unpack(">i", self.take(4))[0])

    def text(self) -> bytes:
        return self.take(struct.unpack(">H", self.take(2))[0])

    def skip_time(self) -> None:
        self.take(8)


def read(data: bytes, password: str) -> KeyStore:
    """All entries of a store; keys must have the store's password."""
    if len(data) > _LARGEST:
        raise KeyStoreError("it is too large")
    if len(data) < 12 + _DIGEST or struct.unpack_from(">I", data)[0] != _MAGIC:
        raise KeyStoreError("it is neither JKS nor PKCS12")
    secret = password.encode("utf-16-be")
    body, digest = data[:-_DIGEST], data[-_DIGEST:]
    if not hmac.compare_digest(sha1(secret + _PHRASE + body).digest(), digest):
        raise KeyStoreError("the password is another one, or it is damaged")
    reader = _Reader(body[4:])
    version, count = reader.number(), reader.number()
    if version not in (1, 2):
        raise KeyStoreError(f"its version is {version}")
    store = KeyStore([], [])
    for _ in range(count):
        kind = reader.number()
        reader.text()
        reader.skip_time()
        if kind == _KEY:
            protected = reader.take(reader.number())
            chain = [_certificate(reader, version) for _ in range(reader.number())]
            store.keys.append((_recovered(protected, secret), chain))
        elif kind == _TRUSTED:
            store.trusted.append(_certificate(reader, version))
        else:
            raise KeyStoreError(f"an entry of kind {kind}")
    return store


def _certificate(reader: _Reader, version: int) -> bytes:
    if version == 2:
        kind = reader.text()
        if kind != b"X.509":
            raise KeyStoreError(f"a certificate of type {kind.decode(errors='replace')}")
    return reader.take(reader.number())


def _recovered(protected: bytes, secret: bytes) -> bytes:
    """The key of an EncryptedPrivateKeyInfo."""
    outer = _content(protected, 0x30)
    if not outer.startswith(_ALGORITHM):
        raise KeyStoreError("a key that is protected in an unknown way")
    inner = _content(outer[len(_ALGORITHM) :], 0x04)
    if len(inner) < 2 * _DIGEST:
        raise KeyStoreError("a key that is cut off")
    salt, hidden, check = inner[:_DIGEST], inner[_DIGEST:-_DIGEST], inner[-_DIGEST:]
    stream, last = bytearray(), salt
    while len(stream) < len(hidden):
        last = sha1(secret + last).digest()
        stream += last
    key = bytes(a ^ b for a, b in zip(hidden, stream, strict=False))
    if not hmac.compare_digest(sha1(secret + key).digest(), check):
        raise KeyStoreError("a key with another password than the store's")
    return key


def _content(data: bytes, tag: int) -> bytes:
    """Of one DER element that is all of `data`."""
    if len(data) < 2 or data[0] != tag:
        raise KeyStoreError("a key that is no EncryptedPrivateKeyInfo")
    length, pos = data[1], 2
    if length & 0x80:
        count = length & 0x7F
        length, pos = int.from_bytes(data[2 : 2 + count], "big"), 2 + count
    if len(data) - pos != length:
        raise KeyStoreError("a key that is cut off")
    return data[pos:]
