"""Exported spans: OTLP against the protocol's own definition, trace events against their format."""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

import zktrace
from tests.support.cases import PCAPS
from zktrace.cli.main import run
from zktrace.export.spans import otlp_lines, trace_events

NAMES = ("08_sync_diff", "12_leader_kill", "15_container_ttl_reap", "02_basic_ops")


def writes(name: str) -> list[dict[str, Any]]:
    return list(zktrace.read(PCAPS / f"{name}.pcap").writes())


def parsed(line: str) -> ExportTraceServiceRequest:
    """A line as the protocol defines it: that mapping has ids in hex, Protobuf's own in base64."""

    def mapped(one: dict[str, Any]) -> dict[str, Any]:
        for key, size in (("traceId", 16), ("spanId", 8), ("parentSpanId", 8)):
            if key in one:
                raw = bytes.fromhex(one[key])
                assert len(raw) == size
                assert any(raw)
                one[key] = base64.b64encode(raw).decode()
        return one

    fixed = json.loads(line, object_hook=mapped)
    request: ExportTraceServiceRequest = json_format.ParseDict(fixed, ExportTraceServiceRequest())
    return request


@pytest.mark.parametrize("name", NAMES)
def test_otlp(name: str) -> None:
    made = writes(name)
    lines = list(otlp_lines(made, "1.2.3"))
    spans: dict[bytes, list[Any]] = defaultdict(list)
    for line in lines:
        assert "\n" not in line
        for group in parsed(line).resource_spans:
            keys = {one.key: one.value.string_value for one in group.resource.attributes}
            assert keys["service.name"] in ("zookeeper", "zookeeper-client")
            assert keys["service.instance.id"]
            for scope in group.scope_spans:
                assert (scope.scope.name, scope.scope.version) == ("zktrace", "1.2.3")
                for span in scope.spans:
                    spans[span.trace_id].append(span)
    assert len(spans) == len(made)
    by_start = {(one["ts_ns"], one["cxid"], one["zxid"]): one for one in made}
    for members in spans.values():
        ids = {span.span_id for span in members}
        assert len(ids) == len(members)
        (root,) = [span for span in members if not span.parent_span_id]
        told = {one.key: one.value for one in root.attributes}
        key = (
            root.start_time_unix_nano,
            told["zookeeper.cxid"].int_value if "zookeeper.cxid" in told else None,
            told["zookeeper.zxid"].string_value if "zookeeper.zxid" in told else None,
        )
        write = by_start.pop(key)
        length = root.end_time_unix_nano - root.start_time_unix_nano
        assert length == round(write["total_us"] * 1000)
        assert root.status.code == (2 if write["error"] not in (0, None) else 0)
        stages = [span for span in members if span.parent_span_id == root.span_id]
        assert sorted(span.name for span in stages) == sorted(s["stage"] for s in write["stages"])
        assert sum(span.end_time_unix_nano - span.start_time_unix_nano for span in stages) == length
        for span in members:
            assert span.start_time_unix_nano >= root.start_time_unix_nano
            assert span.end_time_unix_nano >= span.start_time_unix_nano
            assert not span.parent_span_id or span.parent_span_id in ids
    assert not by_start


def test_otlp_again_is_the_same() -> None:
    assert list(otlp_lines(writes("12_leader_kill"), "1")) == list(
        otlp_lines(writes("12_leader_kill"), "1")
    )


@pytest.mark.parametrize("name", NAMES)
def test_trace_events(name: str) -> None:
    made = writes(name)
    file = json.loads("".join(trace_events(made)))
    assert file["otherData"]["start_ns"] == str(made[0]["ts_ns"])
    named = {e["pid"]: e["args"]["name"] for e in file["traceEvents"] if e["ph"] == "M"}
    open_: dict[str, list[dict[str, Any]]] = defaultdict(list)
    roots = 0
    for event in file["traceEvents"]:
        if event["ph"] == "M":
            continue
        assert event["pid"] in named
        assert event["ts"] >= 0
        stack = open_[event["id"]]
        if event["ph"] == "b":
            # Nested in time as they are nested in order.
            assert not stack or stack[-1]["ts"] <= event["ts"]
            roots += not stack and event["id"].startswith("w")
            stack.append(event)
        else:
            assert event["ph"] == "e"
            begin = stack.pop()
            assert begin["name"] == event["name"]
            assert begin["ts"] <= event["ts"]
    assert not any(open_.values())
    assert roots == len(made)


def test_nothing() -> None:
    assert list(otlp_lines([], "1")) == []
    assert json.loads("".join(trace_events([])))["traceEvents"] == []


def test_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    otlp, perfetto = tmp_path / "spans.jsonl", tmp_path / "events.json"
    capture = str(PCAPS / "12_leader_kill.pcap")
    arguments = ["trace", capture, "--top", "4", "--otlp", str(otlp), "--perfetto", str(perfetto)]
    assert run(arguments) == 0
    assert "#4" in capsys.readouterr().out
    lines = otlp.read_text().splitlines()
    traces = {
        span.trace_id
        for line in lines
        for group in parsed(line).resource_spans
        for scope in group.scope_spans
        for span in scope.spans
    }
    assert len(traces) == 4
    assert json.loads(perfetto.read_text())["traceEvents"]
    assert run([*arguments[:-1], str(tmp_path / "no" / "where")]) == 2
    assert "where" in capsys.readouterr().err
