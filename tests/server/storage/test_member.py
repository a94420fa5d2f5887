"""A member's history cut and replaced on disk: what is left, and what it costs."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from tests.server.storage.test_store import Disk
from zktrace.wire.txn import CreateSessionTxn, Transaction, TxnHeader
from zktrace_server.core.tree import DataTree
from zktrace_server.storage.directory import Directories, files
from zktrace_server.storage.member import MemberStorage
from zktrace_server.storage.readlog import content
from zktrace_server.storage.txnlog import PREALLOCATE


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def _storage(disk: Disk) -> MemberStorage:
    return MemberStorage(disk.directories, disk.log, pytest.fail, 0)


def _bytes_read() -> int:
    """By this process, of files and of all else."""
    for line in Path("/proc/self/io").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(": ")
        if name == "rchar":
            return int(value)
    raise AssertionError("no rchar")


def _old_logs(directories: Directories, count: int) -> None:
    """As so many starts leave them: each with one txn, and grown ahead."""
    path = files(directories.logs, "log")[-1][1]
    with path.open("r+b") as file:
        file.truncate(PREALLOCATE)
    for number in range(2, count + 2):
        other = directories.logs / f"log.{number:x}"
        if not other.exists():
            other.write_bytes(path.read_bytes()[:16])
            with other.open("r+b") as file:
                file.truncate(PREALLOCATE)


def test_a_snapshot_of_the_leader_costs_the_same_after_many_starts(disk: Disk) -> None:
    """Each start leaves a log of 64 MiB, nearly all of it zeros. Once they were all read, and a
    member that had been started a few times could not come back within initLimit any more.
    """
    disk.write(1)
    disk.log.roll()
    _old_logs(disk.directories, 8)
    tree = disk.world.tree
    tree.last_zxid = 0x100000010
    storage = _storage(disk)
    before = _bytes_read()
    tracemalloc.start()
    try:
        storage.replace(tree, {})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert _bytes_read() - before < 2 * PREALLOCATE
    assert peak < PREALLOCATE // 8


@pytest.mark.parametrize("files_of", [3, 40])
@pytest.mark.parametrize("snapshots", [False, True])
def test_what_is_behind_a_zxid_is_forgotten(disk: Disk, files_of: int, snapshots: bool) -> None:
    """At each txn: in the middle of a log, at the end of one, with and without a snapshot near."""
    disk.write(files_of)
    if snapshots:
        disk.snapshot()
    middle = disk.world.tree.last_zxid
    while disk.world.tree.last_zxid < middle + 12:
        disk.write(files_of % 5 + 1)
        disk.log.roll()
    storage = _storage(disk)
    for zxid in range(disk.world.tree.last_zxid - 1, middle - 1, -1):
        tree = DataTree(extended=True)
        storage.truncate(zxid, tree)
        assert tree.last_zxid == zxid
        loaded, warnings = disk.load()
        assert loaded.last_zxid == zxid
        assert loaded.tree_digest == tree.tree_digest
        assert warnings == []
        assert all(start <= zxid for start, _ in files(disk.directories.logs, "log"))


def test_nothing_comes_back_behind_a_replaced_history(disk: Disk) -> None:
    """The leader's snapshot is of before the end of a log, of one in the middle."""
    for _ in range(4):
        disk.write(5)
        disk.log.roll()
    starts = [start for start, _ in files(disk.directories.logs, "log")]
    zxid = starts[2] + 2
    tree = DataTree(extended=True)
    tree.last_zxid = zxid
    _storage(disk).replace(tree, {})
    assert [start for start, _ in files(disk.directories.logs, "log")] == starts[:3]
    loaded, warnings = disk.load()
    assert loaded.last_zxid == zxid
    assert loaded.tree_digest == tree.tree_digest
    assert warnings == []


def test_a_log_that_goes_on_behind_a_snapshot_of_the_leader(disk: Disk) -> None:
    """A whole epoch is in the snapshot alone: what the log has before it and behind it looks as if
    it were in a row. A learner that was given that lost the epoch (seed 3805 of the simulation).
    """
    disk.write(5)
    before = disk.world.tree.last_zxid
    storage = _storage(disk)
    assert [zxid for zxid, _ in storage.read_log(before - 1, 1 << 20)] == [before - 1, before]
    tree = DataTree(extended=True)
    tree.last_zxid = 0x20000000F
    storage.save_accepted_epoch(3)
    storage.save_current_epoch(3)
    storage.replace(tree, {})
    created = TxnHeader(1, 1, 0x300000001, 0, -10)
    storage.append([Transaction(created, CreateSessionTxn(4000)).encode()])
    assert storage.read_log(before, 1 << 20) == []
    # Neither does it go on from an older snapshot, and not after a start.
    assert [at for at, _ in files(disk.directories.snapshots, "snapshot")] == [0x20000000F]
    loaded, warnings = disk.load()
    assert (loaded.last_zxid, warnings) == (0x300000001, [])
    again = MemberStorage(disk.directories, disk.log, pytest.fail, loaded.last_zxid, 0x20000000F)
    assert again.read_log(before, 1 << 20) == []


@pytest.mark.parametrize("size", [0, 1, 15, 16, 1 << 18, (1 << 18) + 1, 3 << 18])
def test_content(tmp_path: Path, size: int) -> None:
    """All of a log but zeros at its end, also where there are many in the middle."""
    path = tmp_path / "log.1"
    for start in (b"", b"x" * 7, b"x" * (1 << 18)):
        for end in (b"", b"y"):
            data = start + bytes(size) + end
            path.write_bytes(data)
            got = content(path)
            assert data.startswith(got)
            assert not data[len(got) :].strip(b"\0")
            assert len(got) >= min(len(data), 16) or not data.strip(b"\0")
