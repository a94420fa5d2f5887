"""Units for systemd and the container file in docs/deploy: what can be checked without either."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from zktrace.cli.lazy import Commands

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "docs" / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_units_are_right_for_systemd(unit: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here")
    copy = tmp_path / unit.name
    # It looks whether the program is there.
    copy.write_text(unit.read_text().replace("/usr/local/bin/zktrace", "/bin/true"))
    found = subprocess.run(
        ["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert unit.name not in found.stderr


@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_units_call_what_there_is(unit: Path) -> None:
    """The command and its options; one right and no more."""
    text = unit.read_text()
    [line] = re.findall(r"^ExecStart=/usr/local/bin/zktrace (.*)$", text, re.M)
    name, *arguments = shlex.split(line)
    command = Commands()[name]
    options = {option for one in command.params for option in one.opts}
    assert {part for part in arguments if part.startswith("-")} <= options
    assert re.findall(r"^(?:Ambient|CapabilityBoundingS)\w*=(.*)$", text, re.M) == [
        "CAP_NET_RAW",
        "CAP_NET_RAW",
    ]
    assert "AF_PACKET" in text


def test_the_container_file_names_what_is_there() -> None:
    """Read, as there is no engine to build it with here: what it copies and installs exists, and it
    does not run as root.
    """
    text = (DEPLOY / "Dockerfile").read_text()
    assert (ROOT / "requirements/run.txt").exists()
    assert "--require-hashes --requirement requirements/run.txt" in text
    assert re.search(r"^USER zktrace$", text, re.M)
    assert re.search(r"^FROM \S+ AS build$", text, re.M)
    assert "--from=build /opt/zktrace /opt/zktrace" in text
    assert re.search(r'^ENTRYPOINT \["zktrace"\]$', text, re.M)
    # Both stages have Debian's Python at the same place, of which the environment is a copy.
    assert set(re.findall(r"^FROM \S*?(bookworm)", text, re.M)) == {"bookworm"}
    assert len(re.findall(r"^FROM ", text, re.M)) == 2
