"""``zktrace top -i``: listens by itself, and shows it in a terminal."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

from tests.live.netns import ROOT, Namespace, environment
from tests.live.test_capture import SAMPLES, played

_PATIENCE_S = 60.0


class Terminal:
    """A process on a terminal, and what it wrote there."""

    def __init__(self, command: list[str], **env: str) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env=environment(TERM="xterm-256color", COLUMNS="140", LINES="40", **env),
            cwd=ROOT,
        )
        os.close(theirs)
        self.text = b""

    def until(self, words: bytes) -> None:
        """Reads until these were written."""
        end = time.monotonic() + _PATIENCE_S
        while words not in self.text:
            assert time.monotonic() < end, self.text[-3000:]
            assert self.read() or self.process.poll() is None, self.text[-3000:]

    def read(self) -> bool:
        if not select.select([self._ours], [], [], 0.1)[0]:
            return False
        try:
            more = os.read(self._ours, 65536)
        except OSError:  # nobody has the terminal any more
            return False
        self.text += more
        return bool(more)

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._ours)


def _rights(pid: int) -> str:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(line for line in status.splitlines() if line.startswith("CapEff")).split()[1]


def test_top_of_an_interface(alone: Namespace, engine: str) -> None:
    """What passes is shown while it listens, without rights; the coverage is the last word."""
    ports = [part for n in range(21811, 21815) for part in ("--client-port", str(n))]
    command = alone.inside(sys.executable, "-m", "zktrace", "top", "-i", "lo", *ports)
    terminal = Terminal(command, ZKTRACE_ENGINE=engine)
    try:
        terminal.until(b"Operations")
        assert set(_rights(terminal.process.pid)) == {"0"}
        with played(alone, SAMPLES["02_basic_ops"]):
            terminal.until(b"createContainer")
            terminal.press("3")
            terminal.until(b"/a")
        terminal.press("q")
        terminal.until(b"not seen  nothing")
        assert b"listening on lo" in terminal.text
        assert b"119 packets" in terminal.text or b"120 packets" in terminal.text
        assert terminal.process.wait(_PATIENCE_S) == 0
    finally:
        terminal.close()


def test_it_ends_by_ctrl_c(alone: Namespace, engine: str) -> None:
    command = alone.inside(sys.executable, "-m", "zktrace", "top", "-i", "lo")
    terminal = Terminal(command, ZKTRACE_ENGINE=engine)
    try:
        terminal.until(b"Operations")
        terminal.press("\x03")
        terminal.until(b"captured")
        assert terminal.process.wait(_PATIENCE_S) == 0
    finally:
        terminal.close()


def test_without_a_terminal_it_does_not_begin(alone: Namespace, engine: str) -> None:
    with alone.zktrace("top", "-i", "lo", engine=engine) as process:
        process.said("top needs a terminal")
        assert process.popen.wait(_PATIENCE_S) == 2
