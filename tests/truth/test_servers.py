"""The large capture of all three ports, where ZKTRACE_CAPTURES names the directory that has it."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import zktrace
from tests.conftest import needs_native
from tests.support.cases import VARIABLE
from tests.truth.check import TXNS
from zktrace.wire.opcodes import op_name

MEDIUM = Path(os.environ.get(VARIABLE) or ".") / "medium.pcap.zst"


@pytest.mark.slow
@needs_native
@pytest.mark.skipif(not MEDIUM.exists(), reason=f"{VARIABLE} names no directory with it")
def test_medium() -> None:
    reference = json.loads(MEDIUM.with_name("medium.ref.json").read_text())
    types: Counter[str] = Counter()
    txns: Counter[str] = Counter()
    made = zktrace.iter_batches(str(MEDIUM), engine="native")
    for batches in made:
        if "quorum" not in batches:
            continue
        rows = batches["quorum"]
        for pair in pc.value_counts(rows["type"]).to_pylist():
            types[pair["values"]] += pair["counts"]
        proposed = rows.filter(
            pc.is_in(rows["type"].cast("string"), pa.array(["PROPOSAL", "INFORM"]))
        )
        for pair in pc.value_counts(proposed["txn_type"]).to_pylist():
            txns[pair["values"]] += pair["counts"]
    wanted = {
        TXNS.get(int(key[4:])) or op_name(int(key[4:])): count
        for key, count in reference["quorum_extra"].items()
        if key.startswith("txn:")
    }
    assert dict(types) == reference["quorum"]
    assert dict(txns) == wanted
    assert made.coverage["quorum_packets"] == sum(reference["quorum"].values()) == 548_617
    assert made.coverage["election_messages"] == sum(reference["election"].values())
