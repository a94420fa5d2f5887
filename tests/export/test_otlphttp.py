"""Spans over HTTP, to a receiver of this process that reads them by the protocol's definition."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import zktrace
from tests.export.test_spans import parsed
from tests.support.cases import PCAPS
from tests.support.javazk import free_ports
from zktrace.cli.main import run
from zktrace.export.otlphttp import LONGEST_WAIT_S, TRIES, ExportError, post, traces_url
from zktrace.export.spans import otlp_lines


class Receiver:
    """A collector: keeps what it is sent, and answers as it is told."""

    def __init__(self) -> None:
        self.bodies: list[str] = []
        self.paths: list[str] = []
        #: status, headers and body of the next answers; then 200
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.under_way = self.most = 0
        lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                with lock:
                    receiver.under_way += 1
                    receiver.most = max(receiver.most, receiver.under_way)
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.headers["Content-Type"] == "application/json"
                headers: dict[str, str] = {}
                status, answer = 200, b"{}"
                if receiver.answers:
                    status, headers, answer = receiver.answers.pop(0)
                if status == 200:
                    receiver.bodies.append(gzip.decompress(body).decode())
                    receiver.paths.append(self.path)
                with lock:
                    receiver.under_way -= 1
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def spans(self) -> int:
        requests = map(parsed, self.bodies)
        groups = (group for request in requests for group in request.resource_spans)
        return sum(len(scope.spans) for group in groups for scope in group.scope_spans)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    one = Receiver()
    thread = threading.Thread(target=one.server.serve_forever)
    thread.start()
    yield one
    one.server.shutdown()
    thread.join()
    one.server.server_close()


def test_the_command_sends_what_it_would_write(receiver: Receiver, tmp_path: Path) -> None:
    capture = str(PCAPS / "12_leader_kill.pcap")
    written = tmp_path / "spans"
    assert run(["trace", capture, "--otlp", str(written)]) == 0
    assert run(["trace", capture, "--otlp", receiver.url]) == 0
    assert receiver.bodies == written.read_text().splitlines()
    assert receiver.spans() > 0
    assert set(receiver.paths) == {"/v1/traces"}


def test_one_request_at_a_time(receiver: Receiver) -> None:
    writes = list(zktrace.read(PCAPS / "02_basic_ops.pcap").writes())
    lines = list(otlp_lines(writes, "1")) * 50
    assert post(iter(lines), traces_url(receiver.url)).requests == len(lines)
    assert receiver.bodies == lines
    assert receiver.most == 1


def test_a_busy_collector_is_waited_for(receiver: Receiver) -> None:
    receiver.answers = [(429, {"Retry-After": "7"}, b""), (503, {}, b""), (503, {}, b"")]
    waits: list[float] = []
    sent = post(["{}", "{}"], traces_url(receiver.url), sleep=waits.append)
    assert sent.requests == 2
    assert waits == [7.0, 1.0, 2.0]
    assert receiver.bodies == ["{}", "{}"]


def test_it_is_not_waited_for_without_end(receiver: Receiver) -> None:
    receiver.answers = [(503, {"Retry-After": "99999"}, b"")] * TRIES
    waits: list[float] = []
    with pytest.raises(ExportError, match="503"):
        post(["{}"], traces_url(receiver.url), sleep=waits.append)
    assert waits == [LONGEST_WAIT_S] * (TRIES - 1)


@pytest.mark.parametrize("status", [301, 400, 401, 404, 500])
def test_a_refusal_is_told_at_once(
    receiver: Receiver, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    receiver.answers = [(status, {"Location": receiver.url}, b"")]
    assert run(["trace", str(PCAPS / "02_basic_ops.pcap"), "--otlp", receiver.url]) == 2
    told = capsys.readouterr().err
    assert str(status) in told
    assert told.count("\n") == 1
    assert receiver.bodies == []


def test_rejected_spans_are_told(receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
    partial = b'{"partialSuccess":{"rejectedSpans":"3","errorMessage":"too old\\u001b[31m"}}'
    receiver.answers = [(200, {}, partial)]
    assert run(["trace", str(PCAPS / "02_basic_ops.pcap"), "--otlp", receiver.url]) == 0
    told = capsys.readouterr().err
    assert "3 spans were rejected: too old" in told
    assert "\x1b" not in told


@pytest.mark.parametrize("answer", [b"", b"[]", b"null", b"no JSON", b'{"partialSuccess":1}'])
def test_any_answer(receiver: Receiver, answer: bytes) -> None:
    receiver.answers = [(200, {}, answer)]
    assert post(["{}"], traces_url(receiver.url)).requests == 1


def test_nobody_listens() -> None:
    waits: list[float] = []
    with pytest.raises(ExportError, match="refused"):
        post(["{}"], f"http://127.0.0.1:{free_ports(1)[0]}/v1/traces", sleep=waits.append)
    assert len(waits) == TRIES - 1


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("http://collector:4318", "http://collector:4318/v1/traces"),
        ("http://collector:4318/", "http://collector:4318/v1/traces"),
        ("https://x/own/path", "https://x/own/path"),
    ],
)
def test_urls(given: str, meant: str) -> None:
    assert traces_url(given) == meant
