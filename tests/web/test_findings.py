"""What stands out, and the packets that prove it: saved once, few, and such as prove it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import net, zk
from tests.support.decoded import decode
from tests.support.pcapio import read_pcap, write_pcap
from tests.support.talk import Scene, Talk
from tests.web.conftest import PCAPS, client_of, picture_of
from zktrace.capture.interfaces import Interface
from zktrace.capture.keep import Ring
from zktrace.capture.live import Plan, record_bytes
from zktrace.store.picture import Picture
from zktrace.web import findings, models
from zktrace.web.findings import PER_MINUTE, Proofs

HERD, EXPIRY = "57_v39_herd.pcap", "13_session_expiry_move.pcap"


def ring_of(capture: Path, directory: Path, max_bytes: int = 64 << 20) -> Ring:
    """A ring that holds the packets of a capture."""
    plan = Plan((Interface("lo", 1, 772),), record="pcapng")
    ring = Ring(str(directory), plan, keep_s=10**6, max_bytes=max_bytes)
    ring.prepare()
    ring.begin()
    records = read_pcap(capture).records
    for record in records:
        ring.add(record_bytes("pcapng", record.ts_ns, record.data, record.length), 1)
    until = time.monotonic() + 60
    while ring.state()["to_ns"] != max(record.ts_ns for record in records):
        assert time.monotonic() < until
        time.sleep(0.01)
    return ring


@pytest.fixture
def herd_ring(tmp_path: Path) -> Iterator[Ring]:
    ring = ring_of(PCAPS / HERD, tmp_path / "ring")
    yield ring
    ring.close()


def listed(picture: Picture) -> list[dict[str, Any]]:
    answer = client_of(picture).json("/api/findings", limit=1000)
    models.FindingList.model_validate(answer)
    assert answer["groups"] == len(answer["rows"])
    rows: list[dict[str, Any]] = answer["rows"]
    return rows


def test_herds(engine: str) -> None:
    picture = picture_of(HERD)
    rows = [row for row in listed(picture) if row["kind"] == "herd"]
    writes = client_of(picture).json("/api/watches", limit=1000)["writes"]
    herds = [write for write in writes if write["herd"]]
    assert len(rows) == len(herds) > 0
    assert {row["path"] for row in rows} == {write["path"] for write in herds}
    for row in rows:
        assert row["from_ns"] < row["ts_ns"] < row["to_ns"]
        assert (row["proof"], row["why_not"]) == (None, None)


def test_sessions_near_their_end_and_past_it(engine: str) -> None:
    rows = listed(picture_of(EXPIRY))
    kinds = {(row["kind"], row["session"]) for row in rows}
    assert ("expired", "0x0100001e10f50000") in kinds
    assert ("near_miss", "0x0100001e10f50000") in kinds
    assert all("% of its timeout" in row["text"] for row in rows if row["kind"] == "near_miss")


def test_outliers_of_the_slow_log(tmp_path: Path, engine: str) -> None:
    scene = Scene()
    talk = Talk(scene, ("10.1.0.1", 40001)).open()
    talk.connect(0x100)
    for xid in range(1, 1202):
        talk.get(xid, "/quick", 1)
    for wait, path in ((50_000_000, "/below"), (400_000_000, "/slow")):
        xid += 1
        asked = talk.ask(xid, zk.GET_DATA, zk.path_watch(path), path=path)
        scene.tick(wait)
        talk.answer(asked, 1, 0, zk.buffer(b"") + zk.stat(czxid=1))
    talk.close()
    write_pcap(tmp_path / "slow.pcap", map(net.record, scene.segs))
    picture = picture_of(str(tmp_path / "slow.pcap"))
    (row,) = [row for row in listed(picture) if row["kind"] == "slow"]
    assert row["path"] == "/slow"
    assert "getData of /slow took 400" in row["text"]
    assert (row["client"], row["session"]) == ("10.1.0.1:40001", "0x0000000000000100")


def test_packets_that_prove_it_are_saved_once(herd_ring: Ring, engine: str) -> None:
    picture = picture_of(HERD)
    told: list[str] = []
    proofs = Proofs(picture, herd_ring, told.append)
    proofs.look()
    answer = findings.listed(picture, proofs, 1000)
    models.FindingList.model_validate(answer)
    proved = [row for row in answer["rows"] if row["proof"] is not None]
    herd = next(row for row in proved if row["kind"] == "herd")
    file = herd_ring.directory / herd["proof"]["file"]
    assert file.stat().st_size == herd["proof"]["bytes"]
    at = herd["ts_ns"]
    fired = [row for row in decode(file).watch_events if 0 <= row["ts_ns"] - at < 10**9]
    assert len({row["conn"] for row in fired}) >= 20
    assert any(file.name in line for line in told)
    files = sorted(path.name for path in herd_ring.directory.glob("zktrace-slice-*"))
    assert len(files) == len(proved) == len(told)
    proofs.look()
    assert sorted(path.name for path in herd_ring.directory.glob("zktrace-slice-*")) == files


def test_a_session_s_proof_is_of_its_client_alone(tmp_path: Path, engine: str) -> None:
    picture = picture_of(EXPIRY)
    ring = ring_of(PCAPS / EXPIRY, tmp_path / "ring")
    proofs = Proofs(picture, ring)
    proofs.look()
    rows = findings.listed(picture, proofs, 1000)["rows"]
    saved = [row for row in rows if row["proof"] is not None and row["session"] is not None]
    assert saved
    for row in saved:
        packets = read_pcap_times(ring.directory / row["proof"]["file"])
        assert len(packets) == row["proof"]["packets"]
        assert row["from_ns"] <= min(packets) <= max(packets) < row["to_ns"]
    ring.close()


def read_pcap_times(path: Path) -> list[int]:
    from zktrace.capture.counters import CaptureCounters
    from zktrace.capture.merge import read_packets

    return [packet.ts_ns for packet in read_packets([str(path)], CaptureCounters())]


def test_a_bad_day_is_bounded(herd_ring: Ring, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = picture_of(HERD)
    one = next(one for one in findings.findings(picture) if one.kind == "herd")
    many = [one._replace(key=f"herd {i}") for i in range(PER_MINUTE + 5)]
    monkeypatch.setattr(findings, "findings", lambda picture: many)
    proofs = Proofs(picture, herd_ring)
    proofs.look()
    assert proofs.left_out == 5
    answer = findings.listed(picture, proofs, 1000)
    assert answer["left_out"] == 5
    assert sum(row["proof"] is not None for row in answer["rows"]) == PER_MINUTE
    assert sum(row["why_not"] is not None for row in answer["rows"]) == 5


def test_no_room_is_told(tmp_path: Path) -> None:
    picture = picture_of(HERD)
    ring = ring_of(PCAPS / HERD, tmp_path / "ring", max_bytes=16 << 20)
    # Slices may take as much as the ring.
    with open(ring.directory / "zktrace-slice-x.pcapng", "wb") as file:
        file.truncate(16 << 20)
    proofs = Proofs(picture, ring)
    proofs.look()
    rows = findings.listed(picture, proofs, 1000)["rows"]
    assert any("slices take" in (row["why_not"] or "") for row in rows)
    ring.close()


def test_what_was_before_packets_were_kept_has_no_proof(tmp_path: Path) -> None:
    picture = picture_of(HERD)
    plan = Plan((Interface("lo", 1, 772),), record="pcapng")
    ring = Ring(str(tmp_path / "empty"), plan, keep_s=60, max_bytes=1 << 20)
    ring.prepare()
    proofs = Proofs(picture, ring)
    proofs.look()
    assert proofs.all() == []
    assert not proofs.left_out
