"""multi and multiRead: operations in a row, each with a MultiHeader, ended by a header of type -1
with `done` set (MultiOperationRecord, MultiResponse).

Results: a body follows if err is 0, or if the type is -1 (then it is the error again). Decode a
result by its own type: it is not always that of the request (create2 in, create out, in 3.8.0).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from zktrace.wire.codec import Record, decode_nested
from zktrace.wire.jute import WireError
from zktrace.wire.opcodes import BY_NUMBER, ERROR
from zktrace.wire.records import MultiHeader

END: Final = MultiHeader(ERROR, True, -1)


@dataclass(slots=True)
class MultiOp:
    """One operation: `type` is its opcode, `body` the request record of that opcode."""

    type: int
    body: Record


@dataclass(slots=True)
class MultiResult:
    """One result; `body` is None where a failed one (not of type -1) has none."""

    type: int
    err: int
    body: Record | None


@dataclass(slots=True)
class MultiRequest:
    """Body of multi and multiRead."""

    ops: list[MultiOp] = field(default_factory=list)

    def encode(self) -> bytes:
        parts = [MultiHeader(op.type, False, -1).encode() + op.body.encode() for op in self.ops]
        return b"".join(parts) + END.encode()

    @classmethod
    def decode(cls, data: bytes) -> MultiRequest:
        pos, end = 0, len(data)
        ops: list[MultiOp] = []
        while True:
            header, body_at = MultiHeader.decode_from(data, pos, end)
            if header.done:
                _ended(header, pos, body_at, end)
                return cls(ops)
            body, pos = decode_nested(_record(header.type, "request", pos), data, body_at, end)
            ops.append(MultiOp(header.type, body))


@dataclass(slots=True)
class MultiResponse:
    """Reply of multi and multiRead."""

    results: list[MultiResult] = field(default_factory=list)

    def encode(self) -> bytes:
        parts = []
        for result in self.results:
            parts.append(MultiHeader(result.type, False, result.err).encode())
            if result.body is not None:
                parts.append(result.body.encode())
        return b"".join(parts) + END.encode()

    @classmethod
    def decode(cls, data: bytes) -> MultiResponse:
        pos, end = 0, len(data)
        results: list[MultiResult] = []
        while True:
            header, at = MultiHeader.decode_from(data, pos, end)
            if header.done:
                _ended(header, pos, at, end)
                return cls(results)
            body: Record | None = None
            if header.err == 0 or header.type == ERROR:
                body, at = decode_nested(_record(header.type, "reply", pos), data, at, end)
            pos = at
            results.append(MultiResult(header.type, header.err, body))


def _ended(header: MultiHeader, pos: int, after: int, end: int) -> None:
    if header.type != ERROR:
        raise WireError(f"end header of type {header.type}", pos, "MultiHeader.type")
    if after != end:
        raise WireError(f"{end - after} bytes behind the end header", after, "MultiHeader")


def _record(number: int, which: str, pos: int) -> type[Record]:
    op = BY_NUMBER.get(number)
    if op is None:
        raise WireError(f"unknown opcode {number}", pos, "MultiHeader.type")
    body = op.request if which == "request" else op.reply
    if isinstance(body, str):
        raise WireError("a multi inside a multi", pos, "MultiHeader.type")
    return body
