"""Checks every capture of a directory against its ground truth: ``python -m tests.truth.check DIR
[NAME...]``.

The directory holds ``NAME.pcap`` with ``NAME.json`` (and ``NAME.ref.json``) in the form of
`pcaps/README.md`. Exit status: 0 all agree, 1 differences, 2 nothing to check. The engine is the
one that ZKTRACE_ENGINE names.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from tests.support import compare
from tests.support.decoded import Decoded, decode
from tests.support.truth import Sample, samples

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
    return out


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
