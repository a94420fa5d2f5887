"""Java's server and ours do the same, and each goes on with what the other has written."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server import differential
from tests.server.operations import SUPER_CREDENTIAL, SUPER_DIGEST
from tests.server.ourzk import OurServer
from tests.server.rawclient import RawClient
from tests.support import javazk
from tests.support.javazk import JavaServer, need_java
from zktrace.wire.message import decode_reply, encode_request
from zktrace.wire.opcodes import AUTH_XID
from zktrace.wire.records import AuthPacket, PathRequest, PathWatchRequest
from zktrace_server.core.tree import DataTree
from zktrace_server.storage import store
from zktrace_server.storage.directory import Directories

#: Some 8,000 operations; `make differential` does more.
SEEDS = range(1, 5)
STEPS = 1000
CONFIG = {"DigestAuthenticationProvider.superDigest": SUPER_DIGEST}

Both = tuple[JavaServer, OurServer]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Both:
    """Both servers, ended, with the data of the same operations. A difference is an error here."""
    need_java()
    _, java, our = differential.run(SEEDS, STEPS, tmp_path_factory.mktemp("differential"))
    return java, our


def read_from_disk(data: Path) -> tuple[DataTree, list[str]]:
    """The tree in a data directory, and what our server would warn about."""
    tree = DataTree(extended=True)
    warnings: list[str] = []
    directories = Directories(data, data)
    try:
        store.load(directories, tree, warnings.append)
    finally:
        directories.release()
    return tree, warnings


def plain(tree: DataTree) -> dict[str, object]:
    """All of a tree but times and session ids."""
    nodes: dict[str, object] = {}
    for path, node in tree.nodes.items():
        stat = node.persisted()
        stat.ctime = stat.mtime = 0
        stat.ephemeral_owner = bool(stat.ephemeral_owner)
        acl = sorted(map(repr, tree.acl(node)))
        nodes[path] = (node.data, acl, stat, sorted(node.child_names()))
    return nodes


def walk(address: tuple[str, int]) -> dict[str, Any]:
    """The whole tree as a server tells it to the superuser."""
    client = RawClient(address)
    assert client.connect() is not None
    client.send(encode_request(AUTH_XID, 100, AuthPacket(0, "digest", SUPER_CREDENTIAL)))
    client.replies(1)
    told: dict[str, Any] = {}
    below = ["/"]
    for path in below:
        read = PathWatchRequest(path, False)
        client.send(
            encode_request(1, 12, read),
            encode_request(2, 4, read),
            encode_request(3, 6, PathRequest(path)),
        )
        payloads = client.replies(3)
        bodies: list[Any] = [
            decode_reply(kind, p)[1] for kind, p in zip((12, 4, 6), payloads, strict=True)
        ]
        names = sorted(bodies[0].children)
        below += [f"{path.rstrip('/')}/{name}" for name in names]
        told[path] = (names, bodies[0].stat, bodies[1].data, bodies[2].acl)
    client.close()
    return told


def test_every_reply_is_the_same(compared: Both) -> None:
    assert compared[1].zxid == 0


def test_ours_reads_what_java_wrote(compared: Both) -> None:
    """Snapshot and log; no warning means, too, that the digest in each txn is our tree's."""
    theirs, warnings = read_from_disk(compared[0].data)
    own, more = read_from_disk(compared[1].data)
    assert warnings == more == []
    assert plain(theirs) == plain(own)
    assert len(own.nodes) > 10


@pytest.fixture
def java_on_ours(compared: Both, tmp_path: Path) -> Iterator[JavaServer]:
    """Java's server, started on a copy of our data."""
    server = JavaServer(tmp_path / "java", javazk.free_ports(1)[0], CONFIG)
    shutil.copytree(compared[1].data, server.data, dirs_exist_ok=True)
    server.start()
    try:
        server.wait()
        yield server
    finally:
        server.stop()


def test_java_reads_what_ours_wrote(
    compared: Both, java_on_ours: JavaServer, tmp_path: Path
) -> None:
    again = OurServer(tmp_path / "ours", CONFIG)
    shutil.copytree(compared[1].data, again.data)
    again.start()
    try:
        assert walk(java_on_ours.address) == walk(again.address)
    finally:
        again.stop()
    log = java_on_ours.log.read_text()
    assert "Digests are not matching" not in log


@pytest.mark.parametrize(
    ("tool", "kind"),
    [("persistence.TxnLogToolkit", "log"), ("SnapshotFormatter", "snapshot")],
)
def test_javas_tools_accept_our_files(compared: Both, tool: str, kind: str) -> None:
    for path in (compared[1].data / "version-2").glob(f"{kind}.*"):
        done = subprocess.run(
            [
                "java",
                *javazk.SMALL,
                "-cp",
                ":".join(map(str, javazk.CLASSPATH)),
                f"org.apache.zookeeper.server.{tool}",
                str(path),
            ],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert "CRC" not in done.stdout
