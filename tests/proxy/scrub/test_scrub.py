"""A scrubbed capture says what the first one said, and names nothing that the first one named."""

from __future__ import annotations

import io
import ipaddress
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import zktrace
from tests.proxy.conftest import ROOT
from tests.proxy.replay.support import compared, differences, record, replayed
from tests.server.ourzk import ours
from zktrace.capture.write import PcapngWriter
from zktrace.wire.message import frame
from zktrace.wire.records import ConnectRequest, ConnectResponse
from zktrace_proxy.messages.packets import Flow, Packets
from zktrace_proxy.scrub.pseudonyms import Pseudonyms
from zktrace_proxy.scrub.rewrite import Scrubbed, scrub

PCAPS = ROOT / "pcaps"
KEY = b"0123456789abcdef"
CONNECT = frame(ConnectRequest(0, 0, 30_000, 0, bytes(16), False).encode())
CONNECTED = frame(ConnectResponse(0, 30_000, 7, bytes(16), False).encode())
#: Captures of client traffic, each with what its own scene has.
CASES = (
    "02_basic_ops",
    "03_multi",
    "04_watches",
    "13_session_expiry_move",
    "20_old34_client",
    "22_pipelined",
    "25_kazoo_ops",
    "50_v39_basic_ops",
    "57_v39_herd",
    "ipv6",
    "zk_secrets",
    "zk_failed_multi",
)


def scrubbed(source: Path, to: Path, key: bytes = KEY) -> Scrubbed:
    with to.open("wb") as out:
        return scrub([str(source)], out, key)


def told(trace: zktrace.Trace, latencies: bool = True) -> list[tuple[Any, ...]]:
    """What must stay."""
    columns = ["ts_ns", "op", "xid", "error", "zxid", "request_bytes", "reply_bytes", "state"]
    columns += ["flags", "version", "data_length", "children", "watch"]
    columns += ["latency_ns"] if latencies else []
    rows = trace.exchanges.select(columns).to_pylist()
    return sorted((tuple(row.values()) for row in rows), key=repr)


@pytest.mark.parametrize("case", [case for case in CASES if case != "zk_secrets"])
def test_ops_times_sizes_and_errors_stay(case: str, tmp_path: Path) -> None:
    source = PCAPS / f"{case}.pcap"
    scrubbed(source, tmp_path / "out.pcapng")
    before, after = zktrace.read(str(source)), zktrace.read(str(tmp_path / "out.pcapng"))
    assert told(after) == told(before)
    events = ["ts_ns", "event", "keeper_state", "zxid", "bytes"]
    assert (
        after.watch_events.select(events).to_pylist()
        == before.watch_events.select(events).to_pylist()
    )
    assert after.coverage["gaps"] == after.coverage["skipped_bytes"] == 0
    assert after.coverage["exchanges"] == before.coverage["exchanges"]


@pytest.mark.parametrize("case", CASES)
def test_no_name_address_id_or_secret_is_left(case: str, tmp_path: Path) -> None:
    source = PCAPS / f"{case}.pcap"
    scrubbed(source, tmp_path / "out.pcapng")
    content = (tmp_path / "out.pcapng").read_bytes()
    trace = zktrace.read(str(source))
    words: set[bytes] = set()
    for column in (trace.exchanges["path"], trace.exchanges["created_path"],
                   trace.watch_events["path"]):  # fmt: skip
        for path in filter(None, column.to_pylist()):
            words |= {part.encode() for part in re.sub(r"\d{10}$", "", path).split("/")}
    # short ones, and ZooKeeper's own, may be there by chance or rightly
    words = {word for word in words if len(word) > 5 and word not in (b"zookeeper", b"config")}
    for sid in set(trace.exchanges["session"].to_pylist()) - {None, 0}:
        words.add((sid & (1 << 64) - 1).to_bytes(8, "big"))
    for client in set(trace.exchanges["client"].to_pylist()):
        address = ipaddress.ip_address(client.rpartition(":")[0].strip("[]"))
        words.add(address.packed if address.version == 6 else b"\x45" + address.packed)
    truth = json.loads((PCAPS / f"{case}.json").read_text())
    if isinstance(truth, dict):
        words |= {
            secret.encode()
            for secret in truth.get("secrets_that_must_never_be_shown", [])
            if isinstance(secret, str)
        }
    found = [word for word in words if word in content]
    assert found == []


def test_secrets_of_all_kinds_are_zeros(tmp_path: Path) -> None:
    """`zk_secrets` has passwords, credentials, tokens, ACLs and node data made for this."""
    source = PCAPS / "zk_secrets.pcap"
    scrubbed(source, tmp_path / "out.pcapng")
    content = (tmp_path / "out.pcapng").read_bytes()
    before = source.read_bytes()
    for secret in (b"secret", b"geheim", b"password", b"hunter2"):
        assert secret not in content, secret
    # what the capture has of runs of printable text is not there any more
    runs = {run for run in re.findall(rb"[ -~]{8,}", before) if b"zookeeper" not in run}
    assert runs
    assert [run for run in runs if run in content] == []


def test_it_replays_and_compares_as_the_first_one(tmp_path: Path) -> None:
    with ours(tmp_path / "a") as server:
        record(
            server.address,
            tmp_path / "a.pcapng",
            ["locks", "election", "queue", "config", "kafka", "clickhouse", "discovery"],
            clients=14,
            ops=600,
        )
    scrubbed(tmp_path / "a.pcapng", tmp_path / "out.pcapng")
    with ours(tmp_path / "b") as server:
        report = replayed(tmp_path / "out.pcapng", server.address)
    assert differences(report) == []
    same = compared(tmp_path / "out.pcapng", tmp_path / "out.pcapng")
    assert same.differences == 0


def test_connections_on_the_same_ports_stay_apart(tmp_path: Path) -> None:
    """The second one is no copy of the first; its handshake begins with other numbers."""
    out = tmp_path / "twice.pcapng"
    with out.open("wb") as file:
        writer = PcapngWriter(file)
        writer.interface()
        packets = Packets(writer)
        for number in range(3):
            at = (1 + number) * 10**9
            flow = Flow((b"\x0a\0\0\1", 4000), (b"\x0a\0\0\2", 2181))
            packets.open(flow, at)
            packets.data(flow, 0, at, at, CONNECT)
            packets.data(flow, 1, at, at + 1000, CONNECTED)
            packets.close(flow, at + 2000)
        packets.finish()
    coverage = zktrace.read(str(out)).coverage
    assert coverage["exchanges"]["complete"] == 3
    assert coverage["flows"]["client"] == 3


def test_the_key_decides(tmp_path: Path) -> None:
    source = PCAPS / "25_kazoo_ops.pcap"
    outs = []
    for number, key in enumerate((KEY, KEY, b"another key 1234")):
        outs.append(io.BytesIO())
        scrub([str(source)], outs[number], key)
    assert outs[0].getvalue() == outs[1].getvalue()
    assert outs[0].getvalue() != outs[2].getvalue()


@pytest.mark.parametrize(
    ("capture", "role"),
    [("tcp_tls", "tls"), ("tcp_http", "unknown"), ("01_election_start", "quorum")],
)
def test_what_is_not_understood_is_left_out_and_told(
    capture: str, role: str, tmp_path: Path
) -> None:
    told = scrubbed(PCAPS / f"{capture}.pcap", tmp_path / "out.pcapng")
    assert told.dropped[role] > 0
    flows = zktrace.read(str(tmp_path / "out.pcapng")).coverage["flows"]
    assert flows[role] == 0


def test_gaps_stay_gaps(tmp_path: Path) -> None:
    for case in ("tcp_gap_body", "tcp_gap_replies", "tcp_gap_request"):
        out = tmp_path / f"{case}.pcapng"
        scrubbed(PCAPS / f"{case}.pcap", out)
        before, after = zktrace.read(str(PCAPS / f"{case}.pcap")), zktrace.read(str(out))
        assert after.coverage["gaps"] > 0
        complete = after.coverage["exchanges"]["complete"]
        assert 0 < complete <= before.coverage["exchanges"]["complete"]


_NAMES = st.text(
    st.characters(exclude_characters="/", exclude_categories=["Cs"]), min_size=1, max_size=20
)


@given(st.lists(_NAMES, max_size=20, unique=True))
def test_names_keep_their_length_and_stay_apart(names: list[str]) -> None:
    pseudonyms = Pseudonyms(KEY)
    made = [pseudonyms.component(name) for name in names]
    for name, other in zip(names, made, strict=True):
        assert len(other.encode()) == len(name.encode())
        assert "/" not in other
        assert other not in (".", "..") or name == other
    plain = [m for n, m in zip(names, made, strict=True) if n.isascii() and n.isprintable()
             and " " not in n]  # fmt: skip
    assert len(set(plain)) == len(plain)


@given(_NAMES, st.integers(0, 9_999_999_999))
def test_a_sequential_name_begins_as_what_was_asked_for(name: str, number: int) -> None:
    pseudonyms = Pseudonyms(KEY)
    if re.fullmatch(r".*[0-9]{10}", name, re.DOTALL):
        return
    made = pseudonyms.path(f"/a/{name}{number:010d}")
    assert made == f"{pseudonyms.path(f'/a/{name}')}{number:010d}"


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
def test_session_ids_stay_apart_and_keep_their_server(one: int, two: int) -> None:
    pseudonyms = Pseudonyms(KEY)
    made = pseudonyms.session(one)
    assert (made == pseudonyms.session(two)) == (one == two)
    assert (made >> 56) == (one >> 56)
    assert (made == 0) == (one == 0)


def test_all_names_of_two_letters_stay_apart() -> None:
    pseudonyms = Pseudonyms(KEY)
    letters = "abcdefghijklmnopqrstuvwxyz"
    for names in ([*letters], [a + b for a in letters for b in letters]):
        assert len({pseudonyms.component(name) for name in names}) == len(names)
