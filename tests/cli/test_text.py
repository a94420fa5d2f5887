"""Text for people: aligned, honest, and harmless to terminals."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.test_jsonl import GET_DATA, batch
from zktrace.export.summary import coverage_lines
from zktrace.export.text import EventLines, Look, clock, duration, printable, shorten, size


def test_a_line() -> None:
    (line,) = EventLines().lines({"exchanges": batch("exchanges", GET_DATA)})
    assert line == (
        "22:13:20.123456 10.0.0.9:40000 > 10.0.0.1:2181 getData      12.3us OK        "
        " /a  watch  3 B"
    )


def test_columns_stay_aligned() -> None:
    rows = [GET_DATA, GET_DATA | {"op": "createContainer", "error": -101}, GET_DATA]
    lines = EventLines().lines({"exchanges": batch("exchanges", *rows)})
    assert lines[1].index("NoNode") == lines[2].index("OK ")


def test_states_in_words() -> None:
    lines = EventLines().lines(
        {
            "exchanges": batch(
                "exchanges",
                {"op": "sync", "state": "no_reply", "path": "/"},
                {"state": "no_request", "error": -101},
            ),
        }
    )
    assert "no reply" in lines[0]
    assert " ? " in lines[1]
    assert "NoNode (reply only)" in lines[1]


def test_connect_and_multi_details() -> None:
    connect = {
        "op": "connect",
        "session": 1,
        "requested_timeout_ms": 5,
        "timeout_ms": 4,
        "error": 0,
    }
    sub = [{"op": "delete", "path": f"/{i}", "error": -101 if i == 0 else -2} for i in range(6)]
    lines = EventLines().lines(
        {"exchanges": batch("exchanges", connect, {"op": "multi", "sub": sub})}
    )
    assert lines[0].endswith("session 0x0000000000000001  timeout 4 ms (asked 5)")
    assert "[delete /0: NoNode, delete /1: RuntimeInconsistency" in lines[1]
    assert lines[1].endswith("2 more]")


def test_sizes_and_ttl_of_a_create() -> None:
    create = {"op": "createTTL", "path": "/t", "error": 0, "ttl": 3000, "data_length": 12_345}
    lines = EventLines().lines(
        {"exchanges": batch("exchanges", create | {"flags": 5}, create | {"flags": 6})}
    )
    assert lines[0].endswith("/t  ttl 3000 ms  12.3 kB")
    assert lines[1].endswith("/t  sequential  ttl 3000 ms  12.3 kB")


def test_the_error_column_is_not_for_connection_events() -> None:
    (line,) = EventLines().lines({"connections": batch("connections", {"event": "opened"})})
    assert line.split()[-3:] == ["-", "-", "opened"]


@given(st.text())
def test_nothing_drives_the_terminal(path: str) -> None:
    assert printable(path).isprintable()


def test_escapes_are_shown() -> None:
    assert printable("/a\x1b[2J\n\u202e\\") == r"/a\x1b[2J\n\u202e\\"


def test_colours_only_when_wanted() -> None:
    table = {"exchanges": batch("exchanges", GET_DATA | {"error": -101})}
    assert "\x1b" not in EventLines(Look(width=120)).lines(table)[0]
    coloured = EventLines(Look(color=True, width=120)).lines(table)[0]
    plain = re.sub(r"\x1b\[[0-9]*m", "", coloured)
    assert "\x1b[31mNoNode" in coloured
    assert plain == EventLines(Look(width=120)).lines(table)[0]


def test_long_paths_are_shortened_on_terminals_only() -> None:
    table = {"exchanges": batch("exchanges", GET_DATA | {"path": "/" + "x" * 300 + "end"})}
    assert "..." not in EventLines().lines(table)[0]
    (line,) = EventLines(Look(width=120)).lines(table)
    assert len(line) <= 120
    assert "..." in line


@pytest.mark.parametrize(
    ("text", "width", "short"),
    [("abcdef", 6, "abcdef"), ("abcdefghij", 7, "ab...ij"), ("abcdefghij", 8, "ab...hij")],
)
def test_shorten(text: str, width: int, short: str) -> None:
    assert shorten(text, width) == short


def test_units() -> None:
    assert [duration(n) for n in (None, 0, 999, 1000, 15_300, 250_000_000, 61e9)] == [
        "-",
        "0ns",
        "999ns",
        "1.00us",
        "15.3us",
        "250ms",
        "1m01s",
    ]
    assert [duration(s * 1e9) for s in (59.9, 59.96, 3599.4, 3600, 3720, 360_000, -90)] == [
        "59.9s",
        "1m00s",
        "59m59s",
        "1h00m",
        "1h02m",
        "100h00m",
        "-1m30s",
    ]
    assert [size(n) for n in (None, 0, 999, 1000, 123_456, 5_000_000_000)] == [
        "-",
        "0 B",
        "999 B",
        "1.0 kB",
        "123 kB",
        "5.0 GB",
    ]


def test_clocks() -> None:
    ns = 1_700_000_000_123_456_789
    assert clock(ns) == "22:13:20.123456"
    assert clock(ns, "date") == "2023-11-14 22:13:20.123456"
    assert clock(ns, "epoch") == "1700000000.123456"
    assert clock(ns, "relative", ns - 1_500_000_000) == "1.500000"
    assert clock(ns, "relative", ns + 1_500_000_000) == "-1.500000"
    assert clock(-(2**63), "date")  # no calendar has it: any text will do


WHOLE = {
    "packets": 10,
    "bytes": 1000,
    "first_ts_ns": 0,
    "last_ts_ns": 2_000_000_000,
    "flows": {"client": 2},
    "frames": {"to_server": 3, "to_client": 3},
    "exchanges": {"complete": 3},
    "kernel_drops": 0,
}


def test_coverage_says_when_all_is_there() -> None:
    lines = coverage_lines(WHOLE)
    assert "10 packets, 1.0 kB" in lines[0]
    assert lines[-1] == "not seen  nothing: no gaps, no packets dropped or cut"


def test_coverage_says_what_is_missing() -> None:
    text = "\n".join(
        coverage_lines(
            WHOLE
            | {"gaps": 1, "gap_bytes": 1460, "truncated": 2, "kernel_drops": None}
            | {"flows": {"client": 1, "quorum": 3, "tls": 1}, "joined_connections": 1}
        )
    )
    assert "1 gap (1.5 kB never captured)" in text
    assert "2 packets or records cut short" in text
    assert "1 connection joined in the middle" in text
    assert "3 quorum connections seen but not decoded" in text
    assert "does not say whether the kernel dropped" in text


@pytest.mark.parametrize(("again", "told"), [(20, False), (21, True), (50, True)])
@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("retransmitted_segments", "retransmissions"),
        ("duplicate_packets", "packets captured twice"),
    ],
)
def test_coverage_tells_of_many_repetitions(key: str, what: str, again: int, told: bool) -> None:
    text = "\n".join(coverage_lines(WHOLE | {"tcp_segments": 100, key: again}))
    assert (f"{again}% of TCP segments were {what}" in text) is told


def test_coverage_tells_of_times_that_are_not_certain() -> None:
    text = "\n".join(coverage_lines(WHOLE | {"late_segments": 2}))
    assert "2 segments perhaps sent before (no latencies)" in text


def test_coverage_of_nothing() -> None:
    assert "0 packets" in coverage_lines({})[0]
