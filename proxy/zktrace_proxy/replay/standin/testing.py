"""A stand-in within a test: ``with answering("app.pcapng") as server: KazooClient(server.hosts)``.

As ``zktrace_proxy.answering``; as a pytest fixture see :mod:`zktrace_proxy.pytest_plugin`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zktrace_proxy.messages.reader import Reader
from zktrace_proxy.replay.prepare import prepare
from zktrace_proxy.replay.standin import report
from zktrace_proxy.replay.standin.playing import Otherwise
from zktrace_proxy.replay.standin.server import StandIn


class Answering:
    """A running stand-in, in a thread of its own."""

    def __init__(self, server: StandIn) -> None:
        self._server = server
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def start(self, host: str, port: int) -> None:
        """Until it listens. OSError: it cannot."""
        self._thread.start()
        self._call(self._server.start(host, port))

    def stop(self) -> None:
        """Ends all connections, and the thread."""
        self._call(self._server.stop())
        # transports that were closed go a turn of the loop later
        self._call(asyncio.sleep(0))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, what: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result()

    @property
    def hosts(self) -> str:
        """A connect string for clients."""
        host, port = self._server.address
        return f"{host}:{port}"

    @property
    def report(self) -> dict[str, Any]:
        """What was asked for so far, who answered, and what nobody asked for."""

        async def made() -> dict[str, Any]:
            return report.as_dict(self._server.stage)

        if self._loop.is_closed():
            return report.as_dict(self._server.stage)
        found: dict[str, Any] = self._call(made())
        return found

    @property
    def never_asked(self) -> list[str]:
        """Recorded requests that nobody asked for so far, such as ``create /app``."""
        return [one["what"] for one in self.report["never_asked"]]

    @property
    def unmatched(self) -> list[str]:
        """Requests that the recording does not have."""
        return [one["request"] for one in self.report["unmatched_requests"]]


@contextmanager
def answering(
    source: str | Path | Sequence[str | Path],
    *,
    clients: Sequence[str] = (),
    unmatched: str = "model",
    require_all: bool = False,
    keep_connections: bool = False,
    listen: str = "127.0.0.1:0",
) -> Iterator[Answering]:
    """A server that answers from a recording, for as long as the block lasts.

    `source`: captures, in order. `clients`: ``IP`` or ``IP:PORT`` of the recorded clients that the
    test is (none given: all); what the others wrote happens where it did. `unmatched`: ``model`` or
    ``refuse``. `require_all`: the block's end fails where recorded requests were never asked for.
    `keep_connections`: connections that were lost in the recording are not.

    :raises zktrace.capture.errors.CaptureError: a source that is no capture.
    :raises AssertionError: at the end, see `require_all`.
    """
    files = [source] if isinstance(source, str | Path) else list(source)
    reader = Reader([str(one) for one in files])
    plan = prepare(reader, reader.heard)
    try:
        server = StandIn(
            plan, clients=clients, otherwise=Otherwise(unmatched), faithful=not keep_connections
        )
    finally:
        plan.close()
    host, _, port = listen.rpartition(":")
    running = Answering(server)
    running.start(host, int(port))
    try:
        yield running
    finally:
        running.stop()
    if require_all and running.never_asked:
        raise AssertionError(
            "recorded requests were never asked for: " + ", ".join(running.never_asked[:20])
        )
