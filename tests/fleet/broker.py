"""A broker on a port of loopback that can be killed and started again, with what it had on its
disk. Which one it is, subclasses say.
"""

from __future__ import annotations

import socket
import subprocess
import time
from abc import ABC, abstractmethod


class Broker(ABC):
    #: how long it may take to listen
    patience_s = 60.0

    def __init__(self, port: int) -> None:
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def shown(self) -> str:
        return f"127.0.0.1:{self.port}"

    @abstractmethod
    def run(self) -> subprocess.Popen[bytes]:
        """Its process, begun."""

    def start(self) -> None:
        self._process = process = self.run()
        until = time.monotonic() + self.patience_s
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert process.poll() is None, f"{type(self).__name__} ended"
                assert time.monotonic() < until
                time.sleep(0.05)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
