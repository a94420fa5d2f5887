"""What is on disk comes back; what is damaged is told from what is lost."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from tests.server.core.harness import OPEN, World
from zktrace.wire.records import CreateRequest
from zktrace_server.core.tree import DataTree
from zktrace_server.storage import snapshots, store
from zktrace_server.storage.directory import Directories, StorageError, files
from zktrace_server.storage.snapshots import SnapshotWriter
from zktrace_server.storage.txnlog import TxnLog


class Disk:
    """A data directory and the world whose txns are in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names = 0
        self.directories = Directories(path, path)
        self.world = World()
        self.log = TxnLog(self.directories.logs, preallocate=1 << 16)
        store.save(self.directories, self.world.tree, {})
        self.client = self.world.client()
        self.sync()

    def sync(self) -> None:
        self.log.append(self.world.server.take_log())

    def write(self, count: int, *, batch: bool = False) -> None:
        """So many nodes, each txn synced for itself or all together."""
        for i in range(count):
            self.names += 1
            self.client.create(f"/{self.names}", bytes([i]) * i, flags=i % 3 == 0)
            if not batch:
                self.sync()
        self.sync()

    def snapshot(self) -> Path:
        self.log.roll()
        return store.save(self.directories, self.world.tree, self.world.server.sessions.timeouts())

    def logs(self) -> list[Path]:
        return [path for _, path in files(self.directories.logs, "log")]

    def load(self) -> tuple[DataTree, list[str]]:
        tree = DataTree(extended=True)
        warnings: list[str] = []
        self.loaded = store.load(self.directories, tree, warnings.append)
        return tree, warnings

    def same(self, tree: DataTree) -> bool:
        own = self.world.tree
        return (
            tree.tree_digest == own.tree_digest
            and tree.last_zxid == own.last_zxid
            and tree.nodes.keys() == own.nodes.keys()
            and tree.ephemerals == own.ephemerals
            and self.loaded.timeouts == self.world.server.sessions.timeouts()
        )


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def test_the_log_brings_everything_back(disk: Disk) -> None:
    disk.write(20)
    disk.log.roll()
    disk.write(20, batch=True)
    tree, warnings = disk.load()
    assert disk.same(tree)
    assert warnings == []
    assert len(disk.logs()) == 2


def test_a_snapshot_and_the_log_behind_it(disk: Disk) -> None:
    disk.write(10)
    disk.snapshot()
    disk.write(10)
    tree, warnings = disk.load()
    assert disk.same(tree)
    assert warnings == []
    assert disk.loaded.replayed == 10


def test_a_snapshot_of_a_tree_that_changes(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes come and go, and change their ACLs, between the pieces."""
    monkeypatch.setattr("zktrace_server.core.snapshot.NODES_PER_PIECE", 3)
    disk.write(30)
    disk.log.roll()
    timeouts = disk.world.server.sessions.timeouts()
    writer = SnapshotWriter(disk.directories.snapshots, disk.world.tree, timeouts)
    step = 0
    while writer.step():
        step += 1
        disk.write(1)
        names = disk.client.children("/")
        if step % 2:
            disk.client.delete(f"/{names[-2]}")
            disk.client.delete(f"/{names[1]}")
            disk.client.create(f"/{names[1]}", b"again", acl=[*OPEN, *OPEN])
        disk.sync()
    writer.finish()
    for _, path in files(disk.directories.snapshots, "snapshot")[:-1]:
        path.unlink()
    tree, warnings = disk.load()
    assert disk.same(tree)
    assert warnings == []
    assert step > 10
    for name, node in tree.nodes.items():
        assert tree.acl(node) == disk.world.tree.acl(disk.world.tree.nodes[name])


def test_a_log_cut_anywhere_in_its_last_txn(disk: Disk) -> None:
    disk.write(5)
    whole = disk.logs()[0].read_bytes()
    before = disk.world.tree.last_zxid
    end = disk.log.position
    disk.write(1)
    last_end = disk.log.position
    assert whole[end:].strip(b"\0") == b""
    data = disk.logs()[0].read_bytes()
    for cut in range(end + 1, last_end):
        disk.logs()[0].write_bytes(data[:cut] + bytes(100))
        tree, warnings = disk.load()
        assert tree.last_zxid == before
        # Zeros of a checksum that were written look like the end, and are as good as one.
        assert len(warnings) == 1 or data[end:cut].strip(b"\0") == b""


def test_a_flipped_bit_before_sound_txns_is_no_start(disk: Disk) -> None:
    disk.write(6)
    path = disk.logs()[0]
    data = path.read_bytes()
    for at in range(16, disk.log.position // 2, 7):
        damaged = bytearray(data)
        damaged[at] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(StorageError, match="damaged at byte"):
            disk.load()


def test_a_torn_log_before_a_whole_one(disk: Disk) -> None:
    """So a crash leaves them: the next start begins a new file."""
    disk.write(3)
    torn = disk.logs()[0]
    end = disk.log.position
    disk.log.roll()
    disk.write(3)
    torn.write_bytes(torn.read_bytes()[:end] + b"\0\0\0\0\x12\x34")
    tree, warnings = disk.load()
    assert disk.same(tree)
    assert len(warnings) == 1


def test_missing_txns_are_no_start(disk: Disk) -> None:
    for _ in range(3):
        disk.write(3)
        disk.log.roll()
    disk.logs()[1].unlink()
    with pytest.raises(StorageError, match=r"behind 0x4 and before 0x8 are missing"):
        disk.load()


def test_a_log_without_a_snapshot_is_no_start(disk: Disk) -> None:
    disk.write(3)
    for path in (disk.path / "version-2").glob("snapshot.*"):
        path.unlink()
    with pytest.raises(StorageError, match="no snapshot"):
        disk.load()
    tree = DataTree(extended=True)
    store.load(disk.directories, tree, pytest.fail, trust_empty_snapshot=True)
    assert tree.tree_digest == disk.world.tree.tree_digest


def test_a_damaged_snapshot_is_passed_over(disk: Disk) -> None:
    disk.write(5)
    newest = disk.snapshot()
    disk.write(5)
    data = newest.read_bytes()
    for damaged in (data[:-1], data[:100], b"", data[:60] + b"\xff" + data[61:]):
        newest.write_bytes(damaged)
        tree, warnings = disk.load()
        assert disk.same(tree)
        assert len(warnings) == 1
    for path in (disk.path / "version-2").glob("snapshot.*"):
        path.write_bytes(b"ZKSN")
    with pytest.raises(StorageError, match="none of the 2 snapshots"):
        disk.load()


def test_a_snapshot_compressed_by_java(disk: Disk) -> None:
    disk.write(5)
    newest = disk.snapshot()
    Path(f"{newest}.gz").write_bytes(gzip.compress(newest.read_bytes()))
    newest.unlink()
    tree, warnings = disk.load()
    assert disk.same(tree)
    assert (warnings, disk.loaded.replayed) == ([], 0)


def test_an_unfinished_snapshot_is_none(disk: Disk) -> None:
    disk.write(5)
    writer = SnapshotWriter(disk.directories.snapshots, disk.world.tree, {})
    assert writer.step()
    assert len(files(disk.directories.snapshots, "snapshot")) == 1
    tree, _ = disk.load()
    assert disk.same(tree)
    writer.abandon()
    assert list((disk.path / "version-2").glob("unfinished*")) == []


def test_purging_keeps_what_the_oldest_kept_snapshot_needs(disk: Disk) -> None:
    for _ in range(5):
        disk.write(4)
        disk.snapshot()
        disk.write(1)
    gone = store.purge(disk.directories, 3)
    assert len(files(disk.directories.snapshots, "snapshot")) == 3
    assert gone
    for _, path in files(disk.directories.snapshots, "snapshot")[1:]:
        path.write_bytes(b"")
    tree, _ = disk.load()
    assert disk.same(tree)


def test_a_directory_is_held_by_one(disk: Disk, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="in use by another server"):
        Directories(tmp_path, tmp_path)
    disk.directories.release()
    Directories(tmp_path, tmp_path).release()


def test_directories_changed_round_are_refused(tmp_path: Path) -> None:
    data, logs = tmp_path / "data", tmp_path / "logs"
    directories = Directories(data, logs)
    (directories.logs / "snapshot.5").write_bytes(b"")
    directories.release()
    with pytest.raises(StorageError, match="dataLogDir"):
        Directories(data, logs)


def test_a_full_disk_says_so(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int, data: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("zktrace_server.storage.txnlog.os.write", full)
    disk.client.ask("create", CreateRequest("/lost", b"", OPEN, 0))
    with pytest.raises(StorageError, match="No space left on device"):
        disk.sync()


def test_what_reads_as_another_node_is_no_snapshot(disk: Disk) -> None:
    """A node whose parent does not come before it."""
    disk.write(2)
    path = disk.snapshot()
    assert snapshots.load_newest(disk.directories.snapshots, DataTree(True), pytest.fail)
    data = path.read_bytes().replace(
        b"\x00\x00\x00\x0a/zookeeper\x00", b"\x00\x00\x00\x0a/zook/eper\x00"
    )
    path.write_bytes(data)
    tree, warnings = disk.load()
    assert disk.same(tree)
    assert len(warnings) == 1
