"""Real traffic on loopback and veth: shipped captures played again, decoded as it goes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.inject import TAGS
from tests.live.netns import ROOT, Namespace, Process
from tests.support.compare import consistent, problems, report
from tests.support.decoded import Decoded, decode, from_json
from tests.support.net import SYN, segment, show
from tests.support.pcapio import read_pcap
from tests.support.truth import Sample, samples

SAMPLES = {sample.name: sample for sample in samples(ROOT / "pcaps")}
BASIC = SAMPLES["02_basic_ops"]
#: Where the two ends of the traffic are when it is not on loopback.
CLIENT, SERVER = "10.77.0.1", "10.77.0.2"


def listening(
    where: Namespace, *arguments: str, engine: str, interface: str = "lo", **env: str
) -> Process:
    """`zktrace live --json` that has begun."""
    process = where.zktrace(
        "live", "--json", "--all-ports", "-i", interface, *arguments, engine=engine, **env
    )
    process.said("listening on")
    return process


def played(where: Namespace, sample: Sample, *arguments: str) -> Process:
    """The traffic of a capture; connections that it leaves open still are."""
    talk = where.talk(sample.files[0], *arguments)
    assert talk.popen.stdout is not None
    line = talk.popen.stdout.readline()
    assert line.startswith(b"done"), talk.popen.communicate()[1].decode()
    return talk


def heard(
    where: Namespace, sample: Sample, engine: str, interface: str, *arguments: str
) -> Decoded:
    """What `zktrace live` decodes of it."""
    with (
        listening(where, engine=engine, interface=interface) as process,
        played(where, sample, *arguments),
    ):
        out, _ = process.ended(signal.SIGINT)
    return from_json(back(out, sample).splitlines())


def back(out: str, sample: Sample) -> str:
    """Output with the addresses of the capture."""
    for record in read_pcap(sample.files[0]).records:
        seg = segment(record)
        if seg is not None and seg.flags == SYN:
            for there, address in ((CLIENT, seg.src), (SERVER, seg.dst)):
                out = out.replace(f"{there}:{address[1]}", show(address))
    return out


def judge_rows(sample: Sample, decoded: Decoded) -> None:
    found = problems(sample.truth(), decoded, times=False) + consistent(decoded)
    assert not found, report(found)


def judge(sample: Sample, decoded: Decoded) -> None:
    judge_rows(sample, decoded)
    file = decode(*sample.files)
    assert decoded.coverage["frames"] == file.coverage["frames"]
    assert decoded.coverage["flows"] == file.coverage["flows"]
    assert decoded.coverage["kernel_drops"] == 0
    assert decoded.coverage["gaps"] == 0


@pytest.mark.parametrize("interface", ["lo", "any"])
@pytest.mark.parametrize(
    "name", ["02_basic_ops", "04_watches", "06_four_letter", "22_pipelined", "52_v39_watches"]
)
def test_loopback(alone: Namespace, engine: str, name: str, interface: str) -> None:
    """Each packet once, though loopback shows them leaving and coming in."""
    decoded = heard(alone, SAMPLES[name], engine, interface)
    judge(SAMPLES[name], decoded)
    # What a busy kernel sends again is another packet: retransmitted_segments.
    assert decoded.coverage["duplicate_packets"] == 0
    assert decoded.coverage["packets"] == decoded.coverage["tcp_segments"]


@pytest.mark.parametrize("interface", ["lo", "any"])
def test_ipv6(alone: Namespace, engine: str, interface: str) -> None:
    for last in "12":
        alone.ip("address", "add", f"fd00::7f00:{last}/128", "dev", "lo", "nodad")
    decoded = heard(alone, SAMPLES["ipv6"], engine, interface)
    judge(SAMPLES["ipv6"], decoded)


def linked(pair: tuple[Namespace, Namespace], tags: int) -> None:
    """Addresses on both sides of the link, or on interfaces behind one tag, or behind two."""
    for where, name, address in zip(pair, ("near", "far"), (CLIENT, SERVER), strict=True):
        for tag in range(tags):
            protocol = "802.1ad" if tag + 1 < tags else "802.1Q"
            made = ("name", f"tag{tag}", "type", "vlan", "id", "42", "protocol", protocol)
            try:
                where.ip("link", "add", "link", name, *made)
            except subprocess.CalledProcessError as error:
                pytest.skip(f"this kernel makes no VLAN interfaces: {error.stderr.decode()}")
            name = f"tag{tag}"
            where.ip("link", "set", name, "up")
        where.ip("address", "add", f"{address}/24", "dev", name)


@pytest.mark.parametrize("tags", [0, 1, 2])
@pytest.mark.parametrize("interface", ["near", "any"])
def test_link(pair: tuple[Namespace, Namespace], engine: str, tags: int, interface: str) -> None:
    """Between two machines; `any` sees what has a tag with and without it, and counts it once."""
    linked(pair, tags)
    near, far = pair
    moved = (f"--client={CLIENT}", f"--server={SERVER}", f"--server-in={far.pid}")
    judge(BASIC, heard(near, BASIC, engine, interface, *moved))


def injected(where: Namespace, interface: str, *arguments: str, file: Path = BASIC.files[0]) -> int:
    with where.python("-m", "tests.live.inject", interface, str(file), *arguments) as process:
        return int(process.ended()[0])


@pytest.mark.parametrize("tags", [0, 1, 2])
@pytest.mark.parametrize("interface", ["near", "far", "any near", "any far"])
def test_tags(
    pair: tuple[Namespace, Namespace], engine: str, tags: int, interface: str, tmp_path: Path
) -> None:
    """Frames with tags as they leave and as they come in; what is written can be read again."""
    near, far = pair
    kept = tmp_path / "kept.pcap"
    where = near if interface.endswith("near") else far
    name = interface.split()[0]
    with listening(where, "--write", str(kept), engine=engine, interface=name) as process:
        injected(near, "near", f"--tags={tags}")
        out, _ = process.ended(signal.SIGINT)
    decoded = from_json(out.splitlines())
    judge(BASIC, decoded)
    again = decode(kept)
    judge_rows(BASIC, again)
    assert again.coverage["packets"] == decoded.coverage["packets"]
    times = [record.ts_ns for record in read_pcap(kept).records]
    assert times[0] == decoded.coverage["first_ts_ns"]
    assert times[-1] == decoded.coverage["last_ts_ns"]
    assert time.time_ns() - times[0] < 60 * 10**9
    data = [record.data for record in read_pcap(kept).records]
    if name != "any":
        frames = [record.data for record in read_pcap(BASIC.files[0]).records]
        assert data == [frame[:12] + TAGS[tags] + frame[12:] for frame in frames]


def coverage(out: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    assert found["kind"] == "coverage"
    return found


@pytest.mark.parametrize("interface", ["lo", "any"])
def test_a_flood_is_counted(alone: Namespace, engine: str, interface: str) -> None:
    """More than fits while nobody reads: what was lost is told, to the packet."""
    with listening(
        alone, "--buffer", "4", "--filter", 'op == "reconfig"', engine=engine, interface=interface
    ) as process:
        process.popen.send_signal(signal.SIGSTOP)
        sent = injected(alone, "lo", "--repeat=600")
        process.popen.send_signal(signal.SIGCONT)
        time.sleep(0.5)
        after = injected(alone, "lo")
        out, _ = process.ended(signal.SIGINT)
    seen = coverage(out)
    assert seen["kernel_drops"] > 1000
    assert seen["packets"] + seen["kernel_drops"] == sent + after
    assert seen["packets"] > 1000


def rows_of(process: Process) -> Iterator[dict[str, Any]]:
    """Lines as they come."""
    assert process.popen.stdout is not None
    for line in process.popen.stdout:
        yield json.loads(line)


def test_lines_come_promptly(alone: Namespace, engine: str) -> None:
    """All are there before it is told to end, though nothing follows. (One that waited for more
    would never come, and neither would the end of this test.)
    """
    sample = SAMPLES["03_multi"]
    total = len(decode(*sample.files).exchanges)
    with listening(alone, engine=engine) as process, played(alone, sample):
        exchanges = (row for row in rows_of(process) if row["kind"] == "exchange")
        # The last one has no reply, and is told when its connection ends.
        for _ in range(total - 1):
            next(exchanges)
        assert process.popen.poll() is None
        process.ended(signal.SIGINT)


def test_an_idle_line_is_not_stuck(alone: Namespace, engine: str) -> None:
    """A connection that was open before, and one that was closed, are told without more packets."""
    sample = SAMPLES["27_midstream"]
    with listening(alone, engine=engine) as process:
        injected(alone, "lo", file=sample.files[0])
        rows = rows_of(process)
        first = next(rows)
        assert (first["kind"], first["event"]) == ("connection", "joined")
        next(rows)
        process.ended(signal.SIGINT)
    with listening(alone, engine=engine) as process, played(alone, SAMPLES["03_multi"]) as talk:
        talk.ended()  # its sockets close
        assert any(row.get("event") == "closed" for row in rows_of(process))
        process.ended(signal.SIGINT)


def test_a_signal_cuts_no_line(alone: Namespace, engine: str) -> None:
    """It comes while more is to be written than the pipe holds, and output is not buffered."""
    with listening(alone, engine=engine, PYTHONUNBUFFERED="1") as process:
        injected(alone, "lo", file=SAMPLES["57_v39_herd"].files[0])
        for _ in range(200):  # until it waits for the pipe
            if "pipe" in Path(f"/proc/{process.popen.pid}/wchan").read_text():
                break
            time.sleep(0.02)
        out, _ = process.ended(signal.SIGINT)
    assert [json.loads(line)["kind"] for line in out.splitlines()].count("coverage") == 1


def test_stops_by_itself(alone: Namespace, engine: str) -> None:
    arguments = ["live", "-i", "lo", "--json", "--all-ports"]
    with alone.zktrace(*arguments, "--count", "10", engine=engine) as process:
        process.said("listening on lo; all TCP ports")
        injected(alone, "lo")
        assert coverage(process.ended()[0])["packets"] == 10
    with alone.zktrace(*arguments, "--limit", "3", engine=engine) as process:
        process.said("listening")
        injected(alone, "lo")
        out, _ = process.ended()
        assert len(out.splitlines()) == 4
    began = time.monotonic()
    with alone.zktrace(*arguments, "--duration", "0.5", engine=engine) as process:
        assert coverage(process.ended()[0])["packets"] == 0
    assert 0.5 < time.monotonic() - began < 20
    with alone.zktrace(*arguments, engine=engine) as process:
        process.said("listening")
        injected(alone, "lo")
        seen = coverage(process.ended(signal.SIGTERM)[0])
        assert seen["packets"] == 119


def test_ports_hosts_and_snap_length(alone: Namespace, engine: str) -> None:
    def seen(*arguments: str) -> dict[str, Any]:
        command = ["live", "-i", "lo", "--json", *arguments]
        with alone.zktrace(*command, engine=engine) as process:
            process.said("listening")
            injected(alone, "lo")
            return coverage(process.ended(signal.SIGINT)[0])

    assert seen()["packets"] == 0
    every = seen("--client-port", "21811", "--client-port", "21812")
    one = seen("--client-port", "21812")
    assert every["packets"] == 119
    assert 0 < one["packets"] < 119
    assert seen("--client-port", "127.0.0.2:21812")["packets"] == one["packets"]
    assert seen("--client-port", "127.0.0.1:21812")["packets"] == 0
    assert seen("--all-ports", "--host", "127.0.0.2")["packets"] == one["packets"]
    assert seen("--all-ports", "--host", "10.0.0.0/8")["packets"] == 0
    assert seen("--capture-filter", "port 21812", "--all-ports")["packets"] == one["packets"]
    other = seen("--capture-filter", "not dst 127.0.0.2 and not src 127.0.0.2", "--all-ports")
    assert other["packets"] == 119 - one["packets"]
    cut = seen("--all-ports", "--snaplen", "70")
    assert cut["packets"] == 119
    assert cut["truncated"] > 0
    assert cut["bytes"] == every["bytes"]


def test_stats(alone: Namespace, engine: str) -> None:
    command = ["stats", "-i", "lo", "--json", "--all-ports", "--duration", "20"]
    with alone.zktrace(*command, engine=engine) as process:
        process.said("listening")
        injected(alone, "lo")
        live = json.loads(process.ended(signal.SIGINT)[0])
    file = decode(*BASIC.files)
    assert live["coverage"]["frames"] == file.coverage["frames"]
    assert live["total"]["requests"] == len(file.exchanges)


def test_an_interface_goes_and_comes(pair: tuple[Namespace, Namespace], engine: str) -> None:
    near, far = pair
    with listening(far, engine=engine, interface="far") as process:
        far.ip("link", "set", "far", "down")
        process.said("far is down, waiting for it")
        far.ip("link", "set", "far", "up")
        process.said("far is up again")
        injected(near, "near")
        far.ip("link", "delete", "far")
        if "far is down" in process.said("far is "):  # seen on its way
            process.said("far is gone")
        out, _ = process.ended()
    assert coverage(out)["packets"] == 119


def test_a_full_disk_ends_the_writing_alone(alone: Namespace, engine: str) -> None:
    with listening(alone, "--write", "/dev/full", engine=engine) as process:
        process.said("no longer written: No space left on device")
        injected(alone, "lo")
        assert coverage(process.ended(signal.SIGINT)[0])["packets"] == 119


def rights(process: Process) -> dict[str, str]:
    status = Path(f"/proc/{process.popen.pid}/status").read_text()
    return dict(line.split(":\t", 1) for line in status.splitlines())


def test_rights_are_given_up(alone: Namespace, engine: str) -> None:
    """Nothing of root is left when the first packet comes, and events are shown all the same."""
    users = {"": "0", "nobody": "65534", "sudo": "1"}
    for user, uid in users.items():
        arguments = ["--user", user] if user == "nobody" else []
        more = {"SUDO_UID": "1"} if user == "sudo" else {}
        command = ["live", "-i", "lo", "--all-ports", *arguments]
        with alone.zktrace(*command, engine=engine, **more) as process:
            process.said("listening")
            for _ in range(100):
                told = rights(process)
                if int(told["CapEff"], 16) == 0:
                    break
                time.sleep(0.05)
            assert int(told["CapEff"], 16) == int(told["CapPrm"], 16) == 0
            assert set(told["Uid"].split()) == {uid}
            assert told["NoNewPrivs"].strip() == "1"
            injected(alone, "lo")
            out, _ = process.ended(signal.SIGINT)
            assert "create" in out


def test_what_cannot_be_is_told_in_a_line(alone: Namespace, engine: str) -> None:
    def told(*command: str) -> str:
        with alone.python(*command, ZKTRACE_ENGINE=engine) as process:
            out, err = process.popen.communicate(timeout=60)
            assert process.popen.returncode == 2
            assert out == b""
            text: str = err.decode()
            assert text.count("\n") == 1
            return text

    zktrace = ("-m", "zktrace", "live")
    assert "no such interface; there are lo, any" in told(*zktrace, "-i", "nope")
    assert "-i: lo, any" in told(*zktrace)
    assert "no user 'who'" in told(*zktrace, "-i", "lo", "--user", "who")
    assert "no address" in told(*zktrace, "-i", "lo", "--host", "localhost")
    assert "at >>>" in told(*zktrace, "-i", "lo", "--filter", "op = 1")
    wrong = told(*zktrace, "-i", "lo", "--capture-filter", "port 1 and hots 10.0.0.1")
    assert "'hots' is not known here, at >>> in: port 1 and >>>hots 10.0.0.1" in wrong
    many = [part for n in range(1, 4200) for part in ("--client-port", str(n))]
    assert "4096 is the kernel's limit" in told(*zktrace, "-i", "lo", *many)
    helpless = (
        "from zktrace.capture.privileges import drop_capabilities as d; d();"
        "from zktrace.cli.main import main; main()"
    )
    text = told("-c", helpless, "live", "-i", "lo")
    python = Path(sys.executable).resolve()
    assert f"sudo setcap cap_net_raw+ep {python}" in text
