"""How many requests were in flight: both engines and the tables against a count by definition."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

import zktrace
from tests.conftest import needs_native
from tests.store.test_windows import NAMES, PCAPS, _native, _python
from tests.support.decoded import Row, decode
from zktrace.analysis.depth import in_flight
from zktrace.store.depth import _CONNECTIONS, _ENDS, InFlight
from zktrace.store.packed import pack, unpack
from zktrace.store.part import IN_FLIGHT, Part


def _at_once(rows: Iterable[Row]) -> int:
    """The most that were between their request and their reply at one time."""
    steps = []
    for row in rows:
        start = row["ts_ns"]
        steps += [(start, 1), (start + row["latency_ns"], -1)]
    most = now = 0
    for _, step in sorted(steps):
        now += step
        most = max(most, now)
    return most


def _counted(rows: Iterable[Row]) -> dict[int, list[Row]]:
    """By connection."""
    found: dict[int, list[Row]] = {}
    for row in rows:
        if row["latency_ns"] is not None and row["op"] not in ("ping", "connect"):
            found.setdefault(row["conn"], []).append(row)
    return found


@needs_native
@pytest.mark.parametrize("name", [name for name in NAMES if name[:2] in ("22", "25", "57", "40")])
def test_it_is_what_the_definition_says(name: str) -> None:
    by_conn = _counted(decode(PCAPS / name).exchanges)
    of_server: dict[str, int] = {}
    for rows in by_conn.values():
        # A request without time to its reply was not in flight with one that was sent then.
        most = max(_at_once(row for row in rows if row["latency_ns"]), 1)
        server = rows[0]["server"]
        of_server[server] = max(of_server.get(server, 0), most)
    for windows in (_python, _native):
        packed, _ = windows(PCAPS / name, 64, 20_000)[1]["server"]
        part = Part.of(packed)
        found = zip(part.keys, part.numbers[:, IN_FLIGHT].tolist(), strict=True)
        assert {key: most for (key, _), most in found if key in of_server} == of_server
    depth = in_flight(zktrace.read(PCAPS / name).exchanges)
    assert depth is not None
    assert depth.most == max(of_server.values())
    every = [row for rows in by_conn.values() for row in rows]
    length = max(row["ts_ns"] + row["latency_ns"] for row in every) - min(
        row["ts_ns"] for row in every
    )
    latency = sum(row["latency_ns"] for row in every)
    assert depth.mean == pytest.approx(latency / length)
    if name.startswith("22"):
        assert depth.most > 10


def test_of_nothing_nothing_is_known() -> None:
    exchanges = zktrace.read(PCAPS / "57_v39_herd.pcap").exchanges
    assert in_flight(exchanges.slice(0, 0)) is None


def test_what_is_remembered_is_bounded() -> None:
    depths = InFlight()
    for i in range(_ENDS + 10):
        assert depths.sent(i & 1, i, 1 << 60) <= _ENDS
    assert depths._total < _ENDS
    for conn in range(_CONNECTIONS + 10):
        depths.sent(conn, 0, 1)
    assert len(depths._ends) < _CONNECTIONS
    depths.ended(_CONNECTIONS + 9)
    assert depths._total == sum(map(len, depths._ends.values()))


def test_a_part_from_before_it_was_known_is_read_on() -> None:
    packed, _ = _python(Path(PCAPS / "22_pipelined.pcap"), 64, 20_000)[1]["server"]
    part = Part.of(packed)
    before = unpack(pack(part._replace(numbers=part.numbers[:, :IN_FLIGHT])))
    assert before.numbers.shape == part.numbers.shape
    assert before.numbers[:, :IN_FLIGHT].tolist() == part.numbers[:, :IN_FLIGHT].tolist()
    assert not before.numbers[:, IN_FLIGHT].any()
    assert unpack(pack(part)).numbers.tolist() == part.numbers.tolist()
