"""Agents, NATS or Kafka, and the page; each of the three is killed, and the counts end equal."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fleet.kafkad import Kafka
from tests.fleet.natsd import PASSWORD, USER, Nats, need
from tests.support.decoded import decode

ROOT = Path(__file__).parents[2]
PCAPS = ROOT / "pcaps"
_PATIENCE_S = 90.0
_STARTED: list[subprocess.Popen[bytes]] = []
Bus = Nats | Kafka


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[Nats]:
    need()
    one = Nats(tmp_path / "nats")
    one.start()
    yield one
    one.kill()


@pytest.fixture(params=["nats", "kafka"])
def bus(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bus]:
    if request.param == "nats":
        need()
        one: Bus = Nats(tmp_path / "bus")
    else:
        one = Kafka(tmp_path / "bus")
    one.start()
    yield one
    one.kill()


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    """What a test that failed has started ends with it."""
    yield
    while _STARTED:
        _STARTED.pop().kill()


class Process:
    """One of ours; what it says is kept."""

    def __init__(self, bus: Bus, *arguments: str) -> None:
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "zktrace", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path, **bus.environment},
        )
        _STARTED.append(self.popen)
        self.said = ""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.popen.stderr is not None
        with self.popen.stderr as stream:
            for line in stream:
                self.said += line.decode()

    def end(self, kill: bool = False) -> None:
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGKILL if kill else signal.SIGINT)
        status = self.popen.wait(_PATIENCE_S)
        self._thread.join(_PATIENCE_S)
        assert kill or status == 0, self.said
        assert "Traceback" not in self.said
        assert PASSWORD not in self.said
        assert USER not in self.said


def until(good: Callable[[], Any], process: Process | None = None) -> Any:
    end = time.monotonic() + _PATIENCE_S
    while not (found := good()):
        told = process.said if process is not None else ""
        assert process is None or process.popen.poll() is None, told
        assert time.monotonic() < end, told
        time.sleep(0.1)
    return found


class Page(Process):
    """`zktrace serve` of a fleet."""

    def __init__(self, bus: Bus) -> None:
        super().__init__(bus, "serve", "--http", "127.0.0.1:0")
        found = until(lambda: re.search(r"http://\S+?/", self.said), self)
        self.address = found.group()

    def get(self, path: str) -> bytes:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(self.address + path, timeout=30) as answer:
            found: bytes = answer.read()
            return found

    def json(self, path: str) -> Any:
        return json.loads(self.get(path))

    def requests(self, below: str = "") -> dict[str, int]:
        try:
            rows = self.json(f"{below}api/ops?window=all&limit=1000")["rows"]
        except urllib.error.HTTPError as error:
            if error.code != 404:  # nothing was heard of that ensemble
                raise
            return {}
        return {row["op"]: row["requests"] for row in rows}

    def has(self, wanted: dict[str, int], below: str = "") -> None:
        until(lambda: sum(self.requests(below).values()) >= sum(wanted.values()), self)
        assert self.requests(below) == wanted


def agent(bus: Bus, spool: Path, folder: Path, ensemble: str) -> Process:
    folder.mkdir(exist_ok=True)
    return Process(
        bus, "agent", "-r", str(folder), "--follow", "--spool", str(spool),
        "--ensemble", ensemble, "--name", spool.name,
    )  # fmt: skip


def counted(*names: str) -> dict[str, int]:
    """Requests by op in these captures."""
    found: dict[str, int] = {}
    for name in names:
        for row in decode(PCAPS / name).exchanges:
            if row["op"] is not None:
                found[row["op"]] = found.get(row["op"], 0) + 1
    return found


def put(name: str, folder: Path) -> None:
    shutil.copy(PCAPS / name, folder / f".{name}")
    (folder / f".{name}").rename(folder / name)


A, B, C, D = "02_basic_ops.pcap", "57_v39_herd.pcap", "04_watches.pcap", "25_kazoo_ops.pcap"


def test_whichever_is_killed_the_counts_end_equal(bus: Bus, tmp_path: Path) -> None:
    first, second, other = (tmp_path / name for name in ("first", "second", "other"))
    page = Page(bus)
    one = agent(bus, tmp_path / "one", first, "prod")
    two = agent(bus, tmp_path / "two", other, "test")
    put(A, first)
    put(D, other)
    page.has(counted(A, D))
    page.has(counted(A), "ensembles/prod/")
    page.has(counted(D), "ensembles/test/")

    bus.kill()
    put(B, first)
    spooled = re.compile(r"\d{20}")
    until(lambda: any(spooled.fullmatch(path.name) for path in (tmp_path / "one").iterdir()), one)
    # All of it is there once nothing more comes: messages are made once a second.
    size, since = -1, time.monotonic()
    while time.monotonic() - since < 4:
        now = sum(path.stat().st_size for path in (tmp_path / "one").glob("0*"))
        if now != size:
            size, since = now, time.monotonic()
        time.sleep(0.1)
    until(lambda: "tried again" in one.said, one)
    one.end(kill=True)
    one = agent(bus, tmp_path / "one", second, "prod")
    bus.start()
    page.has(counted(A, B, D))

    page.end(kill=True)
    put(C, second)
    page = Page(bus)
    page.has(counted(A, B, C, D))
    page.has(counted(A, B, C), "ensembles/prod/")

    fleet = page.json("api/fleet")
    assert fleet["ensembles"] == ["prod", "test"]
    assert [(it["name"], it["ensemble"]) for it in fleet["agents"]] == [
        ("one", "prod"),
        ("two", "test"),
    ]
    assert all(it["missing_messages"] == 0 for it in fleet["agents"])
    names = {"NATS": "nats", "Kafka": "kafka"}
    assert [fleet[name] for name in names.values()].count(None) == 1
    assert fleet[names[fleet["bus"]]] == bus.shown
    coverage = page.json("api/coverage")["coverage"]
    packets = sum(decode(PCAPS / name).coverage["packets"] for name in (A, B, C, D))
    assert coverage["packets"] == packets
    sessions = page.json("ensembles/prod/api/sessions?limit=1000")["rows"]
    assert len(sessions) > 45
    servers = {row["server"] for row in page.json("api/servers")["rows"]}
    assert {"127.0.0.1:21811", "127.0.0.2:21812"} <= servers
    assert b"<title>" in page.get("ensembles/prod/")
    for path in ("", "api/fleet", "api/coverage", "metrics"):
        assert PASSWORD.encode() not in page.get(path)
    for process in (one, two, page):
        process.end()
    assert "none waits" in one.said


def test_sessions_may_be_hashed_before_they_leave(nats: Nats, tmp_path: Path) -> None:
    page = Page(nats)
    folder = tmp_path / "files"
    folder.mkdir()
    put(A, folder)
    one = Process(
        nats, "agent", "-r", str(folder / A), "--spool", str(tmp_path / "one"),
        "--hash-sessions", "--hash-key", "a key of ours",
    )  # fmt: skip
    assert one.popen.wait(_PATIENCE_S) == 0
    one.end()
    page.has(counted(A))
    true = {f"0x{row['session'] & (1 << 64) - 1:016x}" for row in decode(PCAPS / A).exchanges
            if row["session"] is not None}  # fmt: skip
    shown = {row["session"] for row in page.json("api/sessions")["rows"]}
    assert len(shown) == len(true)
    assert not shown & true
    page.end()


def test_nobody_there_is_told_and_waited_for(nats: Nats, tmp_path: Path) -> None:
    nats.kill()
    folder = tmp_path / "files"
    page = Page(nats)
    one = agent(nats, tmp_path / "one", folder, "prod")
    put(A, folder)
    until(lambda: "NATS does not answer" in page.said, page)
    until(lambda: "NATS does not answer" in one.said, one)
    assert page.json("api/summary")["source"]["state"] == "reading"
    assert page.json("api/fleet")["problem"]
    nats.start()
    page.has(counted(A))
    one.end()
    page.end()


def test_wrong_credentials_are_told_but_not_what_they_are(nats: Nats) -> None:
    wrong = nats.url.replace(PASSWORD, f"{PASSWORD}-wrong")
    page = Process(nats, "serve", "--http", "127.0.0.1:0", "--nats", wrong)
    until(lambda: "does not take the credentials" in page.said, page)
    page.end()


def test_wrong_credentials_for_kafka_are_told_but_not_what_they_are(tmp_path: Path) -> None:
    one = Kafka(tmp_path / "bus")
    text = one.config.read_text()
    one.config.write_text(text.replace(PASSWORD, f"{PASSWORD}-wrong"))
    try:
        page = Page(one)
        until(lambda: "Kafka does not answer" in page.said, page)
        one.start()
        until(lambda: "does not take the credentials" in page.said, page)
        page.end()
    finally:
        one.kill()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sasl.password", "line 1 is not name=value"),
        ("\n# x\nacks=0", "acks is not to be set"),
        (f"no.such.thing={PASSWORD}", "librdkafka does not take no.such.thing"),
        (f"security.protocol={PASSWORD}", "librdkafka does not take security.protocol"),
        (None, "No such file or directory"),
    ],
)
def test_wrong_settings_for_kafka_are_one_line(
    tmp_path: Path, text: str | None, words: str
) -> None:
    file = tmp_path / "client.properties"
    if text is not None:
        file.write_text(text)
    process = subprocess.run(
        [sys.executable, "-m", "zktrace", "serve", "--kafka", "127.0.0.1:1",
         "--kafka-config", str(file), "--http", "127.0.0.1:0"],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"},
        timeout=_PATIENCE_S,
        check=False,
    )  # fmt: skip
    assert process.returncode == 2, process.stderr
    (line,) = process.stderr.decode().splitlines()
    assert words in line
    assert PASSWORD not in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("agent", "--nats", "nats://127.0.0.1:1"), "-i"),
        (("agent", "-r", str(PCAPS / A), "--nats", "x", "--ensemble", "a/b"), "--ensemble"),
        (("agent", "-r", "/nowhere.pcap", "--kafka", "a b"), "HOST:PORT"),
        (("agent", "-r", "/nowhere.pcap", "--kafka", "127.0.0.1:1", "--nats", "x"), "not both"),
        (("agent", "-r", "/nowhere.pcap", "--nats", "nats://127.0.0.1:1"), "/nowhere.pcap"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "zktrace", *arguments, "--spool", str(tmp_path / "spool")],
        capture_output=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"},
        timeout=_PATIENCE_S,
        check=False,
    )
    assert process.returncode == 2, process.stderr
    assert words in process.stderr.decode().splitlines()[-1]
    assert b"Traceback" not in process.stderr
