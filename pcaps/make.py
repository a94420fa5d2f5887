"""Makes the crafted captures of this folder and their truths: ``python -m pcaps.make [--check]``
from the top.

Deterministic: the same files, byte for byte, each time (``--check`` says which would differ and
exits with 1). The captures of a real ensemble (see README.md) are not made here; one of them is
what the wraps are made of.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pcaps import zab
from pcaps.scenes_tcp import SCENES as TCP
from pcaps.scenes_zk import SCENES as ZK
from pcaps.wraps import wraps
from tests.support import net
from tests.support.pcapio import Record, pcap_bytes, read_pcap, unpacked
from tests.support.talk import Scene

HERE = Path(__file__).parent
BASE = "02_basic_ops"

#: Larger ones are compressed.
_LARGE = 200_000

#: Bytes that look like nothing: deterministic and without runs that a reader could take for a
#: header.
_NOISE = bytes((i * i * 31 + i * 7 + 0x55) & 0xFF | 0x80 for i in range(300))


def _truth(path: str, meta: dict[str, Any]) -> dict[str, bytes]:
    return {path: (json.dumps(meta, indent=1, ensure_ascii=True) + "\n").encode()}


def of_scene(name: str, scene: Scene, what: str) -> dict[str, bytes]:
    """The files of a scene."""
    meta: dict[str, Any] = {"description": what, "synthetic": True}
    if scene.secrets:
        meta["secrets_that_must_never_be_shown"] = scene.secrets
    meta["expect"] = scene.expectation()
    return _file(name, (net.record(seg) for seg in scene.segs)) | _truth(f"{name}.json", meta)


def _file(name: str, records: Iterable[Record]) -> dict[str, bytes]:
    data = pcap_bytes(records, nanoseconds=True)
    if len(data) > _LARGE:
        return {f"{name}.pcap.gz": gzip.compress(data, mtime=0)}
    return {f"{name}.pcap": data}


def damaged(records: list[Record]) -> dict[str, bytes]:
    """Files that are hurt themselves."""
    whole = pcap_bytes(records)
    out: dict[str, bytes] = {}

    def add(name: str, what: str, data: bytes, expect: dict[str, Any]) -> None:
        out[f"{name}.pcap"] = data
        out.update(_truth(f"{name}.json", {"description": what, "synthetic": True, **expect}))

    as_base = {"same_truth_as": f"{BASE}.json", "times_as": f"{BASE}.pcap"}
    # After the 7th record from the end (all of them only acknowledge) comes noise, then the rest.
    at = len(whole) - sum(16 + len(r.data) for r in records[-7:])
    add(
        "file_noise",
        f"{BASE} with {len(_NOISE)} bytes of noise between two records",
        whole[:at] + _NOISE + whole[at:],
        as_base
        | {"expect_also": {"coverage": {"damaged_places": 1, "damaged_bytes": len(_NOISE)}}},
    )
    tail = Record(records[-1].ts_ns + 1000, bytes(200))
    add(
        "file_cut",
        f"{BASE} and one more record that the file ends in",
        whole + pcap_bytes([tail])[24:-50],
        as_base | {"expect_also": {"coverage": {"truncated": 1, "gaps": 0}}},
    )
    add(
        "file_empty",
        "a file header and nothing else",
        whole[:24],
        {"expect": {"coverage": {"packets": 0, "bytes": 0, "gaps": 0}}},
    )
    return out


def snapped() -> dict[str, bytes]:
    """A snap length that cuts two large requests: what was asked before, between and after them
    stays whole.
    """
    from tests.support import zk
    from tests.support.talk import Row, Talk

    scene = Scene(anomalies=["gap"], anomalies_allowed=["*"])
    talk = Talk(scene).open()
    talk.connect()
    xid = 0
    for _ in range(2):
        for _ in range(10):
            xid += 1
            talk.get(xid, f"/s/{xid}", 0x100 + xid, b"")
        xid += 1
        body = zk.set_data(f"/large/{xid}", b"D" * 1000)
        row = talk.call(
            xid, zk.SET_DATA, body, 0x100 + xid, zk.stat(version=1), path=f"/large/{xid}"
        )
        scene.exchanges.remove(row)
        unsure: Row = {**row, "latency_us": None}
        lone: Row = {"flow": talk.flow, "xid": xid, "state": "no_request", "op": None}
        scene.any_of.append([row, unsure, lone])
    for _ in range(20):
        xid += 1
        talk.get(xid, f"/s/{xid}", 0x100 + xid, b"")
    talk.goodbye(xid + 1, 0x200)
    scene.coverage = {"truncated": 2, "gaps": 2}
    snaplen = 220
    data = pcap_bytes((net.record(seg) for seg in scene.segs), snaplen=snaplen, nanoseconds=True)
    meta = {"description": f"Captured with a snap length of {snaplen}.", "synthetic": True}
    return {"snap.pcap": data} | _truth("snap.json", {**meta, "expect": scene.expectation()})


def made() -> dict[str, bytes]:
    """Every file by name."""
    records = read_pcap(HERE / f"{BASE}.pcap").records
    out: dict[str, bytes] = {}
    for name, wrap in wraps(BASE, records).items():
        meta = {
            "description": f"{BASE}, {wrap.what}",
            "synthetic": True,
            "same_truth_as": f"{BASE}.json",
            "times_as": f"{BASE}.pcap",
            **wrap.meta,
        }
        out |= wrap.files | _truth(f"{name}.json", meta)
    for prefix, scenes in (("tcp", TCP), ("zk", ZK)):
        for name, scene in scenes.items():
            what = (scene.__doc__ or "").strip()
            out |= of_scene(f"{prefix}_{name}", scene(), what)
    for name, what, packets, expect, counts in zab.captures():
        meta = {"description": what, "synthetic": True, "expect": expect}
        out |= (
            _file(name, packets) | _truth(f"{name}.json", meta) | _truth(f"{name}.ref.json", counts)
        )
    out |= damaged(records)
    out |= snapped()
    return out


def _plain(path: Path) -> bytes | None:
    """What a file holds: compressors of other versions may pack it otherwise."""
    return unpacked(path.read_bytes()) if path.exists() else None


def main(arguments: list[str]) -> int:
    files = made()
    if arguments == ["--check"]:
        stale = [n for n, b in files.items() if _plain(HERE / n) != unpacked(b)]
        for name in stale:
            print(f"{name}: not what make.py makes")
        return 1 if stale else 0
    for name, data in files.items():
        (HERE / name).write_bytes(data)
    print(f"{len(files)} files, {sum(map(len, files.values())):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
