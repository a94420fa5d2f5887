"""What a request does to the tree, as far as order matters: which nodes it reads, which it writes.

Two exchanges whose order changes a result or a watch event share a key that at least one of them
writes. Keys are texts: ``n/a/b`` is the node (its existence, data, ACL, versions), ``c/a/b`` its
list of children, with their count, cversion and pzxid, which a Stat shows as well. An operation
that failed changes nothing, but its error tells of what it read. Children that come and go under
names of their own change their parent's list and its counters in any order alike, but for its pzxid
(DataTree.createNode, deleteNode), which is that of the last one: such keys are `adds` as well. A
sequential node's name is of its parent's cversion, so it is none. What looks at a whole subtree is
*wide*: its order to all writes matters. Pure functions of the bytes; a body that does not fit its
layout is wide as well, since nothing is known of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from zktrace.wire import opcodes
from zktrace.wire.codec import Record
from zktrace.wire.jute import WireError
from zktrace.wire.message import decode_body
from zktrace.wire.multi import MultiRequest, MultiResponse
from zktrace.wire.records import Stat
from zktrace_proxy.messages.exchanges import Exchange

NO_NODE, NODE_EXISTS, NOT_EMPTY, NO_AUTH = -101, -110, -111, -102
SEQUENTIAL: Final = 2
EPHEMERAL_FLAGS: Final = (1, 3)
SEQUENTIAL_FLAGS: Final = (2, 3, 6)
#: A name that a server made: the parent's cversion in ten digits (PrepRequestProcessor).
SUFFIX: Final = 10

_CREATES: Final = ("create", "create2", "createContainer", "createTTL", "createIfNotExists")
DELETES: Final = ("delete", "deleteContainer", "tryRemove")
_STATS: Final = ("exists", "getData", "getChildren2", "getACL", "setData", "setACL")
_WIDE: Final = (
    *("getEphemerals", "getAllChildrenNumber", "setWatches", "setWatches2", "reconfig"),
    *("removeRecursive", "listRecursive", "filteredList", "filteredListWithStatsAndData"),
)


@dataclass(slots=True)
class Made:
    """A node that a request made: under which name it was asked for, and which it got."""

    asked: str
    path: str
    sequential: bool
    ephemeral: bool


@dataclass(slots=True)
class Effects:
    """Of one exchange."""

    reads: set[str] = field(default_factory=set)
    writes: set[str] = field(default_factory=set)
    #: of those: lists that a child was added to or taken from; and those changed in other ways, too
    adds: set[str] = field(default_factory=set)
    alone: set[str] = field(default_factory=set)
    wide: bool = False
    made: list[Made] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    #: what replies showed: path, and its Stat, data or list of children where known
    seen: list[tuple[str, Stat | None, bytes | None, list[str] | None]] = field(
        default_factory=list
    )
    #: paths that were not there
    absent: list[str] = field(default_factory=list)
    #: bodies, where they fit their layouts
    request: Any = None
    reply: Any = None


def parent(path: str) -> str:
    """The path above."""
    return path.rpartition("/")[0] or "/"


def created(flags: int, asked: str, path: str) -> Made:
    """What a create with these flags made of the name asked for."""
    kind = flags & 0x7F
    sequential = path != asked and kind in SEQUENTIAL_FLAGS
    return Made(asked, path, sequential, kind in EPHEMERAL_FLAGS)


def effects(exchange: Exchange) -> Effects:
    """The effects of an exchange, by its reply where there is one; without, as if it succeeded."""
    op = opcodes.BY_NUMBER.get(exchange.opcode)
    found = Effects()
    if op is None:
        found.wide = exchange.opcode > 0
        return found
    try:
        body = decode_body(exchange.opcode, "request", exchange.request[8:])
        reply = None
        if exchange.error == 0 and exchange.reply is not None and exchange.reply_whole:
            reply = decode_body(exchange.opcode, "reply", exchange.reply[16:])
    except WireError:
        found.wide = True
        return found
    found.request, found.reply = body, reply
    if isinstance(body, MultiRequest):
        _multi(found, body, reply if isinstance(reply, MultiResponse) else None, exchange.error)
    else:
        _one(found, op.name, body, reply, exchange.error)
    return found


def _multi(
    found: Effects, body: MultiRequest, reply: MultiResponse | None, error: int | None
) -> None:
    results = reply.results if reply is not None else []
    failed = bool(error) or any(result.err for result in results)
    for number, op in enumerate(body.ops):
        name = opcodes.op_name(op.type)
        result = results[number] if number < len(results) else None
        own: int | None = None if result is None else result.err
        if opcodes.BY_NUMBER[op.type].effect == "r":
            _one(found, name, op.body, result.body if result else None, own)
        elif failed:
            # all or nothing: those that would have succeeded did nothing, and tell nothing
            _one(found, name, op.body, None, own or -2)
        else:
            _one(found, name, op.body, result.body if result else None, own)


def _one(found: Effects, name: str, body: Any, reply: Any, error: int | None) -> None:
    path = getattr(body, "path", None)
    if name in _WIDE:
        found.wide = True
    if not isinstance(path, str) or not path.startswith("/"):
        return
    failed = bool(error)
    if name in _CREATES:
        _create(found, body, path, reply, error)
    elif name in DELETES:
        _delete(found, path, error)
    elif name in ("setData", "setACL"):
        (found.reads if failed else found.writes).add("n" + path)
        found.reads.add("c" + path)  # its Stat counts children
        _exists(found, path, error, reply)
    elif name == "sync" or name == "whoAmI":
        return
    else:
        found.reads.add("n" + path)
        found.reads.add("c" + path)
        if name == "addWatch" and getattr(body, "mode", 0) != 0:
            found.wide = True
        if name in ("exists", "getData", "getACL", "getChildren", "getChildren2", "check"):
            _exists(found, path, error, reply)


def _exists(found: Effects, path: str, error: int | None, reply: Any) -> None:
    if error == NO_NODE:
        found.absent.append(path)
    elif error in (0, -103, NO_AUTH):
        children = getattr(reply, "children", None)
        found.seen.append((path, getattr(reply, "stat", None), getattr(reply, "data", None),
                           children))  # fmt: skip


def _create(found: Effects, body: Any, path: str, reply: Any, error: int | None) -> None:
    above = parent(path)
    if error:
        found.reads.update(("n" + path, "n" + above))
        if error == NODE_EXISTS:
            found.seen.append((path, None, None, None))
        elif error == NO_NODE:
            found.absent.append(above)
        else:
            found.reads.add("c" + above)
        return
    got = getattr(reply, "created_path", None) or path
    flags = body.flags
    made = created(flags, path, got)
    found.made.append(made)
    found.writes.update(("n" + got, "c" + got, "c" + parent(got)))
    found.alone.add("c" + got)
    (found.alone if flags & 0x7F in SEQUENTIAL_FLAGS else found.adds).add("c" + parent(got))
    found.reads.add("n" + parent(got))


def _delete(found: Effects, path: str, error: int | None) -> None:
    if error:
        found.reads.update(("n" + path, "c" + path, "n" + parent(path)))
        if error == NO_NODE:
            found.absent.append(path)
        elif error in (-103, NOT_EMPTY):
            found.seen.append((path, None, None, None))
        return
    found.removed.append(path)
    found.reads.add("n" + parent(path))
    found.writes.update(("n" + path, "c" + path, "c" + parent(path)))
    found.alone.add("c" + path)
    found.adds.add("c" + parent(path))


def paths_of(body: Record | MultiRequest | Any) -> list[str]:
    """All paths in a request."""
    if isinstance(body, MultiRequest):
        return [path for op in body.ops for path in paths_of(op.body)]
    path = getattr(body, "path", None)
    found = [path] if isinstance(path, str) else []
    for name in _PATH_LISTS:
        found += [one for one in getattr(body, name, None) or () if one]
    return found


_PATH_LISTS: Final = (
    *("data_watches", "exist_watches", "child_watches"),
    *("persistent_watches", "persistent_recursive_watches"),
)
