"""A keyed hash of a txn's bytes, to tell whether two learners were told the same.

Not for secrets: whoever has the key can try what the bytes may have been, so the key is a random
one that nobody keeps (``EngineOptions.txn_key``). The native engine has the same function
(``intern.rs``, ``hash_bytes``): folded multiplications over 16 bytes at a time. Must not know txns.
"""

from __future__ import annotations

_MULTIPLY = 0x243F6A8885A308D3
_REMAINDER = 0xB7E151628AED2A6B
_ALL = (1 << 64) - 1


def _fold(a: int, b: int) -> int:
    wide = a * b
    return (wide ^ wide >> 64) & _ALL


def _word(data: bytes) -> int:
    return int.from_bytes(data, "little")


def txn_hash(key: int, data: bytes) -> int:
    """The hash as a signed number of 64 bits."""
    state = key ^ (len(data) * _REMAINDER & _ALL)
    pos = 0
    while len(data) - pos > 16:
        low, high = _word(data[pos : pos + 8]), _word(data[pos + 8 : pos + 16])
        state = _fold(low ^ state, high ^ _MULTIPLY)
        pos += 16
    rest = data[pos:]
    if len(rest) >= 8:
        low, high = _word(rest[:8]), _word(rest[-8:])
    elif len(rest) >= 4:
        low, high = _word(rest[:4]), _word(rest[-4:])
    else:
        low, high = int.from_bytes(rest, "big"), 0
    found = _fold(_fold(low ^ state, high ^ _MULTIPLY), _REMAINDER ^ key)
    return found - (1 << 64) if found >> 63 else found
