"""Java's server and ours, given the same operations: every reply, Stat, event and their order.

    python -m tests.server.differential --seeds 1-100 --steps 1000

Both begin empty and use the same zxids, so those are compared as they are. Not compared: times
(only that there is one) and session ids (replaced by the session's number). What Java keeps in hash
tables has no order: children, ephemerals, ACLs made of "auth", a client's ids, and the events
of one zxid.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Final

from tests.server.operations import (
    CREDENTIALS,
    NUMBER,
    SUPER_CREDENTIAL,
    SUPER_DIGEST,
    Operations,
    sasl,
)
from tests.server.ourzk import OurServer, ours
from tests.server.rawclient import RawClient
from tests.support.javazk import JavaServer, standalone
from zktrace.wire.jute import WireError
from zktrace.wire.message import decode_reply, encode_request
from zktrace.wire.opcodes import AUTH_XID, PING_XID, SET_WATCHES_XID, WATCH_XID
from zktrace.wire.records import (
    AuthPacket,
    PathVersionRequest,
    PathWatchRequest,
    ReplyHeader,
    WatcherEvent,
)

#: Clients at a time.
CLIENTS: Final = 3
#: Requests that are sent together, at most.
PIPELINE: Final = 6

#: No session expires while the test runs.
_SESSION_MS: Final = 3_600_000
#: No node is reaped while it runs: what a server does when it is time for it would come at another
#: time from the other. In zoo.cfg this would do nothing to Java.
_PROPERTIES: Final = {"znode.container.checkIntervalMs": "86400000"}
_OWN: Final = ("/zookeeper", "/zookeeper/config", "/zookeeper/quota")

_TIMES: Final = ("ctime", "mtime")
_UNORDERED: Final = ("children", "acl", "client_info")


class Differ(AssertionError):
    """The two servers do not do the same."""


class Side:
    """One of the servers and its clients. `old`: what 3.8 does otherwise is levelled."""

    def __init__(self, address: tuple[str, int], *, old: bool) -> None:
        self._address = address
        self._old = old
        self._sessions: dict[int, str] = {}
        self.clients: list[RawClient] = []
        self.xids = [0] * CLIENTS

    def open(self, index: int, **how: Any) -> object:
        """A new connection in place of a client's; what the server says to it."""
        client = RawClient(self._address)
        response = client.connect(timeout_ms=_SESSION_MS, **how)
        if index < len(self.clients):
            self.clients[index].close()
            self.clients[index] = client
        else:
            self.clients.append(client)
        if response is None:
            return "closed"
        if response.session_id:
            self._sessions.setdefault(response.session_id, f"session {len(self._sessions)}")
        return self._plain(response, ("password",))

    def again(self, index: int, *, password: bool, last_zxid: int) -> object:
        """A client comes back to its session."""
        client = self.clients[index]
        return self.open(
            index,
            session_id=client.session_id,
            password=client.password if password else b"x" * 16,
            last_zxid=last_zxid,
        )

    def ask(self, index: int, names: Sequence[str], payloads: Sequence[bytes]) -> list[object]:
        """Sends requests together; what comes back, and what it does to the other clients."""
        client = self.clients[index]
        client.send(*payloads)
        told = self._read(client.replies(len(payloads)), names)
        if client.ended or names[-1] in ("closeSession", "unknown"):
            told.append("closed" if client.frame() is None else "still open")
        for other in self.clients:
            if not other.ended and other is not client:
                told.append(self._read(other.events(), ()))
        return told

    def _read(self, payloads: Sequence[bytes], names: Sequence[str]) -> list[object]:
        told: list[object] = []
        events: list[tuple[object, ...]] = []
        left = iter(names)
        for payload in payloads:
            header, pos = ReplyHeader.decode_from(payload, 0, len(payload))
            if header.xid == WATCH_XID:
                event = WatcherEvent.decode(payload[pos:])
                zxid = -1 if self._old else header.zxid
                events.append(("event", zxid, event.type, event.state, event.path))
                continue
            told += sorted(events, key=repr)
            events.clear()
            told.append(self._reply(next(left), payload))
        return told + sorted(events, key=repr)

    def _reply(self, name: str, payload: bytes) -> object:
        number = NUMBER.get(name, 0)
        try:
            if self._old and name == "multi" and payload[12:16] != bytes(4):
                payload = payload[:16]  # 3.8 adds an empty body to a multi that it cannot read
            header, body = decode_reply(number, payload)
        except WireError as error:
            raise Differ(f"{name}: a reply that cannot be read: {error}") from error
        return (name, header.xid, header.zxid, header.err, self._plain(body))

    def _plain(self, value: Any, leave: Sequence[str] = ()) -> Any:
        """A record as what can be compared and printed."""
        if isinstance(value, list):
            return [self._plain(v) for v in value]
        if not is_dataclass(value):
            return value
        plain: dict[str, Any] = {}
        for field in fields(value):
            content = getattr(value, field.name)
            if field.name in _TIMES:
                content = bool(content)
            elif field.name in ("ephemeral_owner", "session_id") and content:
                content = self._sessions.get(content, "a session that nobody was given")
            elif field.name in leave:
                content = None
            else:
                content = self._plain(content)
                if field.name in _UNORDERED and isinstance(content, list):
                    content.sort(key=repr)
            plain[field.name] = content
        return plain


class Differential:
    """A run over both servers."""

    def __init__(self, java: tuple[str, int], our: tuple[str, int], *, old: bool) -> None:
        self._old = old
        self._sides = [Side(address, old=old) for address in (java, our)]
        self.operations = 0
        self._history: list[str] = []

    def run(self, seed: int, steps: int, *, clean: bool = True) -> None:
        """So many steps; Differ at the first difference."""
        ops = Operations(seed, old=self._old)
        self._history.clear()
        for index in range(CLIENTS):
            self._both(f"client {index} connects", lambda s, i=index: s.open(i))
        for _ in range(steps):
            self._step(ops)
        if clean:
            self._clean()
        for index in range(CLIENTS):
            self._close(index)
        for side in self._sides:
            for client in side.clients:
                client.close()
            side.clients.clear()

    def _clean(self) -> None:
        """A superuser deletes everything, so that the next seed begins with an empty tree."""
        self._both("client 0: new session", lambda s: s.open(0))
        self._prove(AuthPacket(0, "digest", SUPER_CREDENTIAL), 0)
        below = ["/"]
        for path in below:
            names = self._children(path)
            below += [f"{path.rstrip('/')}/{name}" for name in names]
        for path in reversed(below[1:]):
            if path not in _OWN:
                body = PathVersionRequest(path, -1).encode()
                self._send(0, [("delete", body, NUMBER["delete"])])

    def _children(self, path: str) -> list[str]:
        body = PathWatchRequest(path, False).encode()
        told = self._send(0, [("getChildren", body, NUMBER["getChildren"])])
        children: list[str] = told[0][4]["children"]
        return children

    def _step(self, ops: Operations) -> None:
        r = ops.random
        index = r.randrange(CLIENTS)
        if self._sides[0].clients[index].ended:
            self._reconnect(ops, index)
            return
        kind = r.random()
        if kind < 0.01:
            self._close(index)
        elif kind < 0.02:
            self._reconnect(ops, index)
        elif kind < 0.04:
            self._auth(ops, index)
        elif kind < 0.043:
            self._send(index, [("sasl", sasl().encode(), 102)])
        elif kind < 0.046:
            self._send(index, [("unknown", b"", r.choice((10, 23, 99, 500, -7, 0)))])
        else:
            self._requests(ops, index)

    def _requests(self, ops: Operations, index: int) -> None:
        names, payloads, said = [], [], []
        ops.persistent = index == CLIENTS - 1
        for _ in range(ops.random.choice((1, 1, 1, 2, PIPELINE))):
            name, body = ops.one()
            xid = self._xid(index, name)
            names.append(name)
            payload = ops.payload(xid, name, body)
            payloads.append(payload)
            whole = len(encode_request(xid, NUMBER[name], body))
            cut = f" ({len(payload)} of {whole} bytes)" if len(payload) != whole else ""
            said.append(f"{name} {body}{cut}")
            if name == "setACL":
                # Java judges what is pipelined behind it by the old ACL, or the new one: as it
                # happens to have been applied.
                break
        self.operations += len(names)
        self._both(f"client {index}: {'; '.join(said)}", lambda s: s.ask(index, names, payloads))

    def _xid(self, index: int, name: str) -> int:
        if name == "ping":
            return PING_XID
        if name.startswith("setWatches"):
            return SET_WATCHES_XID
        for side in self._sides:
            side.xids[index] += 1
        return self._sides[0].xids[index]

    def _send(self, index: int, requests: Sequence[tuple[str, bytes, int]]) -> list[Any]:
        names = [name for name, _, _ in requests]
        payloads = [
            self._xid(index, name).to_bytes(4, "big", signed=True)
            + number.to_bytes(4, "big", signed=True)
            + body
            for name, body, number in requests
        ]
        self.operations += len(names)
        told: list[Any] = self._both(
            f"client {index}: {names}", lambda s: s.ask(index, names, payloads)
        )
        return told

    def _auth(self, ops: Operations, index: int) -> None:
        scheme = ops.random.choice(("digest", "digest", "digest", "ip", "world", "nosuch", None))
        body = AuthPacket(0, scheme, ops.random.choice((*CREDENTIALS, b"")))
        self._prove(body, index)

    def _prove(self, body: AuthPacket, index: int) -> None:
        payload = AUTH_XID.to_bytes(4, "big", signed=True) + (100).to_bytes(4, "big")
        payload += body.encode()
        self.operations += 1
        self._both(f"client {index}: {body}", lambda s: s.ask(index, ["auth"], [payload]))

    def _close(self, index: int) -> None:
        if not self._sides[0].clients[index].ended:
            self._send(index, [("closeSession", b"", NUMBER["closeSession"])])

    def _reconnect(self, ops: Operations, index: int) -> None:
        r = ops.random
        kind = r.random()
        if kind < 0.4:
            self._both(f"client {index}: new session", lambda s: s.open(index))
            return
        password = r.random() < 0.8
        zxid = 1 << 50 if r.random() < 0.1 else 0
        self._both(
            f"client {index}: back, password {password}, zxid {zxid}",
            lambda s: s.again(index, password=password, last_zxid=zxid),
        )
        for side in self._sides:
            if not side.clients[index].session_id:
                side.clients[index].ended = True

    def _both(self, what: str, do: Any) -> Any:
        self._history.append(what)
        java, our = (do(side) for side in self._sides)
        if java != our:
            steps = "\n".join(self._history)
            raise Differ(f"after\n{steps}\n\nJava: {java}\n\nours: {our}")
        return our


def run(seeds: Sequence[int], steps: int, directory: Path) -> tuple[int, JavaServer, OurServer]:
    """Both servers, for all seeds together; the number of operations, and the servers, ended. What
    the last seed made is left in their data.
    """
    config: dict[str, Any] = {
        "maxSessionTimeout": str(_SESSION_MS),
        "DigestAuthenticationProvider.superDigest": SUPER_DIGEST,
    }
    with (
        standalone(directory / "java", properties=_PROPERTIES, **config) as java,
        ours(directory / "ours", config, _PROPERTIES) as our,
    ):
        old = "version: 3.8" in (java.ask("srvr") or "")
        differential = Differential(java.address, our.address, old=old)
        for seed in seeds:
            try:
                differential.run(seed, steps, clean=seed != seeds[-1])
            except Differ as error:
                raise Differ(f"seed {seed}: {error}") from None
    return differential.operations, java, our


def main() -> int:
    """From the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", default="1-20", help="first-last")
    parser.add_argument("--steps", type=int, default=1000)
    given = parser.parse_args()
    first, _, last = given.seeds.partition("-")
    with tempfile.TemporaryDirectory() as directory:
        seeds = range(int(first), int(last or first) + 1)
        count = run(seeds, given.steps, Path(directory))[0]
    print(f"{count} operations, no difference")
    return 0


if __name__ == "__main__":
    sys.exit(main())
