"""The tree as it was when the recording began, out of a snapshot file of ZooKeeper's.

What the recording's own replies show is newer than the snapshot, so it wins: data that reads
showed before it was changed, nodes that were not there any more. In memory, as large as the file.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

from zktrace.wire.files import SnapshotFile
from zktrace.wire.jute import WireError
from zktrace.wire.snapshot import OPEN_ACL
from zktrace_proxy.replay.effects import parent
from zktrace_proxy.replay.start import OWN, Node, StartState, is_session

_NAME = "snapshot."


class BaseError(Exception):
    """It cannot be used; one line that says why."""


@dataclass(slots=True)
class Base:
    """A snapshot's nodes, parents first, without the server's own. `zxid`: all writes up to this
    one are in it, and some later ones may be (snapshots are written while the tree changes); 0:
    the file's name does not say.
    """

    nodes: list[Node]
    zxid: int


def read(path: Path) -> Base:
    """A snapshot file, as it lies in a server's data directory (plain or gzip), or the newest one
    of a directory.

    :raises BaseError: it cannot be read, or is none.
    """
    if path.is_dir():
        found = sorted(path.glob(_NAME + "*"), key=_zxid)
        if not found:
            raise BaseError(f"{path}: there is no snapshot in it (version-2 has them)")
        path = found[-1]
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        file = SnapshotFile.decode(data)
    except OSError as error:
        raise BaseError(f"{path}: {error.strerror or error}") from None
    except (WireError, EOFError) as error:
        raise BaseError(f"{path}: no snapshot of ZooKeeper's: {error}") from None
    acls = {entry.id: entry.acl for entry in file.snapshot.head.acls or ()}
    nodes = []
    for name, stored in file.snapshot.nodes:
        if not name or name == OWN or name.startswith(OWN + "/"):
            continue
        owner = stored.stat.ephemeral_owner
        node = Node(name, stored.data or b"", len(stored.data or b""))
        node.owner = owner if is_session(owner) else 0
        if stored.acl != OPEN_ACL:
            node.acl = acls.get(stored.acl)
        nodes.append(node)
    return Base(nodes, file.last_zxid or _zxid(path))


def _zxid(path: Path) -> int:
    text = path.name.removeprefix(_NAME).partition(".")[0]
    try:
        return int(text, 16)
    except ValueError:
        return 0


def join(start: StartState, base: Base) -> int:
    """Gives what replies tell of the start the rest of the tree. How many nodes the replies show
    that the snapshot does not have.
    """
    told, start.nodes = start.nodes, {}
    gone: set[str] = set()
    for node in base.nodes:
        shown = told.pop(node.path, None)
        if shown is None and (start.was_absent(node.path) or parent(node.path) in gone):
            gone.add(node.path)
            continue
        if shown is not None:
            shown.acl = node.acl
            if shown.data is None and shown.length in (0, node.length):
                shown.data, shown.length = node.data, node.length
        start.nodes[node.path] = shown or node
    start.nodes.update(told)
    return len(told)
