"""Parts as bytes: small in memory, and what state files hold.

A packed part is a zlib stream of (all little-endian): numbers of keys, histogram entries and
errors, bytes of the keys, width of a count (each 32 bits); the keys as a JSON list of
``[key, rest]``; the numbers column by column, byte plane by byte plane (high bytes are mostly
zero, and so cost nothing): ten columns, of earlier versions nine, without the last; entries per
row; buckets as differences, and counts, in byte planes;
errors. Knows nothing of windows, nor of files.
"""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any, Final

import numpy as np

from zktrace.engine.buckets import BUCKETS
from zktrace.store.part import COLUMNS, Part

_HEAD: Final = struct.Struct("<5I")
#: A part is far smaller; bounds what a damaged or hostile file makes of few bytes.
_MOST_BYTES: Final = 256 << 20


def _planes(values: Any) -> bytes:
    """Bytes of equal significance side by side."""
    whole: bytes = values.view(np.uint8).reshape(-1, values.itemsize).T.tobytes()
    return whole


def pack(part: Part, level: int = 1) -> bytes:
    """The bytes of a part."""
    rows = np.asarray(part.rows, dtype=np.int64)
    lengths = np.bincount(rows, minlength=len(part.keys)).astype("<u2")
    steps = np.diff(np.asarray(part.buckets, dtype=np.int64), prepend=0).astype("<i2")
    small = not len(part.counts) or int(part.counts.max()) < 1 << 16
    counts = np.asarray(part.counts, dtype="<u2" if small else "<u8")
    keys = json.dumps(part.keys, separators=(",", ":")).encode()
    head = (len(part.keys), len(rows), len(part.errors), len(keys), counts.itemsize)
    columns = np.ascontiguousarray(np.asarray(part.numbers, dtype="<i8").T)
    parts = (
        _HEAD.pack(*head),
        keys,
        _planes(columns.reshape(-1)),
        lengths.tobytes(),
        _planes(steps),
        _planes(counts),
        np.asarray(part.errors, dtype="<i8").tobytes(),
    )
    return zlib.compress(b"".join(parts), level)


def unpack(data: bytes) -> Part:
    """The part of some bytes. ValueError where they are none."""
    stream = zlib.decompressobj()
    try:
        text = stream.decompress(data, _MOST_BYTES)
        if not stream.eof or len(text) < _HEAD.size:
            raise ValueError("cut short")
        keys, entries, errors, key_bytes, width = _HEAD.unpack_from(text)
        sizes = (key_bytes, keys * 2, entries * 2, entries * width, errors * 24)
        columns, odd = divmod(len(text) - _HEAD.size - sum(sizes), 8 * max(keys, 1))
        if width not in (2, 8) or odd or columns not in ((COLUMNS - 1, COLUMNS) if keys else (0,)):
            raise ValueError("of another length")
        named = json.loads(text[_HEAD.size : _HEAD.size + key_bytes])
    except (zlib.error, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from None
    if len(named) != keys or not all(_is_key(key) for key in named):
        raise ValueError("wrong keys")
    at = _HEAD.size + key_bytes

    def column(kind: str, count: int, planes: bool) -> Any:
        nonlocal at
        size = np.dtype(kind).itemsize
        raw = np.frombuffer(text, dtype=np.uint8, count=count * size, offset=at)
        at += count * size
        if planes:
            raw = np.ascontiguousarray(raw.reshape(size, count).T).reshape(-1)
        return raw.view(kind)

    numbers = column("<i8", columns * keys, planes=True).reshape(columns, keys).T
    if columns < COLUMNS:
        numbers = np.pad(numbers, ((0, 0), (0, COLUMNS - columns)))
    lengths = column("<u2", keys, planes=False)
    steps = column("<i2", entries, planes=True)
    counts = column(f"<u{width}", entries, planes=True)
    codes = np.frombuffer(text, dtype="<i8", count=3 * errors, offset=at).reshape(-1, 3)
    buckets = np.cumsum(steps, dtype=np.int64)
    if int(lengths.sum(dtype=np.int64)) != entries or (
        entries and not 0 <= int(buckets.min()) <= int(buckets.max()) < BUCKETS
    ):
        raise ValueError("a wrong histogram")
    if errors and not 0 <= int(codes[:, 0].min()) <= int(codes[:, 0].max()) < keys:
        raise ValueError("errors of no row")
    return Part(
        tuple((key, rest) for key, rest in named),
        np.ascontiguousarray(numbers),
        np.repeat(np.arange(keys, dtype=np.uint32), lengths),
        buckets.astype(np.uint16),
        counts.astype(np.uint32) if width == 2 else counts,
        codes,
    )


def _is_key(key: Any) -> bool:
    if not isinstance(key, list) or len(key) != 2:
        return False
    return (key[0] is None or isinstance(key[0], str)) and isinstance(key[1], bool)
