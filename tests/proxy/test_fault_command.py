"""Faults of a running proxy: by command, over HTTP, in the event stream and in the recording."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError

import zktrace
from tests.proxy.conftest import COMMAND, ROOT, Proxy
from tests.server.ourzk import ours

Make = Callable[..., Proxy]
RULE = 'error NoNode when op == "getData" and path == "/wanted"'


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with ours(tmp_path_factory.mktemp("server")) as server:
        yield server.hosts


@contextmanager
def kazoo(hosts: str) -> Iterator[KazooClient]:
    client = KazooClient(hosts, timeout=20)
    client.start(60)
    try:
        yield client
    finally:
        client.stop()
        client.close()


def ask(url: str, method: str = "GET", body: Any = None, **headers: str) -> tuple[int, Any]:
    request = urllib.request.Request(
        url,
        None if body is None else json.dumps(body).encode(),
        {"content-type": "application/json", **headers},
        method=method,
    )
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def command(*arguments: str) -> tuple[int, str, str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "proxy")])
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "fault", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_faults_by_command_are_in_the_events_and_the_recording(
    proxy: Make, upstream: str, tmp_path: Path
) -> None:
    file = tmp_path / "all.pcapng"
    one = proxy(
        "--listen", "127.0.0.1:0", "--upstream", upstream, "--http", "127.0.0.1:0",
        "--record", str(file), "--fault", RULE,
    )  # fmt: skip
    address = one.address()
    page = one.until(r"(http://\S+)")[1]
    with kazoo(address) as client:
        session = f"0x{client.client_id[0]:016x}"
        with pytest.raises(NoNodeError):
            client.get("/wanted")
        status, told, _ = command("add", "delay", "1ms", "times=1", "when", "read", "--url", page)
        assert (status, told) == (0, "2\n")
        client.exists("/wanted")
        status, told, _ = command("list", "--url", page)
        assert status == 0
        assert told.splitlines() == [
            f"1\t1\t1\t{RULE}",
            "2\t1\t1\tdelay 1ms times=1 when read  (over)",
        ]
        until = time.monotonic() + 60
        while True:
            rows = ask(f"{page}api/events?limit=500")[1]["rows"]
            faults = [row for row in rows if row["kind"] == "fault"]
            if len(faults) == 2:
                break
            assert time.monotonic() < until, rows
            time.sleep(0.05)
        late, wrong = faults
        assert (late["action"], late["op"]) == ("delay", "exists")
        assert wrong["path"] == "/wanted"
        assert wrong["session"] == session
        chosen = ask(f"{page}api/events?limit=500&filter=path+%3D%3D+%22/wanted%22")[1]["rows"]
        assert [row["kind"] for row in chosen].count("fault") == 2
        none = ask(f"{page}api/events?filter=latency+%3E+99s")[1]["rows"]
        assert none == []
        assert command("remove", "1", "--url", page)[0] == 0
        assert command("remove", "1", "--url", page) == (
            2,
            "",
            "zktrace: there is no rule 1\n",
        )
        assert command("remove", "--all", "--url", page)[0] == 0
        assert ask(f"{page}api/faults") == (200, {"rows": []})
    assert one.end() == 0, one.said
    content = file.read_bytes()
    assert b"zktrace fault 1: error: answered with error -101" in content
    trace = zktrace.read(str(file))
    got = [row for row in trace.exchanges.to_pylist() if row["op"] == "getData"]
    assert [(row["path"], row["error"]) for row in got] == [("/wanted", -101)]
    assert trace.coverage["gaps"] == trace.coverage["skipped_bytes"] == 0


def test_only_who_may_changes_faults(proxy: Make, upstream: str) -> None:
    one = proxy(
        "--listen", "127.0.0.1:0", "--upstream", upstream, "--http", "127.0.0.1:0",
        "--token", "something-long",
    )  # fmt: skip
    one.address()
    page = one.until(r"(http://\S+)")[1]
    faults = f"{page}api/faults"
    bearer = {"authorization": "Bearer something-long"}
    rule = {"rule": "down"}
    assert ask(faults)[0] == 401
    assert ask(faults, "POST", rule)[0] == 401
    assert ask(faults, "POST", rule, **bearer, origin="http://evil.example")[0] == 403
    assert ask(faults, "POST", rule, **bearer, host="evil.example")[0] == 421
    assert ask(faults, "POST", rule, **{**bearer, "content-type": "text/plain"})[0] == 415
    assert ask(faults, "POST", {"rule": "down", "more": 1}, **bearer)[0] == 422
    status, told = ask(faults, "POST", {"rule": "error NoNode when pth == x"}, **bearer)
    assert status == 400
    assert "did you mean 'path'" in told["detail"]
    assert ask(faults, "POST", rule, **bearer) == (
        201,
        {"id": 1, "rule": "down", "action": "down", "matched": 0, "fired": 0, "over": False},
    )
    assert ask(f"{faults}/2", "DELETE", {}, **bearer)[0] == 404
    assert ask(f"{faults}/1", "DELETE", {}, **bearer) == (200, {"removed": 1})
    assert "something-long" not in command("list", "--url", page)[2]
    assert command("list", "--url", page, "--token", "something-long") == (0, "", "")
    assert one.end() == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["add", "down", "--url", "http://127.0.0.1:1"], "http://127.0.0.1:1: Connection refused"),
        (["list", "--url", "ftp://x"], "does not begin with"),
        (["remove"], "give the number"),
        (["remove", "1", "--all"], "give the number"),
    ],
)
def test_what_is_wrong_with_the_command_is_one_line(arguments: list[str], words: str) -> None:
    status, _, said = command(*arguments)
    assert status == 2
    assert words in said
    assert said.count("\n") == 1


def test_a_wrong_rule_is_told_before_it_listens(proxy: Make) -> None:
    one = proxy("--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:1", "--fault", "dwn")
    assert "--fault: unknown action 'dwn', did you mean 'down'?" in one.refused()
