"""``zktrace server load`` on the command line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import zktrace_proxy
from tests.server.ourzk import OurServer, ours
from zktrace.cli.main import run
from zktrace_server.load import WORKLOADS

COMMAND = [sys.executable, "-c", "from zktrace.cli.main import main; main()", "server", "load"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OurServer]:
    with ours(tmp_path_factory.mktemp("load")) as server:
        yield server


def test_json(server: OurServer, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--connect", server.hosts, "--ops", "50", "--workload", "mix,queue", "--json"]
    assert run(["server", "load", *given]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    told = json.loads(out)
    assert told["requests"] == 50
    assert told["workloads"] == ["mix", "queue"]
    assert told["servers"] == [server.hosts]


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["server", "load", "--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(WORKLOADS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--workload", "nothing"), "--workload nothing: there is no such workload (see --list)"),
        (("--connect", "a:b"), "--connect a:b: 'a:b' is no HOST:PORT"),
        (("--connect", "127.0.0.1:1"), "127.0.0.1:1: Connection refused"),
        (("--connect", "no.such.host.invalid"), "no.such.host.invalid:2181: "),
        (("--root", "x"), "--root x: no path below the root"),
        (("--clients", "1", "--workload", "mix,queue"), "--clients 1: fewer than the 2 workloads"),
        (("--ops", "0"), "--ops"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["server", "load", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert said in err


@contextmanager
def between(server: OurServer, fault: str) -> Iterator[str]:
    with zktrace_proxy.between(server.hosts, faults=[fault]) as proxy:
        yield proxy.hosts


def test_a_connection_lost_before_the_load_is_made_again(
    server: OurServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with between(server, 'drop-reply times=2 when op == "create"') as hosts:
        given = ["--connect", hosts, "--ops", "50", "--workload", "locks", "--json"]
        assert run(["server", "load", *given, "--root", "/lost"]) == 0
    assert json.loads(capsys.readouterr().out)["requests"] == 50


def test_connections_that_are_always_lost_are_one_line(
    server: OurServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with between(server, 'drop-request when op == "create"') as hosts:
        assert run(["server", "load", "--connect", hosts, "--ops", "50"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "the connection was lost 5 times while the znodes of the load were made" in err


def test_ctrl_c_prints_what_is_known(server: OurServer) -> None:
    child = subprocess.Popen(
        [*COMMAND, "--connect", server.hosts, "--duration", "600", "--workload", "locks"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    # It works as soon as the server has more than the connection of this look.
    server.wait_for_sessions(5)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (0, "")
    assert "(interrupted)" in out.splitlines()[0]
    assert "requests" in out
