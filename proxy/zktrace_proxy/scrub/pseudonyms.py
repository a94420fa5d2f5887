"""Texts, ids and addresses under a key: the same one always becomes the same other one.

Lengths stay. What is mapped is not kept: components of paths go through a keyed permutation of the
texts of their length (a Feistel network over an alphabet, as in format-preserving encryption), so
that different ones stay different, whatever a capture holds; node data becomes the output of a
keyed hash. Names that belong to ZooKeeper stay, and so do the ten digits of a sequential node.
Whoever has the key can tell whether a guess is right, and undo names: keep it, or throw it away.
Pure; no input or output.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

#: ZooKeeper's own names, of which nothing is to be hidden.
OWN: Final = frozenset(
    {
        *("zookeeper", "config", "quota", "zookeeper_limits", "zookeeper_stats"),
        *("", ".", ".."),
    }
)
_NAME: Final = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-."
_PRINTABLE: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "/")
_LETTERS: Final = 52
_ROUNDS: Final = 8
_SEQUENCE: Final = 10
#: Texts whose pseudonym is remembered, to be quick; it can be made again.
_CACHE: Final = 65_536


class Pseudonyms:
    """`key`: any bytes."""

    def __init__(self, key: bytes) -> None:
        self._key = hashlib.blake2b(key, digest_size=32, person=b"zktrace-scrub").digest()
        self._components: dict[str, str] = {}
        self._addresses: dict[bytes, bytes] = {}

    def _random(self, what: bytes, size: int) -> bytes:
        """`size` bytes that only the key tells."""
        return hashlib.shake_256(self._key + what).digest(size)

    # ---- texts

    def path(self, path: str) -> str:
        """A path, component by component; as many bytes of UTF-8."""
        return "/".join(self.component(part) for part in path.split("/"))

    def component(self, text: str) -> str:
        """A name within a path."""
        found = self._components.get(text)
        if found is None:
            if len(self._components) >= _CACHE:
                self._components.clear()
            found = self._components[text] = self._component(text)
        return found

    def _component(self, text: str) -> str:
        if text in OWN:
            return text
        number = text[-_SEQUENCE:]
        if len(number) == _SEQUENCE and number.isascii() and number.isdigit():
            stem = text[:-_SEQUENCE]
            return (self._text(stem) if stem else "") + number
        return self._text(text)

    def _text(self, text: str) -> str:
        """Any text, not empty."""
        if all(char in _NAME for char in text):
            return self._permuted(text, _NAME)
        if all(char in _PRINTABLE for char in text):
            return self._permuted(text, _PRINTABLE)
        # beyond ASCII, or control characters: as many bytes, of letters only (a dot is no name)
        data = text.encode("utf-8", "replace")
        bits = self._random(b"text" + data, len(data))
        return "".join(_NAME[byte % _LETTERS] for byte in bits)

    def _permuted(self, text: str, alphabet: str) -> str:
        while True:
            # what leads out of this kind of text is walked through, so that the whole is a
            # permutation of the texts of this kind
            text = self._step(text, alphabet)
            if text in OWN:
                continue
            if alphabet is _NAME or not all(char in _NAME for char in text):
                return text

    def _step(self, text: str, alphabet: str) -> str:
        base, size = len(alphabet), len(text)
        values = [alphabet.index(char) for char in text]
        if size == 1:
            return alphabet[self._table(base)[values[0]]]
        half = size // 2
        left, right = values[:half], values[half:]
        for number in range(_ROUNDS):
            seed = bytes([number, size & 0xFF, size >> 8 & 0xFF, base])
            stream = self._random(b"name" + seed + bytes(right), 2 * len(left))
            moved = [
                (value + stream[2 * at] * 256 + stream[2 * at + 1]) % base
                for at, value in enumerate(left)
            ]
            left, right = right, moved
        return "".join(alphabet[value] for value in left + right)

    def _table(self, base: int) -> list[int]:
        return sorted(range(base), key=lambda n: self._random(b"char" + bytes([base, n]), 8))

    def identity(self, scheme: str, text: str) -> str:
        """An id of an ACL; addresses stay addresses, ``user:hash`` keeps its form."""
        if scheme in ("world", "auth") or not text:
            return text
        if scheme == "ip":
            return self._ip_text(text)
        return ":".join(self._text(part) if part else "" for part in text.split(":"))

    def _ip_text(self, text: str) -> str:
        address, slash, bits = text.partition("/")
        parts = address.split(".")
        if len(parts) != 4 or not all(part.isascii() and part.isdigit() for part in parts):
            return self._text(text)
        made: list[str] = []
        for at, part in enumerate(parts):
            value = self._random(b"octet" + ".".join(parts[: at + 1]).encode(), 2)
            number = int.from_bytes(value, "big")
            low, high = {1: (0, 9), 2: (10, 99)}.get(len(part), (100, 255))
            made.append(str(low + number % (high - low + 1)))
        return ".".join(made) + slash + bits

    def data(self, data: bytes) -> bytes:
        """Node data: as many bytes, the same for the same."""
        if not data:
            return data
        seed = hmac.new(self._key, data, hashlib.sha256).digest()
        return hashlib.shake_256(b"data" + seed).digest(len(data))

    # ---- numbers

    def session(self, sid: int) -> int:
        """A session id (signed, as it is on the wire); the server's number in its top byte stays.
        0 stays 0.
        """
        unsigned = sid & 0xFFFFFFFFFFFFFFFF
        if unsigned == 0:
            return 0
        top, low = unsigned >> 56, unsigned & ((1 << 56) - 1)
        low = self._mixed(low)
        while low == 0:
            low = self._mixed(low)
        made = top << 56 | low
        return made - (1 << 64) if made >> 63 else made

    def _mixed(self, low: int) -> int:
        left, right = low >> 28, low & 0x0FFFFFFF
        for number in range(_ROUNDS):
            seed = b"session" + bytes([number]) + right.to_bytes(4, "big")
            bits = int.from_bytes(self._random(seed, 4), "big") & 0x0FFFFFFF
            left, right = right, left ^ bits
        return left << 28 | right

    def owner(self, owner: int) -> int:
        """A Stat's ephemeral owner: a session, or what says container or TTL (EphemeralType)."""
        unsigned = owner & 0xFFFFFFFFFFFFFFFF
        if unsigned == 1 << 63 or unsigned >> 56 == 0xFF:
            return owner
        return self.session(owner)

    def address(self, ip: bytes) -> bytes:
        """An IP address of 4 or 16 bytes, into 10.0.0.0/8 or fd00::/8. Two IPv4 addresses of a
        capture can become one (1 in 16 million per pair); ports still tell connections apart.
        """
        found = self._addresses.get(ip)
        if found is None:
            if len(self._addresses) >= _CACHE:
                self._addresses.clear()
            if len(ip) == 16:
                found = b"\xfd" + self._random(b"ip6" + ip, 15)
            else:
                found = b"\x0a" + self._random(b"ip4" + ip, 3)
            self._addresses[ip] = found
        return found
