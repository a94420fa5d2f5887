"""Processes of this command that work together, and end together: for ``zktrace demo``.

Each is a ``zktrace ...`` in a session of its own, so that Ctrl-C reaches them through
:meth:`Crew.end` alone, last one first. What they say is read line by line as it comes, so that no
pipe fills up; the last lines are kept, to tell why one ended. Where this process is killed the
kernel ends them (Linux).
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from zktrace.cli.failure import Failure

#: How long a process may take to say what is waited for; start-up of Python on a busy machine.
_START_S: Final = 60.0
#: How long one may take to end after it is asked, before it is killed.
_END_S: Final = 10.0
_LINES: Final = 20
_ASKED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: The process asks the kernel to be ended with us (1: PR_SET_PDEATHSIG) before it becomes zktrace.
_BEGIN: Final = """
import ctypes, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)
from zktrace.cli.main import main
main()
"""


class Ended(Exception):
    """A process ended before it said what was waited for; its last words."""


class Member:
    """One process."""

    def __init__(self, name: str, arguments: list[str]) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-c", _BEGIN, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        self.lines: deque[str] = deque(maxlen=_LINES)
        self._found: re.Match[str] | None = None
        self._wanted: re.Pattern[str] | None = None
        self._said = threading.Condition()
        self._silent = False
        self._thread = threading.Thread(target=self._read, name=f"zktrace-{name}", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for raw in stream:
                line = raw.decode(errors="backslashreplace").rstrip()
                with self._said:
                    self.lines.append(line)
                    if self._found is None and self._wanted is not None:
                        self._found = self._wanted.search(line)
                    self._said.notify_all()
        with self._said:
            self._silent = True
            self._said.notify_all()

    def said(self, pattern: str) -> re.Match[str]:
        """What it says that matches, once it does. :class:`Ended` if it ends before."""
        with self._said:
            self._wanted, self._found = re.compile(pattern), None
            for line in self.lines:
                self._found = self._found or self._wanted.search(line)
            self._said.wait_for(lambda: self._found is not None or self._silent, _START_S)
            if self._found is not None:
                return self._found
            last = next((line for line in reversed(self.lines) if line), "it said nothing")
            raise Ended(last.removeprefix("zktrace: "))

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def wait(self, timeout: float) -> bool:
        """Whether it ended by then, with all it had to say read."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        self._thread.join(_END_S)
        return True

    @property
    def status(self) -> int | None:
        return self._process.poll()

    def ask(self) -> None:
        """Asks it to end, as Ctrl-C would."""
        if self.running:
            self._process.send_signal(signal.SIGINT)

    def end(self) -> None:
        """Ends it, at last by force."""
        self.ask()
        if not self.wait(_END_S):
            self._process.kill()
            self._process.wait()


class Crew:
    """The processes, in the order in which they were started. A context manager."""

    def __init__(self) -> None:
        self._members: list[Member] = []

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *exc: object) -> None:
        self.end()

    def start(self, name: str, *arguments: str) -> Member:
        member = Member(name, list(arguments))
        self._members.append(member)
        return member

    def dismiss(self, member: Member) -> None:
        """Ends one of them before the others."""
        member.end()
        self._members.remove(member)

    def watch(self, until: Callable[[], bool], every_s: float = 0.2) -> None:
        """Waits for it. Failure when one of them ends meanwhile."""
        while not until():
            for member in self._members:
                if not member.running:
                    last = member.lines[-1] if member.lines else "it said nothing"
                    raise Failure(f"{member.name} ended: {last.removeprefix('zktrace: ')}")
            time.sleep(every_s)

    def end(self) -> None:
        # Whoever asks again must not leave one behind.
        before = {number: signal.signal(number, signal.SIG_IGN) for number in _ASKED}
        try:
            while self._members:
                self._members.pop().end()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
