"""Files of a data directory: txn logs (FileTxnLog) and snapshots (FileSnap), as bytes.

Opening them, and unpacking .gz or .snappy, is for others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from zlib import adler32

from zktrace.wire.codec import Record, record
from zktrace.wire.jute import Int, Long, WireError
from zktrace.wire.snapshot import LastZxid, Snapshot, SnapshotSeal, ZxidDigest
from zktrace.wire.txn import Transaction

LOG_MAGIC: Final = 0x5A4B4C47  # "ZKLG"
SNAPSHOT_MAGIC: Final = 0x5A4B534E  # "ZKSN"
VERSION: Final = 2
LOG_DBID: Final = 0
SNAPSHOT_DBID: Final = -1

# Ends each entry of a log; where it is missing the entry was not written to its end.
END_OF_ENTRY: Final = 0x42


@record
class FileHeader(Record):
    """First 16 bytes of both kinds."""

    magic: Int
    version: Int
    dbid: Long


@record
class LogEntryHeader(Record):
    """Before each txn: Adler-32 of its bytes, and their number; length 0 ends the log."""

    checksum: Long
    length: Int


def encode_entry(data: bytes) -> bytes:
    """A log entry around the bytes of a txn."""
    return LogEntryHeader(adler32(data), len(data)).encode() + data + bytes((END_OF_ENTRY,))


def read_log(data: bytes) -> Iterator[Transaction]:
    """Txns of a log file, up to the zero padding or the end. WireError where it is damaged."""
    header, pos = FileHeader.decode_from(data, 0, len(data))
    if header.magic != LOG_MAGIC:
        raise WireError("not a txn log", 0, "FileHeader.magic")
    end = len(data)
    while pos < end:
        at = pos
        entry, pos = LogEntryHeader.decode_from(data, pos, end)
        if entry.length == 0:
            return
        if entry.length < 0 or entry.length >= end - pos:
            raise WireError("the entry is cut off", at, "LogEntryHeader.length")
        payload = data[pos : pos + entry.length]
        pos += entry.length
        if adler32(payload) != entry.checksum:
            raise WireError("wrong checksum", at, "LogEntryHeader.checksum")
        if data[pos] != END_OF_ENTRY:
            raise WireError("the entry has no end mark", pos, "LogEntryHeader")
        pos += 1
        yield Transaction.decode(payload)


@dataclass(slots=True)
class SnapshotFile:
    """A snapshot file; digest and last zxid are None where an older server wrote it."""

    snapshot: Snapshot
    digest: ZxidDigest | None = None
    last_zxid: int | None = None

    def encode(self) -> bytes:
        """Adler-32 runs over all of the file before the seal (CheckedOutputStream)."""
        out = bytearray(FileHeader(SNAPSHOT_MAGIC, VERSION, SNAPSHOT_DBID).encode())
        out += self.snapshot.encode(signature=False)
        _seal(out)
        if self.digest is not None:
            out += self.digest.encode()
            _seal(out)
            if self.last_zxid is not None:
                out += LastZxid(self.last_zxid).encode()
                _seal(out)
        return bytes(out)

    @classmethod
    def decode(cls, data: bytes) -> SnapshotFile:
        end = len(data)
        header, pos = FileHeader.decode_from(data, 0, end)
        if header.magic != SNAPSHOT_MAGIC:
            raise WireError("not a snapshot", 0, "FileHeader.magic")
        snapshot, pos = Snapshot.decode_from(data, pos, end, signature=False)
        file = cls(snapshot)
        pos = _check_seal(data, pos)
        if pos < end:
            file.digest, pos = ZxidDigest.decode_from(data, pos, end)
            pos = _check_seal(data, pos)
        if pos < end:
            last, pos = LastZxid.decode_from(data, pos, end)
            file.last_zxid = last.zxid
            pos = _check_seal(data, pos)
        if pos != end:
            raise WireError(f"{end - pos} bytes left over", pos, "SnapshotFile")
        return file


def _seal(out: bytearray) -> None:
    out += SnapshotSeal(adler32(out), "/").encode()


def _check_seal(data: bytes, pos: int) -> int:
    seal, after = SnapshotSeal.decode_from(data, pos, len(data))
    if seal.mark != "/" or seal.checksum != adler32(data[:pos]):
        raise WireError("wrong checksum", pos, "SnapshotSeal")
    return after
