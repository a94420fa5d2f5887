"""The Python interface, as a notebook would use it."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pytest

import zktrace
from zktrace.analysis.tables import SCHEMAS, plain

PCAPS = Path(__file__).parents[2] / "pcaps"
BASIC = PCAPS / "02_basic_ops.pcap"
HERD = PCAPS / "57_v39_herd.pcap"


def test_read(engine: str) -> None:
    trace = zktrace.read(BASIC, engine=engine)
    for kind, schema in SCHEMAS.items():
        table = getattr(trace, kind)
        assert isinstance(table, pa.Table)
        assert table.schema == schema
        assert trace.tables[kind] is table
    assert trace.exchanges.num_rows == 51
    assert trace.coverage["packets"] == 119
    assert "51 exchanges" in repr(trace)


def test_configuration(engine: str) -> None:
    quorum = zktrace.read(PCAPS / "12_leader_kill.pcap", engine=engine).quorum
    configs = [row["config"] for row in quorum.to_pylist() if row["type"] == "NEWLEADER"]
    assert len(configs) == 3
    for config in configs:
        first, *_, last = config.split("\n")
        assert first == "server.1=127.0.0.1:28881:38881:participant;127.0.0.1:21811"
        assert last == "version=100000000"
    assert quorum["config"].null_count == quorum.num_rows - 3


def test_to_pandas(engine: str) -> None:
    frame = zktrace.read(HERD, engine=engine).exchanges.to_pandas()
    assert frame["op"].value_counts()["getData"] == 520
    assert frame["latency_ns"].median() > 0


def test_sources(tmp_path: Path, engine: str) -> None:
    whole = zktrace.read(str(BASIC), engine=engine).exchanges
    with BASIC.open("rb") as file:
        assert zktrace.read(file, engine=engine).exchanges.equals(whole)
    stream = io.BytesIO(BASIC.read_bytes())
    assert zktrace.read(stream, engine=engine).exchanges.equals(whole)
    assert zktrace.read([BASIC], engine=engine).exchanges.equals(whole)
    both = zktrace.read([HERD, BASIC], engine=engine)
    assert both.exchanges.num_rows == 51 + 1032
    assert both.coverage["packets"] == 119 + 3991


def test_errors(tmp_path: Path, engine: str) -> None:
    noise = tmp_path / "noise"
    noise.write_bytes(b"neither this nor that")
    with pytest.raises(zktrace.CaptureError, match="noise"):
        zktrace.read(noise, engine=engine)
    with pytest.raises(zktrace.CaptureError, match="No such file"):
        zktrace.read(tmp_path / "missing", engine=engine)
    with pytest.raises(zktrace.EngineError, match="turbo"):
        zktrace.read(BASIC, engine="turbo")
    with pytest.raises(zktrace.FilterError):
        zktrace.read(BASIC, filter="op ==", engine=engine)
    with pytest.raises(ValueError, match="99999"):
        zktrace.read(BASIC, client_ports=[99999], engine=engine)
    with pytest.raises(ValueError, match="no source"):
        zktrace.read([], engine=engine)


def test_batches_are_the_tables(engine: str) -> None:
    trace = zktrace.read(HERD, engine=engine)
    steps = zktrace.iter_batches(HERD, engine=engine)
    found: dict[str, list[pa.RecordBatch]] = {kind: [] for kind in SCHEMAS}
    for batches in steps:
        for kind, batch in batches.items():
            assert batch.num_rows
            found[kind].append(batch)
    for kind, parts in found.items():
        assert plain(pa.Table.from_batches(parts, SCHEMAS[kind])).equals(plain(trace.tables[kind]))
    assert steps.coverage == trace.coverage


def test_kept_whole_or_step_by_step(engine: str) -> None:
    """`read` keeps all rows in the engine where that can: the same tables, one dictionary each."""
    from zktrace.analysis.trace import gather

    for name in ("57_v39_herd", "12_leader_kill", "03_multi"):
        path = PCAPS / f"{name}.pcap"
        whole = zktrace.read(path, engine=engine)
        steps = gather(zktrace.iter_batches(path, engine=engine))
        assert whole.coverage == steps.coverage
        for kind, table in whole.tables.items():
            table.validate(full=True)
            assert table.schema == SCHEMAS[kind]
            assert plain(table).equals(plain(steps.tables[kind])), (name, kind)
            for column in table.columns:
                if pa.types.is_dictionary(column.type) and column.num_chunks:
                    first = column.chunk(0).dictionary
                    assert all(chunk.dictionary.equals(first) for chunk in column.chunks)
                    assert len(first.unique()) == len(first)


def test_filter(engine: str) -> None:
    trace = zktrace.read(HERD, engine=engine)
    some = trace.filter("error != 0")
    assert some.exchanges.num_rows == 40
    assert some.watch_events.num_rows == 0
    assert some.coverage == trace.coverage
    early = zktrace.read(HERD, engine=engine, filter="error != 0")
    assert plain(early.exchanges).equals(plain(some.exchanges))
    with pytest.raises(zktrace.FilterError):
        trace.filter("colour == 1")


def test_stats(engine: str) -> None:
    trace = zktrace.read(HERD, engine=engine)
    assert trace.stats()["by_op"][0]["op"] == "getData"
    found = trace.stats(by="op,path", depth=1, top=1)
    assert [row["path"] for row in found["by_path"]] == ["/h", None]
    assert trace.stats(by=["server"]).keys() == {"coverage", "duration_s", "total", "by_server"}
    assert trace.filter('op == "setData"').stats()["total"]["requests"] == 10


def test_hashed_sessions(engine: str) -> None:
    plain_ids = set(zktrace.read(BASIC, engine=engine).exchanges["session"].to_pylist())
    hashed = zktrace.read(BASIC, engine=engine, hash_sessions=True).exchanges
    keyed = [zktrace.read(BASIC, engine=engine, hash_key="k").exchanges for _ in range(2)]
    assert not plain_ids & set(hashed["session"].to_pylist())
    assert keyed[0].equals(keyed[1])


def test_ports(engine: str) -> None:
    for port in (21811, "21811", "127.0.0.1:21811"):
        trace = zktrace.read(BASIC, engine=engine, client_ports=[port])
        assert trace.coverage["flows"]["client"] == 1, "the other server has another port"


def test_progress(engine: str) -> None:
    told: list[tuple[int, int | None]] = []
    zktrace.read([BASIC, HERD], engine=engine, progress=lambda *at: told.append(at))
    size = BASIC.stat().st_size + HERD.stat().st_size
    assert told[-1] == (size, size)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="frobnicate"):
        _ = zktrace.frobnicate
    assert "read" in dir(zktrace)
