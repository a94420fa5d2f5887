"""Whole client messages: header and body as one, without the frame length.

For servers, clients and tests in Python. The engines do not go this way: they walk `layout`'s steps
and build no objects.
"""

from __future__ import annotations

import struct
from typing import Final, TypeAlias

from zktrace.wire.codec import Record
from zktrace.wire.jute import WireError
from zktrace.wire.multi import MultiRequest, MultiResponse
from zktrace.wire.opcodes import BY_NUMBER, MULTI, MULTI_RESULT
from zktrace.wire.records import ReplyHeader, RequestHeader

Body: TypeAlias = Record | MultiRequest | MultiResponse

_LENGTH: Final = struct.Struct(">i")


def frame(payload: bytes) -> bytes:
    """A payload with its length in front."""
    return _LENGTH.pack(len(payload)) + payload


def encode_request(xid: int, number: int, body: Body) -> bytes:
    """Payload of a request."""
    return RequestHeader(xid, number).encode() + body.encode()


def decode_request(payload: bytes) -> tuple[RequestHeader, Body]:
    """Header and body of a request. WireError too where the opcode is unknown."""
    header, pos = RequestHeader.decode_from(payload, 0, len(payload))
    return header, decode_body(header.type, "request", payload[pos:])


def encode_reply(xid: int, zxid: int, err: int, body: Body | None = None) -> bytes:
    """Payload of a reply; a failed one has no body."""
    return ReplyHeader(xid, zxid, err).encode() + (body.encode() if body is not None else b"")


def decode_reply(number: int, payload: bytes) -> tuple[ReplyHeader, Body | None]:
    """Header and body of the reply to a request of opcode `number`."""
    header, pos = ReplyHeader.decode_from(payload, 0, len(payload))
    if header.err:
        if pos != len(payload):
            raise WireError("a failed reply with a body", pos, "ReplyHeader.err")
        return header, None
    return header, decode_body(number, "reply", payload[pos:])


def decode_body(number: int, which: str, data: bytes) -> Body:
    """A body by opcode; `which` is "request" or "reply"."""
    op = BY_NUMBER.get(number)
    if op is None:
        raise WireError(f"unknown opcode {number}")
    body = op.request if which == "request" else op.reply
    if body == MULTI:
        return MultiRequest.decode(data)
    if body == MULTI_RESULT:
        return MultiResponse.decode(data)
    assert not isinstance(body, str)
    return body.decode(data)
