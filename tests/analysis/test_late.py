"""Quorum packets of which the capture has a retransmission only: when they passed is not told."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest

import zktrace
from tests.support.cases import PCAPS
from tests.support.pcapio import Record, read_pcap, write_pcap
from zktrace.analysis.join import join
from zktrace.analysis.timeline import timeline

CAPTURE = PCAPS / "60_observer_master.pcap"
ZXID = 0x100000005
_IDENT = 14 + 4
_LATER_NS = 250_000_000


def _sender(packet: dict[str, Any]) -> bytes:
    """Port that it is from."""
    end = packet["client" if packet["direction"] == "to_leader" else "server"]
    return struct.pack(">H", int(end.rpartition(":")[2]))


def _retransmitted(packet: dict[str, Any], path: Path) -> Path:
    """The capture without the segment of this packet, and with a later copy of it."""
    records = list(read_pcap(CAPTURE).records)
    at = next(
        at
        for at, one in enumerate(records)
        if one.ts_ns == packet["ts_ns"] and one.data[34:36] == _sender(packet)
    )
    one = records.pop(at)
    # what is sent again has a number of its own
    ident = struct.unpack_from(">H", one.data, _IDENT)[0] + 20_000 & 0xFFFF
    data = one.data[:_IDENT] + struct.pack(">H", ident) + one.data[_IDENT + 2 :]
    records.append(Record(one.ts_ns + _LATER_NS, data))
    records.sort(key=lambda record: record.ts_ns)
    return write_pcap(path, records)


def _quorum(source: Path, engine: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = zktrace.read(source, engine=engine).quorum.to_pylist()
    return rows


@pytest.mark.parametrize("kind", ["PROPOSAL", "ACK", "COMMIT"])
def test_its_time_is_not_shown(kind: str, engine: str, tmp_path: Path) -> None:
    whole = _quorum(CAPTURE, engine)
    assert not any(row["late"] for row in whole)
    packet = next(row for row in whole if (row["type"], row["zxid"]) == (kind, ZXID))
    made = _retransmitted(packet, tmp_path / "late.pcap")
    rows = _quorum(made, engine)
    late = [row for row in rows if row["late"]]
    assert (packet["type"], packet["zxid"]) in {(row["type"], row["zxid"]) for row in late}
    line = timeline(join(zktrace.read(made, engine=engine).tables))
    at = {"PROPOSAL": 0, "ACK": 1, "COMMIT": 2}[kind]
    shown = line.d_seen[at].sent[line.d_zxid == ZXID]
    times = {row["ts_ns"] for row in late}
    assert len(shown) == 3
    assert not times & set(shown.tolist())
    for write in zktrace.read(made, engine=engine).writes():
        for ack in write["acks"]:
            for name in ("proposal_us", "ack_us", "commit_us"):
                if ack[name] is not None:
                    assert write["ts_ns"] + round(ack[name] * 1000) not in times
