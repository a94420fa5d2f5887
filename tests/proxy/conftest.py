"""Proxies as commands of their own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from tests.conftest import NATIVE_MISSING

ROOT = Path(__file__).resolve().parents[2]
COMMAND = "import sys; from zktrace_proxy.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.fixture(autouse=True)
def native(request: pytest.FixtureRequest) -> None:
    """Most of it needs the native data plane. (Where it is required, its absence has failed
    already.)
    """
    if NATIVE_MISSING is not None and "plane_kind" not in request.fixturenames:
        pytest.skip(f"the proxy is not tested: {NATIVE_MISSING}")


class Proxy:
    """``zktrace proxy run``; what it says on stderr is in `said`."""

    def __init__(self, *arguments: str, out: IO[bytes] | int | None = None) -> None:
        path = os.pathsep.join([str(ROOT), str(ROOT / "server"), str(ROOT / "proxy")])
        self.process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, "run", *arguments],
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        self.said: list[str] = []

    def until(self, pattern: str) -> re.Match[str]:
        """Reads what it says up to a line that matches."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            found = re.search(pattern, line)
            if found:
                return found
        raise AssertionError("".join(self.said))

    def address(self) -> str:
        """The next listener's."""
        return self.until(r"zktrace: (\S+:\d+) -> ")[1]

    def refused(self) -> str:
        """What it says when it does not start; a line, and the status of an unusable call."""
        assert self.process.stderr is not None
        with self.process.stderr:
            said = self.process.stderr.read()
        assert self.process.wait(60) == 2, said
        assert said.count("\n") == 1, said
        return said

    def end(self, number: int = signal.SIGTERM) -> int:
        """Its exit status."""
        self.process.send_signal(number)
        assert self.process.stderr is not None
        self.said += self.process.stderr
        self.process.stderr.close()
        return self.process.wait(60)


@pytest.fixture
def proxy() -> Iterator[Callable[..., Proxy]]:
    """Starts proxies, which end with the test."""
    running: list[Proxy] = []

    def make(*arguments: str, out: IO[bytes] | int | None = None) -> Proxy:
        running.append(Proxy(*arguments, out=out))
        return running[-1]

    yield make
    for one in running:
        if one.process.poll() is None:
            one.end(signal.SIGKILL)
