"""Debian's nats-server on a free port of loopback, with JetStream in a directory."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.javazk import free_ports

_REQUIRED = os.environ.get("ZKTRACE_REQUIRE_NATS", "") not in ("", "0")
_PATIENCE_S = 60.0
USER, PASSWORD = "sensor", "not-to-be-seen-4711"


def need() -> None:
    """Skips where there is none, or fails if it was asked for."""
    if shutil.which("nats-server") is None:
        reason = "there is no nats-server (Debian: nats-server)"
        if _REQUIRED:
            pytest.fail(f"ZKTRACE_REQUIRE_NATS is set, but {reason}")
        pytest.skip(reason)


class Nats:
    """One that can be killed and started again, with what it had on its disk."""

    def __init__(self, directory: Path) -> None:
        self.port = free_ports(1)[0]
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def shown(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        return {"ZKTRACE_NATS": self.url}

    @property
    def url(self) -> str:
        return f"nats://{USER}:{PASSWORD}@127.0.0.1:{self.port}"

    def start(self) -> None:
        command = ["nats-server", "-js", "-sd", str(self._directory), "-a", "127.0.0.1"]
        command += ["-p", str(self.port), "--user", USER, "--pass", PASSWORD]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        until = time.monotonic() + _PATIENCE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert self._process.poll() is None, "nats-server ended"
                assert time.monotonic() < until
                time.sleep(0.05)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
