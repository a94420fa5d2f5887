"""Captures that do not say all, targets that do not do all: told, and never a hang."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.proxy.conftest import ROOT
from tests.proxy.replay.support import Faulty, command, planned, record, replayed
from tests.server.ourzk import ours
from zktrace_proxy.replay.report import plan_lines

PCAPS = ROOT / "pcaps"


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bad")
    with ours(directory / "server") as server:
        record(server.address, directory / "a.pcapng", ["mix", "locks"], clients=4, ops=200)
    return directory / "a.pcapng"


def said(capture: str) -> str:
    plan = planned(PCAPS / capture)
    try:
        return "\n".join(plan_lines(plan))
    finally:
        plan.close()


@pytest.mark.parametrize(
    ("capture", "words"),
    [
        ("27_midstream.pcap", "1 connection began before the capture"),
        ("30_sasl_digest_md5.pcap", "of SASL"),
        ("06_four_letter.pcap", "four-letter words"),
        ("tcp_tls.pcap", "1 connection of TLS"),
        ("tcp_gap_request.pcap", "bytes that were not captured"),
        ("zk_keeper_v11.pcap", "of ClickHouse Keeper's own dialects"),
        ("18_bare_check_poison.pcap", "check outside a multi"),
        ("13_session_expiry_move.pcap", "connect"),
    ],
)
def test_a_plan_names_what_cannot_be_done(capture: str, words: str) -> None:
    assert words in said(capture)


def test_writes_that_nobody_recorded_are_counted(recording: Path) -> None:
    whole = planned(recording)
    half = planned(recording, server="127.0.0.1:1")
    reads = planned(recording, where='client != 127.0.0.1 or path =~ "/zktrace-load/mix/**"')
    try:
        assert whole.unseen_writes == 0
        assert not half.ops
        assert reads.unseen_writes > 20
        assert "UNSEEN" in "\n".join(plan_lines(reads))
    finally:
        for plan in (whole, half, reads):
            plan.close()


def test_zxids_of_two_ensembles_are_told(recording: Path, tmp_path: Path) -> None:
    with ours(tmp_path / "server") as server:
        record(server.address, tmp_path / "b.pcapng", ["mix"], clients=2, ops=50)
    from zktrace_proxy.messages.reader import Reader
    from zktrace_proxy.replay.prepare import prepare

    reader = Reader([str(recording), str(tmp_path / "b.pcapng")])
    plan = prepare(reader, reader.heard)
    assert plan.twice > 10
    assert "several ensembles" in "\n".join(plan_lines(plan))
    plan.close()


@pytest.fixture
def silent() -> Iterator[tuple[str, int]]:
    """Accepts connections, and no more."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        yield one.getsockname()


def test_a_target_that_is_down_or_silent_is_an_unusable_call(
    recording: Path, silent: tuple[str, int]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        done = command("replay", str(recording), "--to", f"127.0.0.1:{free.getsockname()[1]}")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "refused" in done.stderr
    done = command(
        "replay",
        str(recording),
        "--to",
        f"127.0.0.1:{silent[1]}",
        "--reply-timeout",
        "0.5",
        "--speed",
        "max",
    )
    assert done.returncode == 2
    assert "no reply within 0.5 s" in done.stdout


def test_a_read_only_target_is_named(recording: Path) -> None:
    """A read-only server answers a connect with a bare ReplyHeader (NotReadOnly)."""
    refusal = bytes(12) + (-119).to_bytes(4, "big", signed=True)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_refuse, args=(listener, refusal), daemon=True).start()
        report = replayed(recording, listener.getsockname(), reply_timeout_s=5)
    assert report.incomplete
    assert "it is read-only (it has lost its quorum)" in report.failed_connects


def _refuse(listener: socket.socket, answer: bytes) -> None:
    while True:
        try:
            one, _ = listener.accept()
        except OSError:
            return
        with one:
            one.recv(4096)
            one.sendall(len(answer).to_bytes(4, "big") + answer)


def test_a_target_that_dies_midway_ends_it_and_nothing_is_called_equal(
    recording: Path, tmp_path: Path
) -> None:
    server_ends: list[int] = []

    with ours(tmp_path / "b") as server:

        def die(payload: bytes, number: int) -> bytes | None:
            if number == 20 and not server_ends:
                server_ends.append(number)
                server.kill()
            return payload

        with Faulty(server.address, die) as faulty:
            report = replayed(recording, faulty.address, reply_timeout_s=5, wait_s=0.5)
    assert report.incomplete
    assert report.unsent > 50
    assert report.outcome.differences > 50
    assert report.outcome.counts["equal"] + report.outcome.counts["mapped"] < 400


def test_a_target_that_stops_answering_is_given_up(recording: Path, tmp_path: Path) -> None:
    with (
        ours(tmp_path / "b") as server,
        Faulty(server.address, lambda payload, n: payload if n < 10 else None) as faulty,
    ):
        began = time.monotonic()
        report = replayed(recording, faulty.address, reply_timeout_s=0.5, wait_s=0.2)
    assert report.incomplete
    assert report.outcome.differences
    assert time.monotonic() - began < 120


def test_reads_only_need_the_nodes_that_were_there(recording: Path, tmp_path: Path) -> None:
    plan = planned(recording, where='op == "getData" and path =~ "/zktrace-load/mix/**"')
    assert len(plan.start.nodes) > 10
    with ours(tmp_path / "b") as server:
        report = replayed(plan, server.address)
    assert report.start.made == len(plan.start.nodes)
    assert not report.incomplete
    # writes are missing: those that read what they wrote differ, and it was said before
    assert set(report.outcome.by_op) <= {"connect", "getData", "closeSession"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give --to"),
        (["--to", "nowhere"], "not HOST:PORT"),
        (["--to", "127.0.0.1:1", "--order", "any"], "--order"),
        (["--to", "127.0.0.1:1", "--speed", "0"], "--speed"),
        (["--to", "127.0.0.1:1", "--auth", "digest"], "--auth"),
        (["--to", "127.0.0.1:1", "--only", "op = x"], "--only"),
        (["--to", "127.0.0.1:1", "--prefix", "a"], "--prefix"),
        (["--to", "127.0.0.1:1", "--from", "soon"], "--from"),
        (["--to", "127.0.0.1:1", "--names-in", "leader"], "--names-in"),
        (["--serve", "127.0.0.1:1", "--names-in", "/leader"], "--names-in"),
    ],
)
def test_an_unusable_call_is_one_line(arguments: list[str], words: str) -> None:
    done = command("replay", str(PCAPS / "25_kazoo_ops.pcap"), *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_plan_as_json(recording: Path) -> None:
    done = command("replay", str(recording), "--plan", "--json")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["unseen_writes"] == 0
    assert plan["ops"]["setData"] > 10
    assert plan["sessions"] >= 4
