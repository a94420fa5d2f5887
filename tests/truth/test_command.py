"""The command line on a few captures: what `decode --json` prints is what the truth says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import compare
from tests.support.cases import PCAPS, ROOT, everything
from tests.support.decoded import from_json


def run(
    *arguments: str, engine: str, stdin: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Runs zktrace as users do."""
    environment = {**os.environ, "ZKTRACE_ENGINE": engine}
    environment["PYTHONPATH"] = os.pathsep.join(str(ROOT / d) for d in (".", "server", "proxy"))
    command = [sys.executable, "-c", "from zktrace.cli.main import main; main()", *arguments]
    return subprocess.run(
        command, input=stdin, capture_output=True, env=environment, check=False, timeout=60
    )


@pytest.mark.parametrize("name", ["03_multi", "52_v39_watches", "rotated", "interfaces", "ipv6"])
def test_decode_json(name: str, engine: str) -> None:
    sample = everything()[name]
    done = run("decode", "--json", *map(str, sample.files), engine=engine)
    assert (done.returncode, done.stderr) == (0, b"")
    decoded = from_json(done.stdout.decode().splitlines())
    assert decoded.coverage, "the last line is the coverage"
    found = compare.problems(sample.truth(), decoded)
    assert not found, compare.report(found)


def test_standard_input(engine: str) -> None:
    sample = everything()["gzipped"]
    done = run("decode", "--json", "-", engine=engine, stdin=sample.files[0].read_bytes())
    assert (done.returncode, done.stderr) == (0, b"")
    found = compare.problems(sample.truth(), from_json(done.stdout.decode().splitlines()))
    assert not found, compare.report(found)


def test_unusable_input(engine: str, tmp_path: Path) -> None:
    """One line on stderr, no traceback, status 2."""
    (tmp_path / "empty.pcap").write_bytes(b"")
    for path in (tmp_path / "none.pcap", tmp_path / "empty.pcap", PCAPS / "02_basic_ops.json"):
        done = run("decode", str(path), engine=engine)
        assert done.returncode == 2, path
        assert done.stdout == b""
        message = done.stderr.decode()
        assert len(message.splitlines()) == 1, message
        assert path.name in message
        assert "Traceback" not in message


def test_damaged_input_is_decoded(engine: str) -> None:
    for name in ("file_noise", "file_cut"):
        done = run("decode", "--json", str(PCAPS / f"{name}.pcap"), engine=engine)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) > 50
