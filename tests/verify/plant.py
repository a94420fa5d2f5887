"""What planting tests share: scripts of captures, and what verify says of them."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Iterable
from functools import cache

import zktrace
from tests.support import zk
from tests.support.cases import PCAPS, records
from tests.support.pcapio import Record, pcap_bytes
from tests.support.script import CLIENT, SERVER, Message, Party, Script, listeners, take_apart
from zktrace.analysis.verify import Verified

_STEP_NS = 1_000_000


@cache
def _of_capture(name: str) -> Script:
    return take_apart(records(name), listeners(PCAPS / "ports.json"))


def of_capture(name: str) -> Script:
    """A capture of a real ensemble as a script."""
    script = _of_capture(name)
    return Script(list(script.parties), list(script.messages))


def verified(
    given: Script | Iterable[Record], engine: str, *, voters: int | None = None
) -> Verified:
    """What verify says of a script or of records."""
    made = given.records() if isinstance(given, Script) else given
    data = pcap_bytes(made, nanoseconds=True)
    return zktrace.verify(io.BytesIO(data), engine=engine, voters=voters)


def broken(found: Verified) -> set[str]:
    """Checks whose guarantee was broken, and alarms."""
    return {one.check.name for one in found.outcomes if one.violations}


def texts(found: Verified) -> str:
    return "\n".join(f"{one.check}: {one.text}" for one in (*found.findings, *found.alarms))


class Client:
    """A client's connection as a script: a message per request and per reply."""

    def __init__(self, seen: int = 0, session: int = 0x1000_0000_0000_0001) -> None:
        party = Party(("10.9.0.1", 40_001), ("10.9.0.2", 2181), "client")
        self.script = Script([party])
        self.now = 1_700_000_000_000_000_000
        asked = struct.pack(">iqiq", 0, seen, 10_000, 0) + zk.buffer(bytes(16)) + b"\0"
        self._say(CLIENT, asked)
        self._say(
            SERVER, zk.connect_response(timeout_ms=10_000, session=session, password=b"p" * 16)
        )

    def _say(self, side: int, payload: bytes) -> Message:
        self.now += _STEP_NS
        one = Message(self.now, 0, side, zk.frame(payload))
        self.script.messages.append(one)
        return one

    def ask(self, xid: int, opcode: int, body: bytes = b"") -> Message:
        return self._say(CLIENT, zk.i32(xid) + zk.i32(opcode) + body)

    def answer(self, xid: int, zxid: int, body: bytes = b"", error: int = 0) -> Message:
        return self._say(SERVER, zk.i32(xid) + zk.i64(zxid) + zk.i32(error) + body)

    def event(self, path: str, zxid: int = -1, kind: int = 3) -> Message:
        body = zk.i32(kind) + zk.i32(3) + zk.ustring(path)
        return self._say(SERVER, zk.i32(-1) + zk.i64(zxid) + zk.i32(0) + body)

    def get(self, xid: int, path: str, zxid: int, mzxid: int, watch: bool = False) -> Message:
        self.ask(xid, zk.GET_DATA, zk.path_watch(path, watch))
        stat = zk.stat(czxid=0x10, mzxid=mzxid, data_length=4)
        return self.answer(xid, zxid, zk.buffer(b"data") + stat)

    def set(self, xid: int, path: str, zxid: int) -> Message:
        self.ask(xid, zk.SET_DATA, zk.ustring(path) + zk.buffer(b"data") + zk.i32(-1))
        return self.answer(xid, zxid, zk.stat(czxid=0x10, mzxid=zxid, data_length=4))


def swapped(script: Script, first: Message, second: Message) -> Script:
    """Two messages of one direction in each other's place and time."""
    places = {id(first): second.but(ts_ns=first.ts_ns), id(second): first.but(ts_ns=second.ts_ns)}
    return script.edited(lambda all_: [places.get(id(one), one) for one in all_])


def moved(script: Script, one: Message, ts_ns: int) -> Script:
    """A message captured at another time, behind what its side sent until then."""

    def edit(messages: list[Message]) -> list[Message]:
        rest = [other for other in messages if other is not one]
        late = one.but(ts_ns=ts_ns)
        at = next((at for at, other in enumerate(rest) if other.ts_ns > ts_ns), len(rest))
        return [*rest[:at], late, *rest[at:]]

    return script.edited(edit)


def without(script: Script, *gone: Message) -> Script:
    """Messages that were never sent."""
    ids = {id(one) for one in gone}
    return script.edited(lambda all_: [one for one in all_ if id(one) not in ids])


def rewritten(one: Message, at: int, layout: str, value: int) -> Message:
    """A message with a number in it changed; `at` from the end where negative."""
    data = bytearray(one.data)
    struct.pack_into(layout, data, at if at >= 0 else len(data) + at, value)
    return one.but(data=bytes(data))


def apart(made: list[Record], skew_ns: int, share: random.Random) -> list[Record]:
    """The same captured at two points, whose clocks differ: each connection at one of them."""
    from tests.support import net

    late: dict[frozenset[object], bool] = {}
    out = []
    for record in made:
        seg = net.segment(record)
        key = frozenset((seg.src, seg.dst)) if seg is not None else frozenset()
        if late.setdefault(key, share.random() < 0.5):
            record = record.at(record.ts_ns + skew_ns)
        out.append(record)
    return sorted(out, key=lambda record: record.ts_ns)
