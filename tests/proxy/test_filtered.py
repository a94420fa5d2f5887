"""Recordings of which a filter decided what is in them: while they were made, and afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import zktrace
from tests.proxy.conftest import ROOT
from tests.proxy.replay.support import differences, record, replayed
from tests.proxy.test_command import SECRET, Make, work
from tests.proxy.test_lines import decoded, objects
from tests.server.ourzk import ours
from tests.support.javazk import JavaServer
from zktrace.cli.main import run as command
from zktrace_proxy.cli import main as proxy_command
from zktrace_proxy.messages.sift import sift
from zktrace_proxy.plane import Config, Listener, Record, create
from zktrace_proxy.scrub.rewrite import scrub

PCAPS = ROOT / "pcaps"
#: What every filtered recording has, whatever its filter.
ALWAYS = {"connect", "auth", "closeSession"}
EXPRESSIONS = (
    'op == "create" and error == 0 and latency > 0',
    'event == NodeDataChanged or path =~ "/work-*/t" or error != 0',
    'not (op == "ping" or op == "create2") and size > 100',
)


def events(lines: list[str]) -> list[dict[str, Any]]:
    """Exchanges and watch events."""
    return [one for one in objects(lines) if one["kind"] in ("exchange", "watch_event")]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_what_is_recorded_is_what_the_filter_selects(
    proxy: Make, java_zookeeper: JavaServer, tmp_path: Path, expression: str
) -> None:
    file, printed = tmp_path / "some.pcapng", tmp_path / "lines"
    with printed.open("wb") as out:
        one = proxy(
            "--listen", "127.0.0.1:0", "--upstream", java_zookeeper.hosts,
            "--record", str(file), "--record-filter", expression, "--json", out=out,
        )  # fmt: skip
        work(one.address())
        assert one.end() == 0, one.said
    seen = printed.read_text().splitlines()
    recorded = decoded(str(file), "--json")
    # what is said of the traffic by the same filter, line by line, times and latencies too
    whole = {json.dumps(event) for event in events(seen)}
    mine = [json.dumps(event) for event in events(recorded)]
    assert whole.issuperset(mine)
    wanted = {json.dumps(one) for one in events(decoded(str(file), "--json", "-f", expression))}
    others = [json.loads(one) for one in mine if one not in wanted]
    assert {event["op"] for event in others} <= ALWAYS
    dropped = [json.loads(one) for one in whole - set(mine)]
    assert len(dropped) > 3
    assert len(wanted) > 0
    # nothing that it selects is missing
    trace = zktrace.read(str(file))
    assert trace.coverage["filtered"] == 1
    assert trace.coverage["gaps"] == trace.coverage["skipped_bytes"] == 0
    assert trace.coverage["exchanges"]["no_reply"] == trace.coverage["exchanges"]["no_request"] == 0
    assert not any(selected(expression, one) for one in dropped)
    assert f"zktrace filter: {expression}".encode() in file.read_bytes()
    assert SECRET.encode() not in file.read_bytes()


def selected(expression: str, event: dict[str, Any]) -> bool:
    """The expressions above, once more, of an object of JSON."""
    if expression == EXPRESSIONS[0]:
        return event.get("op") == "create" and event["error"] == 0
    if expression == EXPRESSIONS[1]:
        path = event["path"] or ""
        return (
            event.get("event") == "NodeDataChanged"
            or (path.startswith("/work-") and path.endswith("/t"))
            or event.get("error") not in (None, 0)
        )
    size = event.get("bytes") or event["request_bytes"] + event["reply_bytes"]
    return event.get("op") not in ("ping", "create2") and size > 100


def told(trace: zktrace.Trace) -> list[tuple[Any, ...]]:
    columns = ["ts_ns", "op", "path", "xid", "error", "zxid", "request_bytes", "reply_bytes"]
    columns += ["latency_ns", "state"]
    rows = trace.exchanges.select(columns).to_pylist()
    events = trace.watch_events.select(["ts_ns", "event", "path", "zxid", "bytes"]).to_pylist()
    return sorted((tuple(row.values()) for row in [*rows, *events]), key=repr)


@pytest.mark.parametrize(
    ("case", "expression"),
    [
        ("02_basic_ops", "write"),
        ("04_watches", "event == NodeDeleted or watch"),
        ("13_session_expiry_move", 'op == "ping"'),
        ("22_pipelined", "latency < 1ms or not (error == 0)"),
        ("57_v39_herd", 'path =~ "/**" and xid > 2'),
    ],
)
def test_a_saved_recording_is_filtered_into_another(
    case: str, expression: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = PCAPS / f"{case}.pcap", tmp_path / "out.pcapng"
    assert proxy_command(["read", str(source), expression, "-o", str(out)]) == 0
    assert "written" in capsys.readouterr().out
    before, after = zktrace.read(str(source)), zktrace.read(str(out))
    assert told(after.filter(expression)) == told(before.filter(expression))
    rest = after.filter(f"not ({expression})")
    assert set(rest.exchanges["op"].to_pylist()) <= ALWAYS | {"sasl"}
    assert rest.watch_events.num_rows == 0
    assert after.coverage["filtered"] == 1
    assert after.coverage["gaps"] == after.coverage["skipped_bytes"] == 0
    assert out.stat().st_mode & 0o077 == 0
    assert proxy_command(["read", str(source), "-o", str(out)]) == 2, "it is there already"


def test_without_a_filter_all_is_written_and_nothing_said(tmp_path: Path) -> None:
    source, out = PCAPS / "02_basic_ops.pcap", tmp_path / "out.pcapng"
    assert proxy_command(["read", str(source), "-o", str(out)]) == 0
    before, after = zktrace.read(str(source)), zktrace.read(str(out))
    assert told(after) == told(before)
    assert after.coverage["filtered"] == 0


def test_that_it_is_filtered_stays_with_it_and_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = tmp_path / "first.pcapng"
    with first.open("wb") as out:
        sift([str(PCAPS / "02_basic_ops.pcap")], out, "write")
    again, pseudonyms = tmp_path / "again.pcapng", tmp_path / "pseudonyms.pcapng"
    with again.open("wb") as out:
        sift([str(first)], out, None)
    with pseudonyms.open("wb") as out:
        scrub([str(first)], out, b"0123456789abcdef")
    for file in (first, again, pseudonyms):
        assert zktrace.read(str(file)).coverage["filtered"] == 1, file
        assert zktrace.read(str(file), engine="python").coverage["filtered"] == 1, file
        assert command(["verify", str(file)]) == 2
        assert "recorded with a filter" in capsys.readouterr().err
        assert command(["decode", str(file)]) == 0
        assert "holds only what a filter let through" in capsys.readouterr().out
    assert proxy_command(["read", str(first), 'op == "create"', "--json"]) == 0
    *rows, coverage = objects(capsys.readouterr().out.splitlines())
    assert {row["op"] for row in rows} == {"create"}
    assert coverage["filtered"] == 1


def test_a_filtered_recording_replays(tmp_path: Path) -> None:
    """Locks need their creates and deletes; the filter leaves those, and not who looked on."""
    whole, some = tmp_path / "whole.pcapng", tmp_path / "some.pcapng"
    with ours(tmp_path / "a") as server:
        record(server.address, whole, ["config"], clients=4, ops=200)
    with some.open("wb") as out:
        told = sift([str(whole)], out, "write")
    assert told.left_out > 100
    with ours(tmp_path / "b") as server:
        report = replayed(some, server.address)
    assert differences(report) == []
    assert report.as_dict()["plan"]["filtered"] is True


def test_what_waits_for_its_reply_at_the_end_is_recorded(tmp_path: Path) -> None:
    """Requests without a reply, and messages larger than what is put together."""
    import socket

    from tests.proxy.scrub.test_scrub import CONNECT, CONNECTED
    from zktrace.wire.message import frame

    file = tmp_path / "left.pcapng"
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        plane = create(
            Config(
                (Listener.to("127.0.0.1:0", f"{host}:{port}"),),
                record=Record(str(file), filter='not (error == 0) and op != "exists"'),
                taps=0,
            )
        )
        try:
            at = plane.addresses()[0].rpartition(":")
            with socket.create_connection((at[0], int(at[2]))) as client:
                there, _ = server.accept()
                with there:
                    client.sendall(CONNECT)
                    there.recv(100)
                    there.sendall(CONNECTED)
                    client.recv(100)
                    for xid, opcode in ((1, 4), (2, 3), (3, 4)):
                        body = xid.to_bytes(4, "big") + opcode.to_bytes(4, "big")
                        client.sendall(frame(body + b"\0\0\0\2/a\0"))
                    large = b"\0\0\0\4\0\0\0\5\0\0\0\2/b\0\x50\0\0" + bytes(5 << 20) + bytes(4)
                    client.sendall(frame(large))
                    wanted = 3 * (4 + 8 + 7) + 4 + len(large)
                    while wanted:
                        wanted -= len(there.recv(min(wanted, 1 << 20)))
                    for xid in (1, 4):
                        there.sendall(frame(xid.to_bytes(4, "big") + bytes(8) + bytes(4)))
                        assert client.recv(100)
        finally:
            plane.stop()
    trace = zktrace.read(str(file))
    got = trace.exchanges.select(["op", "xid", "state"]).to_pylist()
    # 1 was answered without an error, 2 is an exists; 4 is too large to be looked at
    assert [tuple(row.values()) for row in got[1:]] == [
        ("setData", 4, "complete"),
        ("getData", 3, "no_reply"),
    ]
    assert trace.coverage["gaps"] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--record-filter", "write"], "--record FILE"),
        (["--record", "x", "--record-filter", "op = 1"], "--record-filter"),
        (["--record", "x", "--record-filter", "state == complete"], "not known of a frame"),
    ],
)
def test_what_is_wrong_is_told_first(proxy: Make, arguments: list[str], words: str) -> None:
    one = proxy("--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:1", *arguments)
    assert words in one.refused()


def test_each_rotated_file_says_so(tmp_path: Path) -> None:
    with ours(tmp_path / "a") as server:
        host, port = server.address
        listener = Listener.to("127.0.0.1:0", f"{host}:{port}")
        made = Record(str(tmp_path / "r.pcapng"), rotate_bytes=30_000, filter="write")
        plane = create(Config((listener,), record=made, taps=0))
        try:
            from kazoo.client import KazooClient

            client = KazooClient(plane.addresses()[0], timeout=20)
            client.start(60)
            for number in range(400):
                client.create(f"/n{number}", b"x" * 40)
            client.stop()
            client.close()
        finally:
            plane.stop()
    files = sorted(map(str, tmp_path.glob("r-*.pcapng")))
    assert len(files) > 2
    assert zktrace.read(files).coverage["filtered"] == len(files)
    assert zktrace.read(files).exchanges["op"].to_pylist().count("create") == 400
