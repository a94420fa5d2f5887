"""Secrets that a capture holds, dug out of its bytes, and the forms in which they might get out.

Found independently of zktrace: by the oracle's frames and by patterns in raw payloads.
"""

from __future__ import annotations

import base64
import json
import re
import struct
from collections.abc import Iterator
from typing import Final

from tests.support import net, oracle, zk
from tests.support.cases import PCAPS
from tests.support.pcapio import ETHERNET, Record

#: Shorter ones would be found by chance.
_LEAST: Final = 8

_MASK: Final = (1 << 48) - 1
_MULTIPLIER: Final = 0x5DEECE66D

_QUORUM_SASL: Final = bytes.fromhex("5f2435013501edcc")
_DIGEST: Final = re.compile(rb"[A-Za-z0-9+/]{27}=")
_SASL_PARTS: Final = re.compile(rb'(?:response|nonce|cnonce)="?([^",]{12,})')

Secret = tuple[str, bytes]


def computed_password(session: int) -> bytes:
    """The password that a Java server gives out for a session id.

    That is ``Random(id ^ 0xB3415C00).nextBytes(16)`` (ZooKeeperServer.generatePasswd).
    """
    state = ((session ^ 0xB3415C00) ^ _MULTIPLIER) & _MASK
    out = b""
    for _ in range(4):
        state = (state * _MULTIPLIER + 11) & _MASK
        out += struct.pack("<I", state >> 16 & 0xFFFFFFFF)
    return out


class _Body:
    """A reader that gives up quietly at the end of the bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def int(self) -> int:
        value = int.from_bytes(self.data[self.at : self.at + 4], "big", signed=True)
        self.at += 4
        return value

    def buffer(self) -> bytes:
        length = max(0, self.int())
        value = self.data[self.at : self.at + length]
        self.at += length
        return value

    def acls(self) -> Iterator[Secret]:
        for _ in range(min(max(0, self.int()), 100)):
            self.int()
            scheme, who = self.buffer(), self.buffer()
            if scheme == b"digest":
                yield "ACL", who
                yield "ACL", who.rpartition(b":")[2]


def _of_request(opcode: int, body: _Body) -> Iterator[Secret]:
    if opcode in (1, 15, 19, 21, 502):
        body.buffer()
        yield "data", body.buffer()
        yield from body.acls()
    elif opcode == 5:
        body.buffer()
        yield "data", body.buffer()
    elif opcode == 7:
        body.buffer()
        yield from body.acls()
    elif opcode == 100:
        body.int()
        body.buffer()
        credential = body.buffer()
        yield "credential", credential
        yield "credential", credential.partition(b":")[2]
    elif opcode == 102:
        yield "token", body.buffer()
    elif opcode == 14:
        for _ in range(1000):
            kind, done = body.int(), body.data[body.at : body.at + 1]
            body.at += 5
            if done != b"\0" or body.at >= len(body.data):
                return
            yield from _of_request(kind, body)
            body.at += 4 if kind in (1, 2, 5, 13, 15, 19) else 12 if kind == 21 else 0
            if kind in (2, 13):
                return  # their paths are not read by _of_request: the rest is left


def _of_reply(opcode: int, body: _Body) -> Iterator[Secret]:
    if opcode == 4:
        yield "data", body.buffer()
    elif opcode == 6:
        yield from body.acls()
    elif opcode == 102:
        yield "token", body.buffer()


def _all(records: list[Record]) -> Iterator[Secret]:
    reading = oracle.read(records, oracle.client_listeners(PCAPS / "ports.json"))
    for pair in reading.pairs:
        if pair.opcode == -10:
            for frame, offset in ((pair.request, 24), (pair.reply, 16)):
                if frame is not None and len(frame.payload) >= offset + 20:
                    yield "password", frame.payload[offset + 4 : offset + 20]
            if pair.session:
                yield "password", computed_password(pair.session)
        elif pair.opcode is not None:
            if pair.request is not None:
                yield from _of_request(pair.opcode, _Body(pair.request.payload[8:]))
            if pair.reply is not None and pair.error == 0:
                yield from _of_reply(pair.opcode, _Body(pair.reply.payload[16:]))
    for record in records:
        seg = net.segment(record)
        if seg is None:
            continue
        at = seg.payload.find(_QUORUM_SASL)
        if at >= 0:
            yield "token", _Body(seg.payload[at + 12 :]).buffer()
        for part in _SASL_PARTS.findall(seg.payload):
            yield "token", part
        for digest in _DIGEST.findall(seg.payload):
            yield "ACL", digest


def secrets(records: list[Record], linktype: int = ETHERNET) -> set[Secret]:
    """Secrets of a capture of plain Ethernet, without those that also stand in a path."""
    if linktype != ETHERNET:
        return set()
    found = {
        (what, value)
        for what, value in _all(records)
        if len(value) >= _LEAST and value.strip(b"\0") and len(set(value)) > 2
    }
    reading = oracle.read(records, oracle.client_listeners(PCAPS / "ports.json"))
    shown = b"\n".join(
        p.request.payload[12:] for p in reading.pairs if p.request and p.opcode in _PATH_ONLY
    )
    return {(what, value) for what, value in found if value not in shown}


_PATH_ONLY: Final = frozenset(zk.BEGIN_WITH_PATH - {1, 5, 7, 15, 19, 21, 502})


def forms(secret: bytes, *, halves: bool = True) -> set[bytes]:
    """How a secret may stand in an output; its halves too, unless they may be plain words."""
    text = secret.decode("utf-8", "replace")
    out = {
        secret,
        secret.hex().encode(),
        secret.hex().upper().encode(),
        secret.hex(" ").encode(),
        secret.hex(":").encode(),
        base64.b64encode(secret).rstrip(b"="),
        base64.urlsafe_b64encode(secret).rstrip(b"="),
        repr(secret)[2:-1].encode(),
        repr(text)[1:-1].encode(),
        json.dumps(text)[1:-1].encode(),
        json.dumps(text, ensure_ascii=False)[1:-1].encode(),
        json.dumps(secret.decode("latin-1"))[1:-1].encode(),
        secret.decode("latin-1").encode(),
        str(list(secret)).encode()[1:-1],
    }
    half = len(secret) // 2
    if halves and half >= _LEAST:
        for part in (secret[:half], secret[half:]):
            if len(set(part)) > 2:
                out |= {part, part.hex().encode(), repr(part)[2:-1].encode()}
    return out
