"""However a capture point cut, repeated or shuffled the segments: as long as every byte is there,
so is every event.
"""

from __future__ import annotations

import random

import pytest

from tests.support import compare
from tests.support.cases import REAL, everything, records
from tests.support.decoded import decode_records
from tests.support.mangle import HARMLESS


@pytest.mark.parametrize("mangling", HARMLESS)
@pytest.mark.parametrize("name", REAL)
def test_same_events(name: str, mangling: str, engine: str) -> None:
    mangle, times = HARMLESS[mangling]
    truth = everything()[name].truth()
    for seed in range(3):
        made = mangle(records(name), random.Random(seed))
        found = compare.problems(truth, decode_records(made, engine=engine), times=times)
        assert not found, f"seed {seed}: " + compare.report(found)
        if mangling in ("one_byte", "seven_bytes", "merged"):
            break  # chance has no part in these


@pytest.mark.parametrize("name", ["57_v39_herd"])
@pytest.mark.parametrize("mangling", ["merged", "shuffled"])
def test_same_events_of_many_connections(name: str, mangling: str, engine: str) -> None:
    mangle, times = HARMLESS[mangling]
    made = mangle(records(name), random.Random(1))
    found = compare.problems(
        everything()[name].truth(), decode_records(made, engine=engine), times=times
    )
    assert not found, compare.report(found)
