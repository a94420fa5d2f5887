"""Recordings compared: what is the same is, what is not is found, and where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.proxy.conftest import ROOT
from tests.proxy.replay.support import (
    Bug,
    Faulty,
    command,
    compared,
    record,
    recorder,
    replayed,
    replayed_and_recorded,
)
from tests.server.ourzk import ours
from zktrace_proxy.compare.match import match
from zktrace_proxy.compare.page import page
from zktrace_proxy.compare.recording import Talk


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("compare")
    with ours(directory / "server") as server:
        record(server.address, directory / "a.pcapng", ["config", "locks"], clients=6, ops=300)
    return directory / "a.pcapng"


def faulty(recording: Path, directory: Path, bug: Bug) -> Path:
    """A recording of a replay against a target with a bug."""
    with (
        ours(directory / "server") as server,
        Faulty(server.address, bug) as target,
        recorder(target.address, directory / "b.pcapng") as address,
    ):
        replayed(recording, address, order="strict", wait_s=0.3)
    return directory / "b.pcapng"


def test_a_recording_is_equal_to_itself(recording: Path) -> None:
    found = compared(recording, recording)
    assert found.differences == 0
    assert found.outcome.counts["allowed"] == found.outcome.counts["different"] == 0
    assert found.outcome.counts["equal"] > 100


def test_below_a_prefix(recording: Path, tmp_path: Path) -> None:
    with ours(tmp_path / "server") as server:
        _, found = replayed_and_recorded(
            recording, server.address, tmp_path / "b.pcapng", prefix="/replay1"
        )
    # the session that made the prefix is of the replay only
    assert [talk.requests for talk in found.pairs.only_second] == [2]
    assert found.outcome.differences == 0, found.as_dict()["divergences"][:3]


def test_the_first_difference_is_where_the_bug_is(recording: Path, tmp_path: Path) -> None:
    hit: list[bytes] = []

    def bug(payload: bytes, number: int) -> bytes:
        # one getData of a Stat and data has other data, once
        if len(payload) > 16 + 4 + 68 + 8 and payload[12:16] == bytes(4) and not hit:
            hit.append(payload[:4])
            return payload[:20] + b"?" + payload[21:]
        return payload

    found = compared(recording, faulty(recording, tmp_path, bug))
    assert found.outcome.differences == 1
    (one,) = found.outcome.first
    assert one.op == "getData"
    assert one.finding.what == "data"
    assert "bytes" in one.finding.recorded  # never the data itself


def test_a_lost_watch_event_is_a_difference(recording: Path, tmp_path: Path) -> None:
    lost: list[bytes] = []

    def bug(payload: bytes, number: int) -> bytes | None:
        if payload[:4] == b"\xff\xff\xff\xff" and not lost:
            lost.append(payload)
            return None
        return payload

    found = compared(recording, faulty(recording, tmp_path, bug))
    assert found.outcome.events["different"] == 1
    assert found.outcome.counts["different"] == 0
    (one,) = found.outcome.first
    assert one.path is not None
    assert one.path.encode() in lost[0]


def test_the_command_says_so_by_its_status_as_text_json_and_page(
    recording: Path, tmp_path: Path
) -> None:
    same = command("compare", str(recording), str(recording))
    assert (same.returncode, same.stderr) == (0, "")
    assert " 0 different" in same.stdout

    def bug(payload: bytes, number: int) -> bytes:
        return payload[:12] + b"\xff\xff\xff\x9c" if number == 3 and len(payload) > 16 else payload

    other = faulty(recording, tmp_path, bug)
    differs = command("compare", str(recording), str(other), "--html", str(tmp_path / "page.html"))
    assert differs.returncode == 1, differs.stderr
    assert "DIFFERS" in differs.stdout
    assert "OK -> " in differs.stdout
    text = (tmp_path / "page.html").read_text()
    assert "<!doctype html>" in text
    assert "http" not in text, "a page of its own asks for nothing else"
    assert "Differences, in order" in text
    found = json.loads(command("compare", str(recording), str(other), "--json").stdout)
    assert found["differences"] == len(found["divergences"]) + found["more_divergences"]
    assert found["divergences"][0]["what"] == "error"
    assert not found["divergences"][0]["consequence"]


def test_what_cannot_be_compared_is_an_unusable_call(recording: Path, tmp_path: Path) -> None:
    for other in ("tcp_tls.pcap", "file_noise.pcap"):
        done = command("compare", str(recording), str(ROOT / "pcaps" / other))
        assert done.returncode == 2, done.stdout
        assert done.stderr.count("\n") == 1
    done = command("compare", str(recording), str(tmp_path / "none"))
    assert done.returncode == 2


def test_what_was_not_seen_is_not_called_equal() -> None:
    pcaps = ROOT / "pcaps"
    whole = compared(pcaps / "tcp_gap_replies.pcap", pcaps / "tcp_gap_replies.pcap")
    assert whole.first.heard.gaps
    assert whole.outcome.counts["allowed"] > 0


def test_a_page_escapes_what_others_wrote() -> None:
    found = {
        "differences": 1,
        "exchanges": {"equal": 1},
        "watch_events": {},
        "by_op": {"getData": {"different": 1}},
        "allowed": {},
        "divergences": [
            {
                "session": "0x1", "request": 1, "op": "getData", "path": "/<script>", "what": "",
                "recorded": "<b>", "live": "&", "consequence": False,
            }
        ],
        "more_divergences": 0,
        "connections": {"only_first": ["<i>"], "only_second": []},
        "latency": [],
        "coverage": {
            name: {
                "filtered": True,
                "joined": 0,
                "gaps": 0,
                "replies_without_request": 0,
                "flows": {},
            }
            for name in ("first", "second")
        },
    }  # fmt: skip
    text = page(found, "<a>", "b")
    assert "<script>" not in text
    assert "/&lt;script&gt;" in text
    assert "<i>" not in text


_TALKS = st.lists(
    st.tuples(st.sampled_from(["new", "again"]), st.integers(0, 3), st.integers(0, 3)), max_size=12
)


@given(_TALKS, _TALKS)
def test_each_connection_is_paired_once_or_left(
    left: list[tuple[str, int, int]], right: list[tuple[str, int, int]]
) -> None:
    def talks(drawn: list[tuple[str, int, int]]) -> list[Talk]:
        return [
            Talk(n, f"c{n}", first_ns=n, requests=count, kind=kind, exact=shape, asked=shape,
                 shape=shape, prefixes={p: shape for p in (1, 2) if p <= count})
            for n, (kind, count, shape) in enumerate(drawn)
        ]  # fmt: skip

    pairs = match(talks(left), talks(right))
    ones = [one.conn for one, _ in pairs.pairs] + [talk.conn for talk in pairs.only_first]
    twos = [two.conn for _, two in pairs.pairs] + [talk.conn for talk in pairs.only_second]
    assert sorted(ones) == list(range(len(left)))
    assert sorted(twos) == list(range(len(right)))
    assert all(one.kind == two.kind for one, two in pairs.pairs)
    same = match(talks(left), talks(left))
    assert not same.only_first
    assert not same.only_second
