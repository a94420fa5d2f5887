"""Session ids replaced by keyed hashes, so that a trace can leave the trust zone.

A session's password can be computed from its id
(``org.apache.zookeeper.server.SessionTrackerImpl`` and ``ZooKeeperServer.generatePasswd``: a
java.util.Random seeded with the id), so ids are secrets. The hash is SipHash-2-4 of the id's 8
bytes, big-endian, under a 16-byte key; its highest byte is set to zero, so that a hash is never
taken for one of the special owners of a znode (0, container, TTL). Without the key ids cannot be
found again by trying; with the same key they are the same in every run. The native engine does the
same for the JSON lines it writes.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pyarrow as pa

KEY_BYTES: Final = 16
_MASK: Final = 0xFFFF_FFFF_FFFF_FFFF
_TTL_BYTE: Final = 0xFF

#: Columns that hold session ids, per kind of event.
_COLUMN: Final = "session"


def make_key(text: str | None = None) -> bytes:
    """A key from a passphrase; without one a random key, good for one run."""
    if text is None:
        from secrets import token_bytes

        return token_bytes(KEY_BYTES)
    return blake2b(text.encode(), digest_size=KEY_BYTES, person=b"zktrace-session").digest()


def _rotate(value: int, bits: int) -> int:
    return (value << bits | value >> (64 - bits)) & _MASK


def siphash24(key: bytes, message: bytes) -> int:
    """SipHash-2-4 (Aumasson and Bernstein, 2012) of a message, as an unsigned 64-bit integer."""
    k0 = int.from_bytes(key[:8], "little")
    k1 = int.from_bytes(key[8:16], "little")
    v0 = k0 ^ 0x736F6D6570736575
    v1 = k1 ^ 0x646F72616E646F6D
    v2 = k0 ^ 0x6C7967656E657261
    v3 = k1 ^ 0x7465646279746573

    def rounds(count: int) -> None:
        nonlocal v0, v1, v2, v3
        for _ in range(count):
            v0 = (v0 + v1) & _MASK
            v1 = _rotate(v1, 13) ^ v0
            v0 = _rotate(v0, 32)
            v2 = (v2 + v3) & _MASK
            v3 = _rotate(v3, 16) ^ v2
            v0 = (v0 + v3) & _MASK
            v3 = _rotate(v3, 21) ^ v0
            v2 = (v2 + v1) & _MASK
            v1 = _rotate(v1, 17) ^ v2
            v2 = _rotate(v2, 32)

    whole = len(message) - len(message) % 8
    last = message[whole:] + bytes(7 - len(message) % 8) + bytes([len(message) & 0xFF])
    for start in range(0, whole, 8):
        word = int.from_bytes(message[start : start + 8], "little")
        v3 ^= word
        rounds(2)
        v0 ^= word
    word = int.from_bytes(last, "little")
    v3 ^= word
    rounds(2)
    v0 ^= word
    v2 ^= 0xFF
    rounds(4)
    return v0 ^ v1 ^ v2 ^ v3


class SessionHasher:
    """Replaces session ids; remembers the ones it met, since there are few."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key has {KEY_BYTES} bytes")
        self._key = key
        self._known: dict[int | None, int | None] = {None: None, 0: 0}

    def session(self, session: int | None) -> int | None:
        """The hash of an id; 0 (no session) and None stay."""
        known = self._known
        if session not in known:
            assert session is not None
            digest = siphash24(self._key, (session & _MASK).to_bytes(8, "big"))
            known[session] = digest & (_MASK >> 8)
        return known[session]

    def owner(self, owner: int | None) -> int | None:
        """The same for a Stat's ephemeralOwner, whose special values are no sessions."""
        if owner is not None and (owner == -(1 << 63) or (owner >> 56) & 0xFF == _TTL_BYTE):
            return owner
        return self.session(owner)

    def batch(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """A record batch of any kind of event with its session ids replaced."""
        import pyarrow as pa

        schema = batch.schema
        index = schema.get_field_index(_COLUMN)
        if index >= 0:
            ids = list(map(self.session, batch.column(index).to_pylist()))
            batch = batch.set_column(index, schema.field(index), pa.array(ids, pa.int64()))
        index = schema.get_field_index("stat")
        if index >= 0:
            column = batch.column(index)
            names = [field.name for field in column.type]
            children = [column.field(name) for name in names]
            at = names.index("ephemeral_owner")
            owners = list(map(self.owner, children[at].to_pylist()))
            children[at] = pa.array(owners, pa.int64())
            stat = pa.StructArray.from_arrays(
                children, fields=list(column.type), mask=column.is_null()
            )
            batch = batch.set_column(index, schema.field(index), stat)
        return batch
