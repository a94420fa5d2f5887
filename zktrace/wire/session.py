"""Session passwords.

ZooKeeperServer.generatePasswd: 16 bytes of java.util.Random, seeded with the session id XOR a
constant of the source. So WHO KNOWS A SESSION ID KNOWS ITS PASSWORD; leaving passwords out of an
output does not protect the session if the id is in it. java.util.Random is the 48-bit linear
congruential generator that its documentation specifies.
"""

from __future__ import annotations

from typing import Final

PASSWORD_LENGTH: Final = 16

_SECRET: Final = 0xB3415C00
_MULTIPLIER: Final = 0x5DEECE66D
_INCREMENT: Final = 0xB
_MASK: Final = (1 << 48) - 1


def password(session_id: int) -> bytes:
    """The password of a session (id signed or unsigned)."""
    seed = ((session_id ^ _SECRET) ^ _MULTIPLIER) & _MASK
    out = bytearray()
    while len(out) < PASSWORD_LENGTH:
        seed = (seed * _MULTIPLIER + _INCREMENT) & _MASK
        # Random.nextBytes takes an int's low byte first.
        out += ((seed >> 16) & 0xFFFFFFFF).to_bytes(4, "little")
    return bytes(out)
