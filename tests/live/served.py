"""``zktrace serve`` in a network namespace, and what it answers."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.live.netns import Namespace, Process

#: For what must come; a loaded machine is no defect.
_PATIENCE_S = 60.0


class Served:
    """A server that has told its address."""

    def __init__(self, where: Namespace, process: Process | None, notices: list[str]) -> None:
        self._process = process
        self.notices = notices
        """What it said before."""
        self._where = where
        found = re.search(r"http://[^ ]+?/", notices[-1])
        assert found, notices
        self.address = found.group()

    @property
    def process(self) -> Process:
        assert self._process is not None
        return self._process

    @classmethod
    def at(cls, where: Namespace, said: str) -> Served:
        """Of a server whose process is somebody else's."""
        return cls(where, None, [said])

    def get(self, path: str) -> bytes:
        return self._where.get(self.address + path)

    def json(self, path: str) -> Any:
        return json.loads(self.get(path))

    def post(self, path: str, **body: Any) -> Any:
        return json.loads(self._where.get(self.address + path, json.dumps(body).encode()))

    def until(self, path: str, good: Callable[[Any], bool]) -> Any:
        """The first answer that is as wanted. What it answers may be a second old."""
        end = time.monotonic() + _PATIENCE_S
        while True:
            answer = self.json(path)
            if good(answer):
                return answer
            assert time.monotonic() < end, answer
            time.sleep(0.1)

    def packets(self, number: int) -> Any:
        """The coverage once so many packets were taken."""
        found = self.until("api/coverage", lambda it: it["coverage"]["packets"] >= number)
        assert found["coverage"]["packets"] == number
        return found


@contextmanager
def serving(where: Namespace, *arguments: str, engine: str, **env: str) -> Iterator[Served]:
    """`zktrace serve` on a free port of the namespace."""
    command = ("serve", "--http", "127.0.0.1:0", *arguments)
    with where.zktrace(*command, engine=engine, **env) as process:
        notices: list[str] = []
        while not notices or "http://" not in notices[-1]:
            notices.append(process.said(""))
            assert notices[-1], "it ended"
        yield Served(where, process, notices)
