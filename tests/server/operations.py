"""Random operations for the differential test: few paths, so that they meet; all opcodes; much that
is refused.

What Java does not survive is left out: a bare check on 3.8, createTTL without a TTL flag, a quota
of the root, text that is no quota in a quota's node.
"""

from __future__ import annotations

import random
from typing import Final

from zktrace.wire.codec import Record
from zktrace.wire.message import Body, encode_request
from zktrace.wire.multi import MultiOp, MultiRequest
from zktrace.wire.opcodes import BY_NAME
from zktrace.wire.records import (
    ACL,
    AddWatchRequest,
    CreateRequest,
    CreateTTLRequest,
    Empty,
    GetEphemeralsRequest,
    Id,
    PathRequest,
    PathVersionRequest,
    PathWatchRequest,
    ReconfigRequest,
    SaslToken,
    SetACLRequest,
    SetDataRequest,
    SetWatches,
    SetWatches2,
    WatchTypeRequest,
)

NUMBER: Final = {name: op.number for name, op in BY_NAME.items()}

OPEN: Final = [ACL(31, Id("world", "anyone"))]
ALICE: Final = "alice:aYXlLOpEooaV1cRAvUL1fp9Qt7E="
ACLS: Final[list[list[ACL]]] = [
    OPEN,
    OPEN,
    OPEN,
    OPEN,
    OPEN,
    [ACL(31, Id("auth", ""))],
    [ACL(31, Id("digest", ALICE))],
    [ACL(1, Id("world", "anyone")), ACL(31, Id("digest", ALICE))],
    [ACL(1, Id("world", "anyone")), ACL(1, Id("world", "anyone"))],
    [ACL(31, Id("ip", "127.0.0.1"))],
    [ACL(31, Id("ip", "127.0.0.0/8")), ACL(16, Id("auth", "x"))],
    [ACL(31, Id("ip", "10.0.0.0/8"))],
    [ACL(15, Id("world", "anyone"))],
]
BAD_ACLS: Final[list[list[ACL] | None]] = [
    [],
    None,
    [ACL(31, Id("world", "nobody"))],
    [ACL(31, Id("digest", "nocolon"))],
    [ACL(31, Id("digest", "a:b:c"))],
    [ACL(31, Id("ip", "1.2.3"))],
    [ACL(31, Id("ip", "1.2.3.4/33"))],
    [ACL(31, Id("x509", "CN=a"))],
    [ACL(31, Id("super", ""))],
    [ACL(31, Id(None, None))],
    [ACL(31, Id("world", None))],
]
BAD_PATHS: Final[list[str | None]] = [
    "",
    "foo",
    "foo/bar",
    "/a/",
    "/a//b",
    "/a/.",
    "/a/./b",
    "/a/../b",
    "/..",
    "/a\0",
    "/a\x01b",
    "/\u0085",
    "/\ue000",
    "/\ufff0",
    "/\U0001f600",
    "//",
    None,
]
OWN_PATHS: Final = ("/", "/zookeeper", "/zookeeper/config", "/zookeeper/quota")
QUOTA_PATHS: Final = (
    "/zookeeper/quota/a",
    "/zookeeper/quota/a/zookeeper_limits",
    "/zookeeper/quota/a/zookeeper_stats",
)
NAMES: Final = ("a", "b", "c", "é", "long-name-of-a-node")
#: The auth packet that proves ALICE.
SUPER_CREDENTIAL: Final = b"super:all"
SUPER_DIGEST: Final = "super:pbsMksets+qLQDMMskY3ASyYqs8="
CREDENTIALS: Final = (b"alice:secret", b"bob:builder", b"nocolon")


class Operations:
    """Requests from a seed. `old`: for a server of 3.8.

    3.8 has one mode of watch for each path and client. So there a client either sets persistent
    watches only (`persistent`; the path says which of both modes) or none at all.
    """

    def __init__(self, seed: int, *, old: bool) -> None:
        self.random = random.Random(seed)
        self.persistent = False
        self._old = old

    def _watch(self) -> bool:
        return self.random.random() < 0.5 and not (self._old and self.persistent)

    def path(self) -> str | None:
        r = self.random
        kind = r.random()
        if kind < 0.03:
            return r.choice(BAD_PATHS)
        if kind < 0.07:
            return r.choice(OWN_PATHS)
        if kind < 0.09:
            return r.choice(QUOTA_PATHS)
        return "".join(
            f"/{r.choice(NAMES[: 3 + r.randrange(3)])}" for _ in range(r.choice((1, 1, 2, 2, 3)))
        )

    def version(self) -> int:
        return self.random.choice((-1, -1, -1, -1, 0, 1, 2, -2))

    def data(self) -> bytes | None:
        r = self.random
        return r.choice((None, b"", b"x", r.randbytes(r.randrange(40)), bytes(100)))

    def acl(self) -> list[ACL] | None:
        if self.random.random() < 0.05:
            return self.random.choice(BAD_ACLS)
        acl = self.random.choice(ACLS)
        # 3.8 tells of nodes that may not be read: exists and events do not ask for the right to.
        return [*acl, ACL(1, Id("world", "anyone"))] if self._old else acl

    def create(self, *, in_multi: bool = False) -> tuple[str, Record]:
        r = self.random
        path, data, acl = self.path(), self.data(), self.acl()
        if in_multi and (acl is None or any(a.id.id is None for a in acl)):
            # Java trips over a null: 3.8 and 3.9 in different places, and promises of the multi's
            # parts before it stay until the next txn is applied.
            acl = OPEN
        if path is not None and path.startswith("/zookeeper/quota/"):
            data, acl = b"count=5,bytes=1000", OPEN
        names = ["create", "create", "create2", "createContainer", "createTTL"]
        if in_multi and self._old:
            names.remove("create2")  # 3.8 answers it as create, and cannot read it in a log
        name = r.choice(names)
        if name == "createTTL":
            ttl = r.choice((1, 600_000, (1 << 40) - 1, 1 << 40, 0, -5))
            return name, CreateTTLRequest(path, data, acl, r.choice((5, 6)), ttl)
        flags = 4 if name == "createContainer" else r.choice((0, 0, 0, 1, 1, 2, 3, 3))
        if in_multi and r.random() < 0.05:
            # Alone, create with this flag makes a plain node, and Java logs the digest of another.
            flags = 4
        if r.random() < 0.03 and not (in_multi and self._old):
            flags = r.choice((5, 6, 7, -1, 100))
        return name, CreateRequest(path, data, acl, flags)

    def set_data(self) -> SetDataRequest:
        path, data = self.path(), self.data()
        if path is not None and path.startswith("/zookeeper/quota/"):
            data = b"count=1,bytes=2"
        return SetDataRequest(path, data, self.version())

    def multi(self) -> MultiRequest:
        r = self.random
        ops = []
        for _ in range(r.randrange(5)):
            kind = r.choice(("create", "create", "setData", "delete", "check"))
            if kind == "create":
                name, body = self.create(in_multi=True)
            else:
                name, body = kind, self._versioned(kind)
            if self._old and getattr(body, "path", None) is None:
                continue  # 3.8 uses up no zxid for it, 3.9 does
            ops.append(MultiOp(NUMBER[name], body))
        return MultiRequest(ops)

    def _versioned(self, kind: str) -> Record:
        if kind == "setData":
            return self.set_data()
        return PathVersionRequest(self.path(), self.version())

    def multi_read(self) -> MultiRequest:
        r = self.random
        return MultiRequest(
            [
                # A null path gets an error with a body from Java, from ours one without.
                MultiOp(r.choice((4, 8)), PathWatchRequest(self.path() or "/", r.random() < 0.5))
                for _ in range(r.randrange(4))
            ]
        )

    def paths(self) -> list[str | None]:
        return [self._echoed() or "/a" for _ in range(self.random.randrange(3))]

    def _echoed(self) -> str | None:
        """A path that comes back as it was sent: Java writes a character beyond the Basic
        Multilingual Plane as two surrogates, each encoded for itself, which is no UTF-8.
        """
        path = self.path()
        return "/a" if path is not None and max(path, default="") > "\uffff" else path

    def watches(self) -> tuple[str, Record]:
        r = self.random
        zxid = r.choice((0, 0, 5, 50, 1 << 40))
        if self._old and self.persistent:
            modes: tuple[list[str | None], list[str | None]] = ([], [])
            for path in self.paths():
                modes[_mode(path)].append(path)
            return "setWatches2", SetWatches2(zxid, [], [], [], *modes)
        if self._old or r.random() < 0.5:
            return "setWatches", SetWatches(zxid, self.paths(), self.paths(), self.paths())
        return "setWatches2", SetWatches2(
            zxid, self.paths(), self.paths(), self.paths(), self.paths(), self.paths()
        )

    def watch_type(self) -> int:
        if self._old:
            return self.random.choice((3, 0, 9) if self.persistent else (1, 2, 3, 0, 9))
        return self.random.choice((1, 2, 3, 4, 5, 0, 9))

    def one(self) -> tuple[str, Body]:
        """A request's name and body."""
        r = self.random
        kind = r.randrange(100)
        if kind < 24:
            return self.create()
        if kind < 34:
            return "setData", self.set_data()
        if kind < 44:
            return "delete", PathVersionRequest(self.path(), self.version())
        if kind < 54:
            return "multi", self.multi()
        if kind < 72:
            name = r.choice(("exists", "getData", "getChildren", "getChildren2"))
            return name, PathWatchRequest(self.path(), self._watch())
        return self._seldom(kind)

    def _seldom(self, kind: int) -> tuple[str, Body]:
        r = self.random
        if kind < 75:
            return "setACL", SetACLRequest(self.path(), self.acl(), self.version())
        if kind < 78:
            return "getACL", PathRequest(self.path())
        if kind < 80:
            return "multiRead", self.multi_read()
        if kind < 84:
            path = self.path() or "/"
            mode = r.choice((0, 0, 1, 1, 2, -1))
            if self._old:
                mode = _mode(path) if self.persistent else -1
            return "addWatch", AddWatchRequest(path, mode)
        if kind < 87 and not self._old:  # 3.8 takes a watch of a parent for one, too
            return "checkWatches", WatchTypeRequest(self.path(), self.watch_type())
        if kind < 90:
            return "removeWatches", WatchTypeRequest(self.path(), self.watch_type())
        if kind < 92:
            return self.watches()
        if kind < 94:
            return "getEphemerals", GetEphemeralsRequest(
                r.choice((None, "", " ", "/", "/a", "/b/"))
            )
        if kind < 96:
            return "getAllChildrenNumber", PathRequest(self.path())
        if kind < 97:
            return "whoAmI", Empty()
        if kind < 98:
            return "sync", PathRequest(self._echoed())
        if kind < 99:
            return "ping", Empty()
        return "reconfig", ReconfigRequest("server.1=a:1:2", None, None, -1)

    def payload(self, xid: int, name: str, body: Body) -> bytes:
        """The request; now and then cut short, or with bytes too many."""
        payload = encode_request(xid, NUMBER[name], body)
        kind = self.random.random()
        # 3.8 uses up a zxid for a write that it cannot read, 3.9 does not.
        whole = BY_NAME[name].effect == "w" if self._old else name == "multi"
        if kind < 0.01 and len(payload) > 9 and not whole and name not in ("ping", "whoAmI"):
            return payload[: self.random.randrange(8, len(payload))]
        if kind < 0.02 and name != "createTTL":
            return payload + b"\1\2\3"
        return payload


def _mode(path: str | None) -> int:
    return len(path or "") % 2


def sasl() -> SaslToken:
    """What a client without a login would not send."""
    return SaslToken(b"token")
