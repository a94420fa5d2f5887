"""Where capture bytes come from: a path, `-` (standard input), or an open binary file.

Yields blocks of plain bytes; gzip and zstd are told by their magic, not by a name. A compressed
stream that ends early or is corrupt gives what could be decompressed before that, and is counted:
`truncated` where it ends, `damaged_places` where it breaks. Must not know: what is in the bytes.
"""

from __future__ import annotations

import os
import stat
import sys
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, Protocol

from zktrace.capture.counters import CaptureCounters
from zktrace.capture.errors import CaptureError

Source = str | os.PathLike[str] | BinaryIO

STDIN = "-"
BLOCK = 256 << 10
# Bounds what one step of decompression may produce, so that a bomb is met block by block.
_MAX_OUTPUT = 1 << 20
# zstandard cannot bound its output; a few compressed bytes may become 128 KiB, its block size.
_ZSTD_INPUT = 1 << 10
_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_MAGIC = 4
_LARGE_WINDOW = (
    "has a zstd window larger than supported (128 MiB): decompress it first, with zstd -d --long=31"
)


class _Broken(Exception):
    """A compressed stream is corrupt; `output` is what came out before that. A `reason` says why
    nothing can come out at all.
    """

    def __init__(self, output: bytes, reason: str = "") -> None:
        super().__init__()
        self.output = output
        self.reason = reason


class _Frame(Protocol):
    """One gzip member or zstd frame."""

    def decompress(self, data: bytes) -> Iterator[bytes]: ...

    def done(self) -> bool: ...

    @property
    def rest(self) -> bytes: ...


def source_name(source: Source) -> str:
    """What to call a source in messages; text that can be encoded, unlike some names of files."""
    if isinstance(source, str) and source == STDIN:
        return "standard input"
    if isinstance(source, (str, os.PathLike)):
        name = os.fspath(source)
    else:
        name = str(getattr(source, "name", "stream"))
    # Bytes of a name that are no UTF-8 come as surrogates.
    return name.encode("utf-8", "replace").decode()


def can_reopen(source: Source) -> bool:
    """Whether reading a source twice gives the same: a plain file named by its path."""
    if source == STDIN or not isinstance(source, (str, os.PathLike)):
        return False
    try:
        return stat.S_ISREG(os.stat(source).st_mode)
    except OSError:
        return False


def open_blocks(source: Source, counters: CaptureCounters, block: int = BLOCK) -> Iterator[bytes]:
    """Decompressed blocks of a source. Raises CaptureError when it cannot be read."""
    name = source_name(source)
    if not isinstance(source, (str, os.PathLike)):
        yield from _plain_or_not(source, name, counters, block)
        return
    try:
        if source == STDIN:
            if sys.stdin is None:
                raise CaptureError(name, "is closed")
            yield from _plain_or_not(sys.stdin.buffer, name, counters, block)
            return
        # Unbuffered: blocks are large, and what a pipe holds now is wanted now.
        with open(source, "rb", buffering=0) as file:
            yield from _plain_or_not(file, name, counters, block)
    except OSError as error:
        raise CaptureError(name, error.strerror or str(error)) from error


def _plain_or_not(
    file: BinaryIO, name: str, counters: CaptureCounters, block: int
) -> Iterator[bytes]:
    read = getattr(file, "read1", file.read)
    start = b""
    while len(start) < _MAGIC:
        more = read(block)
        if not more:
            break
        start += more
    if not _new_frame(start, name):
        while start:
            yield start
            start = read(block)
        return
    yield from _decompressed(start, lambda: read(block), name, counters)


def _decompressed(data: bytes, read: Any, name: str, counters: CaptureCounters) -> Iterator[bytes]:
    """Frames one behind the other; zeros behind the last one are padding (as gzip(1) has it)."""
    begun = False
    while True:
        while len(data) < _MAGIC and (more := read()):
            data += more
        frame = _new_frame(data, name)
        if frame is None:
            while data and not data.strip(b"\0"):
                data = read()
            if data:
                counters.damaged_places += 1
            return
        while not frame.done():
            try:
                for output in frame.decompress(data):
                    begun = True
                    yield output
            except _Broken as broken:
                if broken.reason and not begun:
                    raise CaptureError(name, broken.reason) from None
                counters.damaged_places += 1
                if broken.output:
                    yield broken.output
                return
            if frame.done():
                break
            data = read()
            if not data:
                counters.truncated += 1
                return
        data = frame.rest


def is_compressed(start: bytes) -> bool:
    """Whether a file that begins so is one that :func:`open_blocks` decompresses."""
    return start.startswith(_GZIP_MAGIC) or _is_zstd(start)


def _is_zstd(start: bytes) -> bool:
    # Skippable frames (RFC 8878, 3.1.2) may come first; pzstd writes them.
    skippable = len(start) >= 4 and start[1:4] == b"\x2a\x4d\x18" and start[0] >> 4 == 5
    return start.startswith(_ZSTD_MAGIC) or skippable


def _new_frame(start: bytes, name: str) -> _Frame | None:
    if start.startswith(_GZIP_MAGIC):
        return _Gzip()
    if _is_zstd(start):
        return _Zstd(name)
    return None


class _Gzip:
    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)

    def decompress(self, data: bytes) -> Iterator[bytes]:
        pending = False
        while (data or pending) and not self._inflate.eof:
            before = self._inflate.copy()
            try:
                output = self._inflate.decompress(data, _MAX_OUTPUT)
            except zlib.error:
                # The output made before the error is lost with it: take it again, bytewise.
                raise _Broken(_until_error(before, data)) from None
            data = self._inflate.unconsumed_tail
            # A full step may leave output behind though all input went in.
            pending = len(output) == _MAX_OUTPUT
            if output:
                yield output

    def done(self) -> bool:
        return self._inflate.eof

    @property
    def rest(self) -> bytes:
        return self._inflate.unused_data


def _until_error(inflate: Any, data: bytes) -> bytes:
    output = bytearray()
    for pos in range(len(data)):
        try:
            piece = inflate.unconsumed_tail + data[pos : pos + 1]
            output += inflate.decompress(piece, _MAX_OUTPUT)
        except zlib.error:
            break
        if len(output) > _MAX_OUTPUT:
            break
    return bytes(output)


class _Zstd:
    def __init__(self, name: str) -> None:
        try:
            import zstandard
        except ImportError:
            raise CaptureError(
                name, "is compressed with zstd: install the Python package 'zstandard'"
            ) from None
        self._error = zstandard.ZstdError
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._rest = b""

    def decompress(self, data: bytes) -> Iterator[bytes]:
        for pos in range(0, len(data), _ZSTD_INPUT):
            try:
                output = self._frame.decompress(data[pos : pos + _ZSTD_INPUT])
            except self._error as error:
                # zstd's words for a window larger than it takes unasked.
                large = "too much memory" in str(error)
                raise _Broken(b"", _LARGE_WINDOW if large else "") from None
            if output:
                yield output
            if self._frame.eof:
                self._rest = self._frame.unused_data + data[pos + _ZSTD_INPUT :]
                return

    def done(self) -> bool:
        return bool(self._frame.eof)

    @property
    def rest(self) -> bytes:
        return self._rest
