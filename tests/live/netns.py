"""Network namespaces that last as long as a test, and processes in them.

A namespace is that of a process that sleeps in it: it goes when the process ends, with its
interfaces, and nothing is left behind. All processes are ended by their number.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import pytest

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
_REQUIRED = os.environ.get("ZKTRACE_REQUIRE_LIVE", "") not in ("", "0")


def environment(**more: str) -> dict[str, str]:
    leave = {"NO_COLOR", "ZKTRACE_ENGINE", "COLUMNS", "SUDO_UID"}
    env = {name: value for name, value in os.environ.items() if name not in leave}
    env["PYTHONPATH"] = os.pathsep.join(map(str, [ROOT, ROOT / "server", ROOT / "proxy"]))
    return env | more


class Process:
    """A process whose standard error is read line by line, and its output at the end."""

    def __init__(self, command: list[str], **env: str) -> None:
        self.popen = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(**env),
            cwd=ROOT,
        )

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: Any, trace: TracebackType | None
    ) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.communicate()

    def said(self, text: str) -> str:
        """The next line on standard error, which must hold this text."""
        assert self.popen.stderr is not None
        line = self.popen.stderr.readline().decode()
        if text not in line:
            self.popen.kill()
            raise AssertionError(line + self.popen.communicate()[1].decode())
        return line

    def ended(self, number: int | None = None, timeout: float = 60) -> tuple[str, str]:
        """Its output, after a signal if one is given. Its exit status must be 0."""
        if number is not None:
            self.popen.send_signal(number)
        out, err = self.popen.communicate(timeout=timeout)
        assert self.popen.returncode == 0, err.decode()
        return out.decode(), err.decode()


class Namespace:
    """A network namespace with its loopback interface up."""

    def __init__(self) -> None:
        # Of its own at once, so that the number is that of the sleeper.
        self._holder = subprocess.Popen(["unshare", "--net", "sleep", "600"])
        self.pid = self._holder.pid
        self._wait()
        self.ip("link", "set", "lo", "up")

    def _wait(self) -> None:
        own = os.readlink("/proc/self/ns/net")
        for _ in range(200):
            if self._holder.poll() is not None:
                break
            name = Path(f"/proc/{self.pid}/comm").read_text().strip()
            if name == "sleep" and os.readlink(f"/proc/{self.pid}/ns/net") != own:
                return
            time.sleep(0.02)
        raise OSError("unshare --net does not work here")

    def inside(self, *command: str) -> list[str]:
        return ["nsenter", "--net", f"--target={self.pid}", *command]

    def ip(self, *arguments: str) -> None:
        subprocess.run(self.inside("ip", *arguments), check=True, capture_output=True)

    def python(self, *arguments: str, **env: str) -> Process:
        return Process(self.inside(sys.executable, *arguments), **env)

    def zktrace(self, *arguments: str, engine: str, **env: str) -> Process:
        return self.python("-m", "zktrace", *arguments, ZKTRACE_ENGINE=engine, **env)

    def talk(self, file: Path, *arguments: str) -> Process:
        return self.python("-m", "tests.live.talk", str(file), *arguments)

    def run(self, work: Callable[[], T]) -> T:
        """Does something in this process whose sockets are made in the namespace: in a thread of
        its own, and so are threads that it starts.
        """

        def inside() -> T:
            libc = ctypes.CDLL(None, use_errno=True)
            with open(f"/proc/{self.pid}/ns/net", "rb") as there:
                if libc.setns(there.fileno(), 0) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
            return work()

        with ThreadPoolExecutor(1) as pool:
            return pool.submit(inside).result()

    def get(self, url: str, body: bytes | None = None, timeout: float = 30.0) -> bytes:
        """The body of what an HTTP server in the namespace answers; an HTTPError where it does not
        like the question. With a `body`, which is JSON, it is a POST.
        """

        def ask() -> bytes:
            direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            kind = {"Content-Type": "application/json"}
            question = urllib.request.Request(url, body, kind)
            with direct.open(question, timeout=timeout) as answer:
                found: bytes = answer.read()
                return found

        return self.run(ask)

    def end(self) -> None:
        self._holder.kill()
        self._holder.wait()


def missing() -> str | None:
    """Why live capture cannot be tested here; None: it can."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    for tool in ("unshare", "nsenter", "ip"):
        if shutil.which(tool) is None:
            return f"there is no {tool} (Debian: util-linux, iproute2)"
    if os.geteuid() != 0:
        return "it needs root"
    try:
        Namespace().end()
    except (OSError, subprocess.CalledProcessError) as error:
        return str(error)
    return None


@contextmanager
def namespaces(count: int) -> Iterator[list[Namespace]]:
    made: list[Namespace] = []
    try:
        for _ in range(count):
            made.append(Namespace())
        yield made
    finally:
        for one in made:
            one.end()


def need_live() -> None:
    """Skips where live capture cannot be tested, or fails if it was asked for."""
    reason = missing()
    if reason is None:
        return
    if _REQUIRED:
        pytest.fail(f"ZKTRACE_REQUIRE_LIVE is set, but: {reason}")
    pytest.skip(f"live capture is not tested: {reason}")
