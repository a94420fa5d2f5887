"""Checks every capture of a directory against its ground truth: ``python -m tests.truth.check DIR
[NAME...]``.

The directory holds ``NAME.pcap`` with ``NAME.json`` (and ``NAME.ref.json``) in the form of
`pcaps/README.md`. Exit status: 0 all agree, 1 differences, 2 nothing to check. The engine is the
one that ZKTRACE_ENGINE names.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support import compare
from tests.support.decoded import Decoded, decode
from tests.support.truth import Sample, samples
from tests.support.zk import op_name

#: Differences of one capture that are printed.
_MOST = 20


def judge(sample: Sample, decoded: Decoded) -> list[str]:
    """Every difference of a decode to the truth of its capture and to the reference counts."""
    out = compare.problems(sample.truth(), decoded) + compare.consistent(decoded)
    counts = sample.reference.get("client_frames", {})
    frames = decoded.coverage.get("frames", {})
    for name, direction in (("c2s", "to_server"), ("s2c", "to_client")):
        if name in counts and frames.get(direction) != counts[name]:
            out.append(
                f".ref.json {direction}: expected {counts[name]}, got {frames.get(direction)}"
            )
    if sample.reference:
        out += _servers(sample.reference, decoded)
    return out


#: What a reference counted, and this decoder cannot have: it did not read SASL.
_BLIND = "incomplete-tail"


def _servers(reference: Mapping[str, Any], decoded: Decoded) -> list[str]:
    """Differences to the counts of packets between servers."""
    extra = reference.get("quorum_extra", {})
    if _BLIND in extra:
        return []
    types = Counter(row["type"] for row in decoded.quorum)
    proposed = (r for r in decoded.quorum if r["type"] in ("PROPOSAL", "INFORM"))
    txns = Counter(row["txn_type"] for row in proposed)
    snaps = [row for row in decoded.quorum if row["type"] == "SNAP"]
    votes: Counter[str] = Counter()
    for row in decoded.elections:
        if row["type"] == "initial":
            votes[f"initial v={row['version']} sid={row['sid']} addr={row['address']}"] += 1
            continue
        leader = -(1 << 63) if row["leader"] is None else row["leader"]
        state = _STATES.index(row["state"])
        length, version = row["bytes"], row["version"]
        votes[f"notif state={state} leader={leader} len={length} ver={version}"] += 1
    wanted = {
        TXNS.get(int(k[4:])) or op_name(int(k[4:])): n
        for k, n in extra.items()
        if k.startswith("txn:")
    }
    compared: list[tuple[str, Any, Any]] = [
        ("quorum packets", reference.get("quorum", {}), dict(types)),
        ("txns", wanted, dict(txns)),
        ("snapshot nodes", extra.get("snap.nodes", 0), sum(r["snapshot_nodes"] for r in snaps)),
        ("snapshot bytes", extra.get("snap.bytes", 0), sum(r["snapshot_bytes"] for r in snaps)),
        ("elections", reference.get("election", {}), dict(votes)),
        ("coverage quorum_packets", len(decoded.quorum), decoded.coverage["quorum_packets"]),
        (
            "coverage election_messages",
            len(decoded.elections),
            decoded.coverage["election_messages"],
        ),
    ]
    return [
        f".ref.json {what}: expected {expected}, got {got}"
        for what, expected, got in compared
        if expected != got
    ]


#: Types of txns that clients never send.
TXNS = {-1: "error", -10: "createSession"}
_STATES = ("LOOKING", "FOLLOWING", "LEADING", "OBSERVING")


def main(arguments: list[str]) -> int:
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    wanted = set(arguments[1:])
    found = [s for s in samples(Path(arguments[0])) if not wanted or s.name in wanted]
    if not found:
        print(f"{arguments[0]}: no capture with a truth", file=sys.stderr)
        return 2
    bad = 0
    for sample in found:
        began = time.perf_counter()
        differences = judge(sample, decode(*sample.files))
        bad += bool(differences)
        seconds = time.perf_counter() - began
        print(f"{'FAIL' if differences else 'ok  '} {sample.name} ({seconds:.2f} s)")
        for line in differences[:_MOST]:
            print(f"     {line}")
        if len(differences) > _MOST:
            print(f"     ... and {len(differences) - _MOST} more")
    print(f"{len(found) - bad} of {len(found)} captures agree with their truth")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
