"""NATS JetStream: messages of agents on their way. The only module that knows nats-py.

Both ends run an event loop in a thread of their own, and begin again from what they know whenever
anything goes wrong: a publisher from its spool, a reader from the number of the stream's message
after the last one it took. Addresses may hold credentials: they are never told
(:func:`shown`), nor are errors of the library, which may hold them.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

from zktrace.fleet.spool import Spool

STREAM: Final = "ZKTRACE"
SUBJECTS: Final = "zktrace.fleet.>"
#: What the stream keeps unless it was made otherwise: as long as the page looks back.
MAX_AGE_S: Final = 7 * 86_400
MAX_BYTES: Final = 10 << 30
#: How long an answer of the server may take.
_TIMEOUT_S: Final = 5.0
_AGAIN_S: Final = 1.0
_IDLE_S: Final = 0.2
_FETCH: Final = 64


class NoNats(Exception):
    """nats-py is not there."""


def load() -> Any:
    """The library; :class:`NoNats` says how to get it."""
    try:
        import nats
        import nats.js.api
        import nats.js.errors
    except ImportError:
        raise NoNats("NATS needs nats-py: pip install 'zktrace[fleet]'") from None
    # It logs connections, addresses included.
    logging.getLogger("nats").setLevel(logging.CRITICAL)
    return nats


def shown(url: str) -> str:
    """The addresses of a URL, without what is secret in it."""
    parts = [urlsplit(one if "://" in one else f"nats://{one}") for one in url.split(",")]
    return ",".join(f"{one.hostname or '?'}:{one.port or 4222}" for one in parts)


class _Worker:
    """A thread with an event loop that tries for as long as it is not stopped."""

    def __init__(
        self, url: str, credentials: str | None, name: str, notice: Callable[[str], None]
    ) -> None:
        self._nats = load()
        self._url = url
        self._credentials = credentials
        self._notice = notice
        self.stopping = threading.Event()
        self.problem: str | None = None
        """Why it does not work just now."""
        self._why: Exception | None = None
        """What the library had to say besides."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Whether it ended in time."""
        self.stopping.set()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        asyncio.run(self._loop())

    async def _loop(self) -> None:
        while not self.stopping.is_set():
            try:
                connection = await self._connect()
                try:
                    await self._work(connection.jetstream(timeout=_TIMEOUT_S))
                finally:
                    await self._close(connection)
            except Exception as error:
                # Whatever it is, it is tried again. The type alone: texts may hold secrets.
                self._tell(f"{shown(self._url)}: {_words(self._why or error)}")
                await asyncio.sleep(_AGAIN_S)

    async def _connect(self) -> Any:
        async def note(error: Exception) -> None:
            self._why = error

        self._why = None
        return await self._nats.connect(
            self._url.split(","),
            user_credentials=self._credentials,
            allow_reconnect=False,
            connect_timeout=_TIMEOUT_S,
            max_reconnect_attempts=1,
            reconnect_time_wait=_IDLE_S,
            error_cb=note,
            name="zktrace",
        )

    async def _close(self, connection: Any) -> None:
        try:
            await asyncio.wait_for(connection.close(), _TIMEOUT_S)
        except Exception:
            self.problem = self.problem or "closing failed"  # the connection is given up anyway

    async def _work(self, stream: Any) -> None:
        raise NotImplementedError

    def _tell(self, problem: str | None) -> None:
        if problem != self.problem:
            self.problem = problem
            self._notice(
                f"NATS does not answer, tried again: {problem}" if problem else "NATS answers"
            )

    async def _make_stream(self, stream: Any) -> None:
        """Makes the stream unless it is there (then it stays as it is)."""
        errors, api = self._nats.js.errors, self._nats.js.api
        try:
            await stream.stream_info(STREAM)
        except errors.NotFoundError:
            await stream.add_stream(
                api.StreamConfig(
                    name=STREAM,
                    subjects=[SUBJECTS],
                    storage=api.StorageType.FILE,
                    max_age=MAX_AGE_S,
                    max_bytes=MAX_BYTES,
                )
            )


class Publisher(_Worker):
    """Sends what is in a spool, in order, for as long as it takes."""

    def __init__(
        self,
        url: str,
        credentials: str | None,
        spool: Spool,
        subject: str,
        notice: Callable[[str], None],
    ) -> None:
        super().__init__(url, credentials, "zktrace-publish", notice)
        self._spool = spool
        self._subject = subject

    async def _work(self, stream: Any) -> None:
        await self._make_stream(stream)
        while not self.stopping.is_set():
            waiting = self._spool.first()
            if waiting is None:
                self._tell(None)
                await asyncio.sleep(_IDLE_S)
                continue
            number, data = waiting
            # JetStream knows a message that it has, for two minutes; afterwards readers do.
            known = {"Nats-Msg-Id": f"{self._spool.agent}-{number}"}
            await stream.publish(self._subject, data, headers=known, stream=STREAM)
            self._spool.done(number)
            self._tell(None)

    def flush(self, timeout: float) -> None:
        """Gives what waits some time to be sent, then ends."""
        until = time.monotonic() + timeout
        while self._spool.waiting and self.problem is None and time.monotonic() < until:
            time.sleep(0.05)
        self.stop(timeout)


class Reader(_Worker):
    """Reads the stream from its beginning, in order, for as long as it takes."""

    def __init__(
        self,
        url: str,
        credentials: str | None,
        take: Callable[[bytes], None],
        notice: Callable[[str], None],
    ) -> None:
        """`take` is called with each message, in the thread of the reader."""
        super().__init__(url, credentials, "zktrace-read", notice)
        self._take = take
        self._last = 0
        self.behind: int | None = None
        """Messages of the stream that were not read yet, at the last look."""

    async def _work(self, stream: Any) -> None:
        api = self._nats.js.api
        await self._make_stream(stream)
        info = await stream.stream_info(STREAM)
        if info.state.last_seq < self._last:
            self._last = 0  # another stream of that name: what was taken is known by its number
        consumer = await stream.pull_subscribe(
            SUBJECTS,
            stream=STREAM,
            config=api.ConsumerConfig(
                deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=self._last + 1,
                ack_policy=api.AckPolicy.NONE,
                inactive_threshold=60.0,
            ),
        )
        while not self.stopping.is_set():
            try:
                messages = await consumer.fetch(_FETCH, timeout=1.0)
            except self._nats.errors.TimeoutError:
                # Nothing new, or nobody there; asking tells which.
                info = await stream.stream_info(STREAM)
                self.behind = max(info.state.last_seq - self._last, 0)
                if self.behind or info.state.last_seq < self._last:
                    return  # the consumer is not there any more: again, with a new one
                self._tell(None)
                continue
            for message in messages:
                self._take(message.data)
                self._last = message.metadata.sequence.stream
                self.behind = message.metadata.num_pending
            self._tell(None)


def _words(error: Exception) -> str:
    """What went wrong, in words that hold no secret."""
    known = {
        "NoServersError": "no server",
        "ConnectionRefusedError": "no server",
        "TimeoutError": "no answer in time",
        "ServiceUnavailableError": "it has no JetStream",
        "NoRespondersError": "it has no JetStream",
    }
    if "authorization" in str(error).lower():
        return "it does not take the credentials"
    name = type(error).__name__
    return known.get(name, name)
