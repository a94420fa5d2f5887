"""The native engine's plain arrays hold what its tables hold, of every capture."""

from __future__ import annotations

import pyarrow as pa
import pytest

import zktrace
from tests.conftest import needs_native
from tests.support.cases import PCAPS
from zktrace.analysis.arrays import Arrays, taken
from zktrace.analysis.columns import NONE
from zktrace.analysis.names import vocabulary
from zktrace.analysis.native import VERIFY_COLUMNS, array_run, write_opcodes
from zktrace.analysis.tables import SCHEMAS
from zktrace.analysis.verify.columns import Columns, of_tables, united
from zktrace.engine.base import EngineOptions, create

pytestmark = needs_native

CAPTURES = sorted(path.name for path in PCAPS.glob("*.pcap*"))


def _arrays(name: str, ops: tuple[int, ...] | None = None) -> Arrays:
    path = PCAPS / name
    run = array_run([path], EngineOptions(), VERIFY_COLUMNS, ops=ops, engine="native")
    assert run is not None
    return taken(run)


def _texts(columns: Columns, name: str) -> list[str | None]:
    words = columns.words(name)
    return [words[code] if code >= 0 else None for code in columns.codes(name).tolist()]


def _mine(arrays: Arrays, kind: str, name: str) -> list[str | None]:
    words = arrays.words(kind, name)
    return [words[code] if code >= 0 else None for code in arrays.codes(kind, name).tolist()]


@pytest.mark.parametrize("name", CAPTURES)
def test_as_the_tables(name: str) -> None:
    tables = of_tables(zktrace.read(PCAPS / name, engine="native").tables)
    arrays = _arrays(name)
    for kind, wanted in tables.items():
        assert arrays.rows(kind) == wanted.rows
    ends = [f"{kind}.{end}" for kind in tables for end in ("client", "server")]
    for full in (*VERIFY_COLUMNS, *ends):
        kind, _, column = full.partition(".")
        wanted = tables[kind]
        own = SCHEMAS[kind].field(column.partition(".")[0]).type
        if column == "watch":
            assert arrays.flags(kind, column).tolist() == wanted.flags(column).tolist()
        elif pa.types.is_dictionary(own):
            assert _mine(arrays, kind, column) == _texts(wanted, column), full
        elif pa.types.is_string(own):
            texts = [wanted.value(column, row) for row in range(wanted.rows)]
            assert _mine(arrays, kind, column) == texts, full
        else:
            assert arrays.ints(kind, column).tolist() == wanted.ints(column).tolist(), full


def test_some_ops_only() -> None:
    whole, writes = _arrays("02_basic_ops.pcap"), _arrays("02_basic_ops.pcap", write_opcodes())
    wanted = vocabulary().writes | {"connect"}
    ops = whole.words("exchanges", "op")
    codes = whole.codes("exchanges", "op").tolist()
    seqs = whole.ints("exchanges", "seq").tolist()
    kept = [seq for seq, code in zip(seqs, codes, strict=True) if ops[code] in wanted]
    assert 0 < len(kept) < len(seqs)
    assert writes.ints("exchanges", "seq").tolist() == kept
    # numbers of rows are those of the capture, whatever is left out
    assert writes.ints("connections", "seq").tolist() == whole.ints("connections", "seq").tolist()


def test_a_column_that_there_is_not() -> None:
    with pytest.raises(ValueError, match=r"no column .quorum\.data"):
        create(EngineOptions(tables=False, arrays=("quorum.data",)), "native")


def test_not_known_is_none() -> None:
    arrays = _arrays("12_leader_kill.pcap")
    zxids = arrays.ints("quorum", "zxid")
    assert (zxids == NONE).any()
    assert (zxids != NONE).any()


def test_one_numbering_of_texts() -> None:
    (first, second), count = united(["a", "b"], ["b", "c"])
    assert first.tolist() == [0, 1]
    assert second.tolist() == [1, 2]
    assert count == 3
