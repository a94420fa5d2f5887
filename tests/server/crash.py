"""kill -9 at random moments under load: what was acknowledged is there, nothing is half there.

    python -m tests.server.crash --rounds 200

Each round starts the server on the same data, several clients write with many requests under way,
and the server is killed when so many were acknowledged. Every second round the end of its log is
damaged as a crash can leave it: a txn behind the last, not written whole. Then it is started again,
and read.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from tests.server.operations import OPEN
from tests.server.ourzk import OurServer
from tests.server.rawclient import RawClient
from zktrace.wire.files import read_log
from zktrace.wire.jute import WireError
from zktrace.wire.message import decode_reply, encode_request
from zktrace.wire.multi import MultiOp, MultiRequest
from zktrace.wire.records import CreateRequest, PathWatchRequest, ReplyHeader, SetDataRequest

CLIENTS: Final = 4
PIPELINE: Final = 16
_CONFIG: Final = {"snapCount": "300", "preAllocSize": "64"}


class Lost(AssertionError):
    """A server broke its word."""


class Writer:
    """Writes a node of its own with rising numbers, and pairs of nodes by multi."""

    def __init__(self, server: OurServer, name: str) -> None:
        self.client = RawClient(server.address)
        self.client.connect(timeout_ms=30_000)
        self.name = name
        self.sent = self.acknowledged = 0

    def send(self, count: int) -> None:
        """Number n is data n of the node, and, if even, the pair of nodes n."""
        payloads = []
        for number in range(self.sent, self.sent + count):
            body: Any
            if number == 0:
                kind, body = 1, CreateRequest(f"/{self.name}", b"0", OPEN, 0)
            elif number % 2:
                kind, body = 5, SetDataRequest(f"/{self.name}", str(number).encode(), -1)
            else:
                pair = [CreateRequest(f"/{self.name}-{number}{end}", b"", OPEN, 0) for end in "ab"]
                kind = 14
                body = MultiRequest([MultiOp(1, create) for create in pair])
            payloads.append(encode_request(number, kind, body))
        self.sent += count
        self.client.send(*payloads)

    def hear(self, count: int) -> None:
        """Counts acknowledgements; fewer come when the server is gone."""
        for payload in self.client.replies(count):
            header, _ = ReplyHeader.decode_from(payload, 0, len(payload))
            if header.err or header.xid != self.acknowledged:
                raise Lost(f"{self.name}: reply {header} to request {self.acknowledged}")
            self.acknowledged += 1


def one_round(server: OurServer, number: int, r: random.Random) -> int:
    """Start, load, kill, start, look; the number of acknowledged writes."""
    server.start()
    writers = [Writer(server, f"r{number}w{i}") for i in range(CLIENTS)]
    wanted = r.randrange(1, 1000)
    for writer in writers:
        writer.send(PIPELINE)
    while sum(w.acknowledged for w in writers) < wanted:
        writer = r.choice(writers)
        writer.hear(some := r.randrange(1, PIPELINE))
        writer.send(some)
    server.kill()
    for writer in writers:
        writer.hear(writer.sent - writer.acknowledged)
        writer.client.close()
    if number % 2:
        _tear(server, r)
    server.start()
    try:
        client = RawClient(server.address)
        client.connect(timeout_ms=30_000)
        for writer in writers:
            _look(client, writer)
        client.close()
    finally:
        server.kill()
    return sum(w.acknowledged for w in writers)


def _tear(server: OurServer, r: random.Random) -> None:
    """Adds a txn to the log that was not written whole, or of which one bit is another."""
    newest = max((server.data / "version-2").glob("log.*"), key=lambda p: int(p.suffix[1:], 16))
    data = newest.read_bytes()
    try:
        txns = list(read_log(data))
    except WireError:
        return  # the kill itself came in the middle of a write
    if not txns:
        return
    whole = data.rstrip(b"\0")
    last = txns[-1].encode()
    entry = whole[whole.rindex(last) - 12 :]
    if r.random() < 0.5:
        torn = entry[: r.randrange(1, len(entry) - 1)]
    else:
        flipped = bytearray(entry)
        # Behind checksum and length: what the checksum is of.
        flipped[r.randrange(12, 12 + len(last))] ^= 1 << r.randrange(8)
        torn = bytes(flipped)
    # As a later one: the zxid goes on from the last.
    newest.write_bytes(whole + torn + bytes(r.randrange(5000)))


def _read(client: RawClient, path: str) -> bytes | None:
    client.request(1, 4, PathWatchRequest(path, False))
    header, body = decode_reply(4, client.replies(1)[0])
    return None if header.err else body.data  # type: ignore[union-attr]


def _look(client: RawClient, writer: Writer) -> None:
    found = _read(client, f"/{writer.name}")
    highest = -1 if found is None else int(found)
    odd = max((n for n in range(writer.acknowledged) if n % 2 or n == 0), default=-1)
    if not odd <= highest < writer.sent:
        raise Lost(f"{writer.name}: {highest} is there, {odd} was acknowledged")
    for number in range(2, writer.sent, 2):
        pair = [_read(client, f"/{writer.name}-{number}{end}") is not None for end in "ab"]
        if pair[0] != pair[1] or (number < writer.acknowledged and not pair[0]):
            raise Lost(f"{writer.name}: of pair {number} there is {pair}")


def rounds(count: int, seed: int, directory: Path) -> int:
    """So many rounds on one data directory; the number of acknowledged writes."""
    server = OurServer(directory, _CONFIG)
    r = random.Random(seed)
    return sum(one_round(server, number, r) for number in range(count))


def main() -> int:
    """From the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        count = rounds(given.rounds, given.seed, Path(directory))
    print(f"{given.rounds} kills, {count} acknowledged writes, all there")
    return 0


if __name__ == "__main__":
    sys.exit(main())
