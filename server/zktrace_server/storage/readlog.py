"""Reads txn logs to replay them, and tells an end from a loss.

A server that is killed leaves a log whose last entries may be half written; they were never
acknowledged. Damage with sound entries behind it is something else: acknowledged txns would be
lost, so the server must not start from that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final
from zlib import adler32

from zktrace.wire import zxid as zxids
from zktrace.wire.files import END_OF_ENTRY, LOG_MAGIC, FileHeader, LogEntryHeader
from zktrace.wire.jute import WireError
from zktrace.wire.txn import Transaction, TxnHeader
from zktrace_server.storage.directory import LOG, StorageError, files

_FILE_HEADER: Final = 16
_ENTRY_HEADER: Final = 12
_TXN_HEADER: Final = 32
#: How far behind damage a zxid may be to be taken for the log's own.
_NEAR_ZXIDS: Final = 1 << 20

_ERROR_TXN: Final = -1

#: Logs are read in pieces of so many bytes.
_PIECE: Final = 1 << 18
_ZEROS: Final = bytes(_PIECE)


def content(path: Path) -> bytes:
    """A log without most of the zeros that it is grown ahead by: 64 MiB of them are more than is
    worth keeping, or looking at byte by byte.
    """
    data = bytearray()
    zeros = 0
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_PIECE):
            if piece == _ZEROS:
                zeros += len(piece)
                continue
            data += bytes(zeros)
            data += piece
            zeros = 0
    return bytes(data)


def logs_behind(directory: Path, zxid: int) -> list[tuple[int, Path]]:
    """(first zxid, path) of the logs that may have txns behind `zxid`: from the last one on that
    begins with the txn behind it or before.
    """
    logs = files(directory, LOG)
    first = max((start for start, _ in logs if start <= zxid + 1), default=None)
    return [(start, path) for start, path in logs if first is None or start >= first]


def txns_after(
    directory: Path, zxid: int, warn: Callable[[str], None], *, upto: int | None = None
) -> Iterator[Transaction]:
    """Txns behind `zxid`, in order, and none behind `upto`. StorageError where some are missing or
    damaged.
    """
    logs = logs_behind(directory, zxid)
    if logs and logs[0][0] > zxid + 1 and not _begins(logs[0][0], zxid):
        raise StorageError(_missing(directory, zxid, logs[0][0]))
    last = zxid
    for _, path in logs:
        for txn in _entries(path, warn):
            got = txn.header.zxid
            if upto is not None and got > upto:
                return
            if got <= last:
                # Java logs unreadable requests as errors under the zxid of the txn before them.
                if got > zxid and txn.header.type != _ERROR_TXN:
                    raise StorageError(
                        f"{path}: txn {zxids.text(got)} comes behind {zxids.text(last)}"
                    )
                continue
            if got != last + 1 and not _begins(got, last):
                raise StorageError(_missing(directory, last, got))
            last = got
            yield txn


def payloads_from(directory: Path, zxid: int) -> Iterator[tuple[int, bytes]]:
    """(zxid, bytes) of the sound entries from `zxid` on, of all logs that may have some."""
    logs = files(directory, LOG)
    first = max((start for start, _ in logs if start <= zxid), default=None)
    for start, path in logs:
        if first is None or start < first:
            continue
        data = content(path)
        pos = _FILE_HEADER
        while (entry := _entry(data, pos)) is not None:
            payload, pos = entry
            got = TxnHeader.decode_from(payload, 0, len(payload))[0].zxid
            if got >= zxid:
                yield got, payload


def _begins(got: int, last: int) -> bool:
    """Whether a zxid is the first of a later epoch than the last one's."""
    return zxids.epoch(got) > zxids.epoch(last) and zxids.counter(got) <= 1


def _missing(directory: Path, last: int, got: int) -> str:
    return (
        f"{directory}: the txns behind {zxids.text(last)} and before {zxids.text(got)} are "
        "missing; put the log files back that hold them (or a snapshot from behind the gap)"
    )


def _entries(path: Path, warn: Callable[[str], None]) -> Iterator[Transaction]:
    data = content(path)
    if len(data) < _FILE_HEADER:
        # Killed before the header was written.
        if data.strip(b"\0"):
            warn(f"{path} ends within its header")
        return
    header, pos = FileHeader.decode_from(data, 0, len(data))
    if header.magic != LOG_MAGIC:
        if data.strip(b"\0"):
            raise StorageError(f"{path} is no txn log")
        return
    last = None
    while True:
        entry = _entry(data, pos)
        if entry is None:
            break
        payload, pos = entry
        try:
            txn = Transaction.decode(payload)
        except WireError as error:
            raise StorageError(f"{path}: a txn cannot be understood: {error}") from None
        last = txn.header.zxid
        yield txn
    rest = data[pos:].rstrip(b"\0")
    if not rest:
        return
    if _sound_entry_behind(data, pos, pos + len(rest), last):
        raise StorageError(
            f"{path} is damaged at byte {pos}, and txns that may have been acknowledged are behind "
            "that; restore the file, or start from another copy of the data"
        )
    warn(f"{path} ends in a txn that was not written whole, at byte {pos}; it was not acknowledged")


def _entry(data: bytes, pos: int) -> tuple[bytes, int] | None:
    """Payload of the sound entry at `pos`, and the place behind it."""
    if len(data) - pos < _ENTRY_HEADER:
        return None
    header, start = LogEntryHeader.decode_from(data, pos, len(data))
    end = start + header.length
    if header.length < _TXN_HEADER or end >= len(data) or data[end] != END_OF_ENTRY:
        return None
    payload = data[start:end]
    return (payload, end + 1) if adler32(payload) == header.checksum else None


def _sound_entry_behind(data: bytes, pos: int, end: int, last: int | None) -> bool:
    for at in range(pos + 1, end - _ENTRY_HEADER - _TXN_HEADER):
        # The checksum is a long of 32 bits: its high half is zero.
        if data[at : at + 4] != b"\0\0\0\0":
            continue
        entry = _entry(data, at)
        if entry is None:
            continue
        header = TxnHeader.decode_from(entry[0], 0, len(entry[0]))[0]
        if last is None or last < header.zxid <= last + _NEAR_ZXIDS:
            return True
    return False
