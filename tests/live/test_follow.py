"""``zktrace serve`` beside tcpdump, which writes: to files in turn, or to a pipe."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.live.netns import ROOT, Namespace, Process, environment
from tests.live.served import Served, serving
from tests.live.test_capture import SAMPLES, played
from tests.support.decoded import decode
from zktrace.engine.base import choose

PLAYED = [SAMPLES[name] for name in ("02_basic_ops", "04_watches", "03_multi")]
#: That both read the same files, tests/capture/test_follow.py says.
ENGINE = choose().name
#: The three, and no page.
FILTER = "tcp portrange 21811-21814"

#: Without immediate mode packets come late; with it there is room for as many as fit by their
#: greatest length, so that is less and the room more.
TCPDUMP = ["tcpdump", "-i", "lo", "--immediate-mode", "-s", "65535", "-B", "65536"]


@pytest.fixture(autouse=True)
def _tcpdump() -> None:
    if shutil.which("tcpdump") is None:
        pytest.fail("tests of live capture need tcpdump (Debian: tcpdump)")


@contextmanager
def dumping(where: Namespace, *arguments: str) -> Iterator[Process]:
    # -Z root: it would give its rights up, and then not be able to begin the next file here.
    command = [*TCPDUMP, "-Z", "root", *arguments, FILTER]
    with Process(where.inside(*command)) as process:
        process.said("listening on")
        yield process


def complete() -> list[int]:
    """Exchanges after each of what is played, all told."""
    count, told = 0, []
    for sample in PLAYED:
        count += decode(*sample.files).coverage["exchanges"]["complete"]
        told.append(count)
    return told


def _reached(count: int, answer: Any) -> bool:
    return bool(sum(answer["coverage"]["exchanges"].values()) >= count)


def _noise() -> None:
    """More than a million bytes that are no ZooKeeper, since tcpdump's -C counts in millions."""
    with (
        socket.create_server(("127.0.0.1", 21814)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        there, _ = server.accept()
        with there:
            for _ in range(40):
                client.sendall(b"\xff" * 30_000)
                left = 30_000
                while left:
                    left -= len(there.recv(left))


def all_seen(where: Namespace, served: Served, then: list[int]) -> None:
    """What is played is on the page while tcpdump still writes."""
    for count, sample in zip(then, PLAYED, strict=True):
        where.run(_noise)
        with played(where, sample):
            found = served.until("api/coverage", partial(_reached, count))
            assert found["coverage"]["exchanges"]["complete"] == count
    coverage = found["coverage"]
    assert coverage["gaps"] == coverage["truncated"] == coverage["damaged_places"] == 0
    assert coverage["exchanges"]["no_reply"] == 0
    assert "missed_files" not in coverage


@pytest.mark.parametrize(
    ("how", "name", "source"),
    [
        (("-G", "1"), "a-%s.pcap", "a-%s.pcap"),
        (("-C", "1", "-W", "2"), "a.pcap", "a.pcap"),
    ],
    ids=["-G", "-C -W"],
)
def test_files_that_tcpdump_writes_in_turn(
    alone: Namespace, tmp_path: Path, how: tuple[str, ...], name: str, source: str
) -> None:
    with (
        serving(alone, "-r", str(tmp_path / source), "--follow", engine=ENGINE) as served,
        dumping(alone, "-U", *how, "-w", str(tmp_path / name)),
    ):
        all_seen(alone, served, complete())
        # Of one file this would say nothing.
        assert len(list(tmp_path.iterdir())) > 1
        served.process.ended(signal.SIGINT)


def test_a_pipe_from_tcpdump(alone: Namespace) -> None:
    """``tcpdump -U -w - | zktrace serve -r -``; the page stays when tcpdump ends."""
    command = [*TCPDUMP, "-U", "-w", "-", FILTER]
    dump = subprocess.Popen(alone.inside(*command), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert dump.stderr is not None
    assert dump.stdout is not None
    page = subprocess.Popen(
        alone.inside(sys.executable, "-m", "zktrace", "serve", "-r", "-", "--http", "127.0.0.1:0"),
        stdin=dump.stdout,
        stderr=subprocess.PIPE,
        env=environment(ZKTRACE_ENGINE=ENGINE),
        cwd=ROOT,
    )
    dump.stdout.close()
    assert page.stderr is not None
    try:
        assert b"listening on" in dump.stderr.readline()
        served = Served.at(alone, page.stderr.readline().decode())
        all_seen(alone, served, complete())
        dump.send_signal(signal.SIGINT)
        assert dump.wait(60) == 0
        assert re.search(rb"\n0 packets dropped by kernel", dump.stderr.read())
        served.until("api/coverage", lambda it: it["source"]["state"] == "done")
        page.send_signal(signal.SIGINT)
        assert page.wait(60) == 0
    finally:
        for process in (dump, page):
            process.kill()
            process.communicate()


def test_a_ring_of_ours_is_followed(alone: Namespace, tmp_path: Path) -> None:
    ring = tmp_path / "ring"
    ports = [part for n in range(21811, 21815) for part in ("--client-port", str(n))]
    live = ["live", "-i", "lo", *ports, "--write", f"{ring}/", "--keep", "10s", "--json"]
    with (
        serving(alone, "-r", str(ring), "--follow", engine=ENGINE) as served,
        alone.zktrace(*live, engine=ENGINE) as process,
    ):
        process.said("listening on")
        all_seen(alone, served, complete())
        assert len(list(ring.iterdir())) > 1
        served.process.ended(signal.SIGINT)
