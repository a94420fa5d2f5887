"""``zktrace serve -i``: the picture of what is on the wire now."""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.netns import ROOT, Namespace
from tests.live.served import serving
from tests.live.test_capture import BASIC, SAMPLES, injected, judge_rows, played, rights
from tests.support.decoded import decode

HERD = ROOT / "pcaps" / "57_v39_herd.pcap"
#: Of the captures: what a page on the same loopback asks would be seen, too.
PORTS = [part for n in range(21811, 21815) for part in ("--client-port", str(n))]


@pytest.mark.parametrize("interface", ["lo", "any"])
def test_what_is_on_the_wire(alone: Namespace, engine: str, interface: str) -> None:
    """The same numbers as of the capture, while connections are open, and after."""
    sample = SAMPLES["04_watches"]
    file = decode(*sample.files)
    with serving(alone, "-i", interface, *PORTS, engine=engine) as served:
        assert "listening on" in served.notices[0]
        with played(alone, sample):
            complete = file.coverage["exchanges"]["complete"]
            found = served.until(
                "api/coverage", lambda it: it["coverage"]["exchanges"]["complete"] == complete
            )
        source = found["source"]
        assert source["kind"] == "interface"
        assert source["interfaces"] == {interface: "up"}
        assert "TCP ports 21811" in source["listening"]
        assert found["coverage"]["kernel_drops"] == 0
        ops = served.until(
            "api/ops", lambda it: sum(row["replies"] for row in it["rows"]) == complete
        )
        assert {row["op"] for row in ops["rows"]} >= {"create", "setData", "exists"}
        events = served.json("api/events?limit=1000")
        watch_events = [row for row in events["rows"] if row["kind"] == "watch_event"]
        assert len(watch_events) == len(file.watch_events)
        metrics = served.get("metrics").decode()
        assert f'zktrace_interface_up{{interface="{interface}"}} 1.0' in metrics
        assert "zktrace_capture_kernel_drops_total 0.0" in metrics
        served.process.ended(signal.SIGINT)


@pytest.mark.parametrize("interface", ["lo", "any"])
def test_our_own_page_is_not_listened_to(alone: Namespace, engine: str, interface: str) -> None:
    """Though it is on the same loopback, and all ports are wanted."""
    with serving(alone, "-i", interface, "--all-ports", engine=engine) as served:
        for _ in range(5):
            served.get("api/ops")
        injected(alone, "lo")
        served.packets(119)


def test_the_clock_goes_on_while_nothing_is_sent(alone: Namespace, engine: str) -> None:
    with serving(alone, "-i", "lo", *PORTS, engine=engine) as served:
        injected(alone, "lo")
        served.packets(119)
        first = served.json("api/summary")["clock_ns"]
        served.until("api/summary", lambda it: it["clock_ns"] > first)


def test_an_interface_goes_and_comes(pair: tuple[Namespace, Namespace], engine: str) -> None:
    """It is said, and what comes after is seen; when none is left, that is said, too."""
    near, far = pair
    with serving(far, "-i", "far", *PORTS, engine=engine) as served:
        injected(near, "near")
        served.packets(119)
        far.ip("link", "set", "far", "down")
        served.process.said("far is down, waiting for it")
        served.until("api/summary", lambda it: it["source"]["interfaces"] == {"far": "down"})
        assert 'zktrace_interface_up{interface="far"} 0.0' in served.get("metrics").decode()
        far.ip("link", "set", "far", "up")
        served.process.said("far is up again")
        injected(near, "near")
        found = served.packets(238)
        assert found["source"]["interfaces"] == {"far": "up"}
        assert found["coverage"]["interface_downs"] == 1
        assert "1 time an interface was down" in found["not_seen"]
        far.ip("link", "delete", "far")
        if "far is down" in served.process.said("far is "):  # seen on its way
            served.process.said("far is gone")
        served.until("api/summary", lambda it: it["source"]["state"] == "failed")
        assert served.json("api/coverage")["source"]["error"] == (
            "no interface is left to listen on"
        )


def test_windows_survive_a_restart(alone: Namespace, engine: str, tmp_path: Path) -> None:
    asked = "api/ops?window=1h"
    each = decode(BASIC.files[0]).coverage["exchanges"]["complete"]

    def requests(answer: dict[str, list[dict[str, int]]]) -> int:
        return sum(row["requests"] for row in answer["rows"])

    def run(before: int) -> None:
        state = ("--state", str(tmp_path / "state"))
        with serving(alone, "-i", "lo", *PORTS, *state, engine=engine) as served:
            assert requests(served.json(asked)) == before
            injected(alone, "lo")
            served.until(asked, lambda it: requests(it) == before + each)
            served.process.ended(signal.SIGINT)

    run(0)
    run(each)


def test_losses_are_shown(alone: Namespace, engine: str) -> None:
    """More than fits while nobody reads: what was lost is told, to the packet."""
    with serving(alone, "-i", "lo", *PORTS, "--buffer", "4", engine=engine) as served:
        served.process.popen.send_signal(signal.SIGSTOP)
        sent = injected(alone, "lo", "--repeat=600")
        served.process.popen.send_signal(signal.SIGCONT)
        found = served.until(
            "api/coverage",
            lambda it: it["coverage"]["packets"] + it["coverage"]["kernel_drops"] >= sent,
        )
        assert found["coverage"]["kernel_drops"] > 1000
        assert found["coverage"]["packets"] + found["coverage"]["kernel_drops"] == sent
        assert any("dropped by the kernel" in words for words in found["not_seen"])
        drops = found["coverage"]["kernel_drops"]
        assert (
            f"zktrace_capture_kernel_drops_total {float(drops)}" in served.get("metrics").decode()
        )


def open_to(uid: int) -> bool:
    """Can a user run this Python, and read this tree?"""
    try:
        done = subprocess.run([sys.executable, "-c", "import zktrace.web"], user=uid, cwd=ROOT)
    except PermissionError:
        return False
    return done.returncode == 0


def test_packets_are_kept_and_saved(alone: Namespace, engine: str, tmp_path: Path) -> None:
    """What is in the ring and in a slice of a connection decodes as what was sent."""
    ring = tmp_path / "ring"
    with serving(alone, "-i", "lo", *PORTS, "--write", str(ring), engine=engine) as served:
        injected(alone, "lo")
        kept = served.packets(119)["source"]["kept"]
        assert kept["directory"] == str(ring)
        rows = served.json("api/events?limit=1000&filter=op%20==%20%22create%22")["rows"]
        client, server = rows[0]["flow"].split(">")
        span = {"from_ns": 0, "to_ns": 1 << 62}
        every = served.post("api/slice", **span)
        some = served.post("api/slice", **span, client=client, server=server)
        with pytest.raises(urllib.error.HTTPError, match="404"):
            served.post("api/slice", **span, client="10.0.0.1")
        served.process.ended(signal.SIGINT)
    assert every["packets"] == 119
    assert 0 < some["packets"] < 119
    judge_rows(BASIC, decode(ring / every["file"]))
    alone_rows = decode(ring / some["file"]).exchanges
    assert alone_rows
    assert {row["flow"] for row in alone_rows} == {f"{client}>{server}"}
    judge_rows(BASIC, decode(*sorted(ring.glob("zktrace-ring-*.pcapng"))))
    command = ["tcpdump", "-nr", str(ring / some["file"])]
    read = subprocess.run(command, capture_output=True, check=True)
    assert len(read.stdout.splitlines()) == some["packets"]


def test_a_finding_saves_its_packets(alone: Namespace, engine: str, tmp_path: Path) -> None:
    """By itself; they decode as what it says."""
    ring = tmp_path / "ring"
    with serving(alone, "-i", "lo", *PORTS, "--write", str(ring), engine=engine) as served:
        injected(alone, "lo", file=HERD)
        herd: dict[str, list[dict[str, Any]]] = {}
        served.until("api/findings", lambda it: any(row["kind"] == "herd" for row in it["rows"]))

        def proved(it: dict[str, list[dict[str, Any]]]) -> bool:
            injected(alone, "lo")  # a finding is over when something came after it
            found = [row for row in it["rows"] if row["kind"] == "herd" and row["proof"]]
            herd["rows"] = found
            return bool(found)

        served.until("api/findings", proved)
        served.process.said("herd: ")
        served.process.ended(signal.SIGINT)
    row = herd["rows"][0]
    seen = decode(ring / row["proof"]["file"])
    fired = [event for event in seen.watch_events if 0 <= event["ts_ns"] - row["ts_ns"] < 10**9]
    assert len({event["conn"] for event in fired}) >= 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    made = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    done = subprocess.run(made, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be made here: {done.stderr}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_full_disk_is_counted(alone: Namespace, engine: str, small_disk: Path) -> None:
    """Capturing goes on, and so does writing once there is room."""
    filler = small_disk / "filler"
    filler.write_bytes(bytes((1 << 20) - 8192))
    with serving(alone, "-i", "lo", *PORTS, "--write", str(small_disk), engine=engine) as served:
        injected(alone, "lo", "--repeat=4")
        served.process.said("packets are not written: No space left on device")
        found = served.packets(4 * 119)
        assert 0 < found["coverage"]["unwritten_packets"] <= 4 * 119
        assert any("not written to disk" in words for words in found["not_seen"])
        filler.unlink()
        sent, before = 4, -1
        while found["source"]["kept"]["unwritten_packets"] != before:  # it asks once a second
            before = found["source"]["kept"]["unwritten_packets"]
            injected(alone, "lo")
            sent += 1
            found = served.packets(sent * 119)
        served.process.said("packets are written again")
        served.process.ended(signal.SIGINT)
    kept = decode(*sorted(small_disk.glob("zktrace-ring-*")))
    assert kept.coverage["packets"] == sent * 119 - before
    assert kept.coverage["truncated"] == 0


def test_rights_are_given_up(alone: Namespace, engine: str, tmp_path: Path) -> None:
    """Of all threads, before the page is offered."""
    ways: list[tuple[list[str], dict[str, str], str]] = [
        ([], {}, "0"),
        (["--user", "root"], {"SUDO_UID": "1"}, "0"),
    ]
    if open_to(1):
        ways.append(([], {"SUDO_UID": "1"}, "1"))
    else:  # an installation below /root
        with alone.zktrace("serve", "-i", "lo", engine=engine, SUDO_UID="1") as process:
            assert "may not read zktrace's files: give --user root" in process.said("user")
    for arguments, more, uid in ways:
        with serving(alone, "-i", "lo", *PORTS, *arguments, engine=engine, **more) as served:
            for task in Path(f"/proc/{served.process.popen.pid}/task").iterdir():
                status = dict(
                    line.split(":\t", 1) for line in (task / "status").read_text().splitlines()
                )
                assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
                assert set(status["Uid"].split()) == {uid}
            assert rights(served.process)["NoNewPrivs"].strip() == "1"
            injected(alone, "lo")
            served.packets(119)
            assert b"<html" in served.get("")
            served.process.ended(signal.SIGINT)


def test_what_cannot_be_is_told_in_a_line(alone: Namespace, engine: str) -> None:
    def told(*arguments: str) -> str:
        with alone.zktrace("serve", *arguments, engine=engine) as process:
            _, err = process.popen.communicate(timeout=60)
            assert process.popen.returncode == 2
            assert err.count(b"\n") == 1
            text: str = err.decode()
            return text

    assert "-i (lo, any), a capture to read with -r, --nats or --kafka" in told()
    assert "not both" in told("-i", "lo", "-r", str(BASIC.files[0]))
    assert "no such interface; there are lo, any" in told("-i", "nope")
