"""Connections between servers that end are told in the log, with the peer and the reason."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

import pytest

from zktrace.wire.election import PROTOCOL_V1, InitialMessage, Notification
from zktrace_server.core.quorum.ensemble import parse_ensemble
from zktrace_server.core.quorum.link import Link
from zktrace_server.core.quorum.membership import Membership
from zktrace_server.net.drops import MOST, WINDOW_S, Drops
from zktrace_server.net.election import ElectionPort
from zktrace_server.net.quorum import QuorumConnection
from zktrace_server.net.wire import Wire


def _lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "zktrace_server.net.drops"]


@pytest.fixture(autouse=True)
def _heard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "zktrace_server.net.drops")


def test_a_line_with_peer_and_reason(caplog: pytest.LogCaptureFixture) -> None:
    drops = Drops(lambda: 0.0)
    drops.say("quorum", 3, "10.0.0.3:4000", "silent")
    drops.say("election", None, "[::1]:4001", "no hello")
    assert _lines(caplog) == [
        "quorum connection with server 3 (10.0.0.3:4000) closed: silent",
        "election connection with [::1]:4001 closed: no hello",
    ]


def test_no_flood(caplog: pytest.LogCaptureFixture) -> None:
    """One peer is told of a few times only, others still are, and what was left out is counted."""
    now = 0.0
    drops = Drops(lambda: now)
    for number in range(1000):
        drops.say("quorum", None, f"10.0.0.9:{number}", f"reason {number}")
        drops.say("quorum", 2, f"10.0.0.2:{number}", "silent")
    lines = _lines(caplog)
    assert len(lines) == 2 * MOST
    assert [line for line in lines if "not told" in line] == lines[-2:]
    now = WINDOW_S
    drops.say("quorum", 2, "10.0.0.2:1", "silent")
    assert _lines(caplog)[-1].endswith(f"silent; {1000 - MOST} before it were not told")
    for number in range(2000):
        drops.say("election", None, f"10.1.{number // 250}.{number % 250}:1", "noise")
    assert len(drops._windows) <= 256


class _Deaf:
    """An owner of either port that closes what says something."""

    def __init__(self) -> None:
        self.carried: dict[Link, QuorumConnection] = {}

    def link_accepted(self, address: str) -> Link:
        return Link({}, address)

    def link_opened(self, sid: int, address: str) -> Link:
        raise AssertionError

    def link_received(self, link: Link, data: bytes) -> None:
        link.sid = 3
        link.close("PING as the first packet")
        self.carried[link].flush()

    def link_refused(self, sid: int) -> None: ...
    def link_lost(self, link: Link) -> None: ...
    def notification(self, sid: int, given: Notification) -> None: ...
    def election_connected(self, sid: int) -> None: ...


def _election() -> Callable[[], asyncio.Protocol]:
    members = {sid: f"127.0.0.1:{sid}:{sid + 10}" for sid in (1, 2, 3)}
    loop = asyncio.get_running_loop()
    ensemble = parse_ensemble(members, {}, {})
    return ElectionPort(2, Membership(ensemble), _Deaf(), Drops(loop.time), Wire(loop)).accept


def _quorum() -> Callable[[], asyncio.Protocol]:
    owner = _Deaf()
    loop = asyncio.get_running_loop()
    return lambda: QuorumConnection(owner, owner.carried, Drops(loop.time), Wire(loop))


async def _talk(
    port: Callable[[], Callable[[], asyncio.Protocol]],
    said: bytes,
    told: Callable[[], list[str]],
) -> None:
    """Somebody says this at a port and then leaves."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(60):
        listener = await loop.create_server(port(), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*listener.sockets[0].getsockname())
        writer.write(said)
        writer.write_eof()
        with suppress(ConnectionError):
            await reader.read()
        while not told():
            await asyncio.sleep(0.01)
        writer.close()
        listener.close()


_HELLO = InitialMessage(PROTOCOL_V1, 3, "127.0.0.1:13").encode()
_SAME = InitialMessage(PROTOCOL_V1, 2, "127.0.0.1:12").encode()


@pytest.mark.parametrize(
    ("port", "said", "whom", "why"),
    [
        (_quorum, b"x", "quorum connection with server 3 (127.0.0.1:", "PING as the first packet"),
        (_quorum, b"", "quorum connection with 127.0.0.1:", "the other end closed it"),
        (_election, b"", "election connection with 127.0.0.1:", "the other end closed it"),
        (
            _election,
            _HELLO,
            "election connection with server 3 (127.0.0.1:",
            "the other end closed",
        ),
        (_election, _HELLO + b"\xff" * 4, "election connection with server 3 (", "length -1 of"),
        (_election, _SAME, "election connection with 127.0.0.1:", "says that it is server 2"),
    ],
)
def test_told_once(
    port: Callable[[], Callable[[], asyncio.Protocol]],
    said: bytes,
    whom: str,
    why: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    asyncio.run(_talk(port, said, lambda: _lines(caplog)))
    (line,) = _lines(caplog)
    assert line.startswith(whom)
    assert why in line.partition(" closed: ")[2]
