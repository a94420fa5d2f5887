"""NATS JetStream: messages of agents on their way. The only module that knows nats-py."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

from zktrace.fleet.spool import Spool
from zktrace.fleet.way import IDLE_S, NoBus, Notice, Publisher, Reader, Worker

STREAM: Final = "ZKTRACE"
SUBJECTS: Final = "zktrace.fleet.>"
#: What the stream keeps unless it was made otherwise: as long as the page looks back.
MAX_AGE_S: Final = 7 * 86_400
MAX_BYTES: Final = 10 << 30
#: How long an answer of the server may take.
_TIMEOUT_S: Final = 5.0
_FETCH: Final = 64


def _load() -> Any:
    try:
        import nats
        import nats.js.api
        import nats.js.errors
    except ImportError:
        raise NoBus("NATS needs nats-py: pip install 'zktrace[fleet]'") from None
    # It logs connections, addresses included.
    logging.getLogger("nats").setLevel(logging.CRITICAL)
    return nats


def shown(url: str) -> str:
    """The addresses of a URL, without what is secret in it."""
    parts = [urlsplit(one if "://" in one else f"nats://{one}") for one in url.split(",")]
    return ",".join(f"{one.hostname or '?'}:{one.port or 4222}" for one in parts)


class Nats:
    """Where it is, and how to get in."""

    bus = "NATS"

    def __init__(self, url: str, credentials: str | None) -> None:
        """NoBus: the library is not there."""
        self.nats = _load()
        self.url = url
        self.credentials = credentials
        self.shown = shown(url)

    def publisher(self, spool: Spool, ensemble: str, notice: Notice) -> Publisher:
        subject = f"zktrace.fleet.{ensemble.replace('.', '_')}.{spool.agent}"
        return _Publisher(self, spool, subject, notice)

    def reader(self, take: Callable[[bytes], None], notice: Notice) -> Reader:
        return _Reader(self, take, notice)


class _Connected(Worker):
    """Works with an event loop, connected."""

    _way: Nats
    _why: Exception | None = None
    """What the library had to say besides."""

    def _once(self) -> None:
        asyncio.run(self._connected())

    async def _connected(self) -> None:
        connection = await self._connect()
        try:
            await self._work(connection.jetstream(timeout=_TIMEOUT_S))
        finally:
            await self._close(connection)

    async def _connect(self) -> Any:
        async def note(error: Exception) -> None:
            self._why = error

        self._why = None
        return await self._way.nats.connect(
            self._way.url.split(","),
            user_credentials=self._way.credentials,
            allow_reconnect=False,
            connect_timeout=_TIMEOUT_S,
            max_reconnect_attempts=1,
            reconnect_time_wait=IDLE_S,
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

    async def _make_stream(self, stream: Any) -> None:
        """Makes the stream unless it is there (then it stays as it is)."""
        errors, api = self._way.nats.js.errors, self._way.nats.js.api
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

    def _words(self, error: Exception) -> str:
        error = self._why or error
        known = {
            "NoServersError": "no server",
            "ConnectionRefusedError": "no server",
            "TimeoutError": "no answer in time",
            "ServiceUnavailableError": "it has no JetStream",
            "NoRespondersError": "it has no JetStream",
        }
        if "authorization" in str(error).lower():
            return "it does not take the credentials"
        # The type alone: texts may hold secrets.
        name = type(error).__name__
        return known.get(name, name)


class _Publisher(_Connected, Publisher):
    def __init__(self, way: Nats, spool: Spool, subject: str, notice: Notice) -> None:
        super().__init__(way.bus, way.shown, spool, notice)
        self._way = way
        self._subject = subject

    async def _work(self, stream: Any) -> None:
        await self._make_stream(stream)
        while not self.stopping.is_set():
            waiting = self._spool.first()
            if waiting is None:
                self.works()
                await asyncio.sleep(IDLE_S)
                continue
            number, data = waiting
            # JetStream knows a message that it has, for two minutes; afterwards readers do.
            known = {"Nats-Msg-Id": f"{self._spool.agent}-{number}"}
            await stream.publish(self._subject, data, headers=known, stream=STREAM)
            self._spool.done(number)
            self.works()


class _Reader(_Connected, Reader):
    def __init__(self, way: Nats, take: Callable[[bytes], None], notice: Notice) -> None:
        super().__init__(way.bus, way.shown, take, notice)
        self._way = way
        self._last = 0

    async def _work(self, stream: Any) -> None:
        api = self._way.nats.js.api
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
            except self._way.nats.errors.TimeoutError:
                # Nothing new, or nobody there; asking tells which.
                info = await stream.stream_info(STREAM)
                self.behind = max(info.state.last_seq - self._last, 0)
                if self.behind or info.state.last_seq < self._last:
                    return  # the consumer is not there any more: again, with a new one
                self.works()
                continue
            for message in messages:
                self._take(message.data)
                self._last = message.metadata.sequence.stream
                self.behind = message.metadata.num_pending
            self.works()
