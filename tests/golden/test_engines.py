"""The contract of the engines: the same capture in, the same tables and numbers out."""

from __future__ import annotations

import pytest

import zktrace
from tests.conftest import needs_native
from tests.support.cases import everything
from tests.support.decoded import KINDS, decode, decode_bytes
from tests.support.pcapio import unpacked
from zktrace.engine.base import GROUPINGS

pytestmark = needs_native


@pytest.mark.parametrize("name", sorted(everything()))
def test_same_rows(name: str) -> None:
    files = everything()[name].files
    python, native = (decode(*files, engine=engine) for engine in ("python", "native"))
    for kind in KINDS:
        assert python.kind(kind) == native.kind(kind), kind
    assert python.coverage == native.coverage


@pytest.mark.parametrize("name", sorted(everything()))
def test_same_tables_and_statistics(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [str(path) for path in everything()[name].files]
    traces = []
    for engine in ("python", "native"):
        monkeypatch.setenv("ZKTRACE_ENGINE", engine)
        traces.append(zktrace.read(files if len(files) > 1 else files[0]))
    python, native = traces
    for kind in KINDS:
        one, other = getattr(python, kind), getattr(native, kind)
        assert one.schema.equals(other.schema), kind
        assert one.to_pylist() == other.to_pylist(), kind
    assert python.coverage == native.coverage
    assert python.stats(by=list(GROUPINGS)) == native.stats(by=list(GROUPINGS))


@pytest.mark.parametrize("block", [1, 7, 100, 4096])
@pytest.mark.parametrize("name", ["04_watches", "interfaces", "sections", "file_noise", "tcp_wrap"])
def test_blocks_do_not_matter(name: str, block: int) -> None:
    """However the file's bytes are cut into blocks, for each engine."""
    data = unpacked(everything()[name].files[0].read_bytes())
    whole = decode_bytes(data, engine="python")
    for engine in ("python", "native"):
        cut = decode_bytes(data, engine=engine, block=block)
        for kind in KINDS:
            assert whole.kind(kind) == cut.kind(kind), (engine, kind)
        assert whole.coverage == cut.coverage, engine
