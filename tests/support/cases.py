"""Which captures the tests run over: `pcaps/`, and a directory of others that ZKTRACE_CAPTURES
names.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Final

from tests.support.pcapio import ETHERNET, Record, read_pcap
from tests.support.truth import Sample, samples

ROOT: Final = Path(__file__).parents[2]
PCAPS: Final = ROOT / "pcaps"

#: Environment variable that names a directory of further captures in the same form.
VARIABLE: Final = "ZKTRACE_CAPTURES"


@cache
def everything() -> dict[str, Sample]:
    """All captures with a truth by name; those of the further directory as ``DIR/NAME``."""
    found = {sample.name: sample for sample in samples(PCAPS)}
    more = os.environ.get(VARIABLE)
    if more:
        directory = Path(more)
        found |= {f"{directory.name}/{s.name}": s for s in samples(directory)}
    return found


@cache
def records(name: str) -> tuple[Record, ...]:
    """The records of a capture of plain Ethernet."""
    capture = read_pcap(everything()[name].files[0])
    assert capture.linktype == ETHERNET
    return tuple(capture.records)


#: Real captures of client traffic of every kind, in order of time and without damage: what is
#: mangled.
REAL: Final = (
    "02_basic_ops",
    "03_multi",
    "04_watches",
    "06_four_letter",
    "12_leader_kill",
    "13_session_expiry_move",
    "20_old34_client",
    "21_fragmented",
    "22_pipelined",
    "25_kazoo_ops",
    "30_sasl_digest_md5",
    "52_v39_watches",
)
