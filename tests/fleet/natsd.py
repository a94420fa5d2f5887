"""Debian's nats-server on a free port of loopback, with JetStream in a directory."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fleet.broker import Broker
from tests.support.javazk import free_ports

_REQUIRED = os.environ.get("ZKTRACE_REQUIRE_NATS", "") not in ("", "0")
USER, PASSWORD = "sensor", "not-to-be-seen-4711"


def need() -> None:
    """Skips where there is none, or fails if it was asked for."""
    if shutil.which("nats-server") is None:
        reason = "there is no nats-server (Debian: nats-server)"
        if _REQUIRED:
            pytest.fail(f"ZKTRACE_REQUIRE_NATS is set, but {reason}")
        pytest.skip(reason)


class Nats(Broker):
    def __init__(self, directory: Path) -> None:
        super().__init__(free_ports(1)[0])
        self._directory = directory

    @property
    def environment(self) -> dict[str, str]:
        return {"ZKTRACE_NATS": self.url}

    @property
    def url(self) -> str:
        return f"nats://{USER}:{PASSWORD}@127.0.0.1:{self.port}"

    def run(self) -> subprocess.Popen[bytes]:
        command = ["nats-server", "-js", "-sd", str(self._directory), "-a", "127.0.0.1"]
        command += ["-p", str(self.port), "--user", USER, "--pass", PASSWORD]
        return subprocess.Popen(command, stderr=subprocess.DEVNULL)
