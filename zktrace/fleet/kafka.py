"""Apache Kafka: messages of agents on their way. The only module that knows confluent-kafka.

One topic holds the messages of all agents, with the agent as key, so that those of an agent are in
one partition, in order. A message is done with when all replicas in sync have it (``acks=all``).
The page belongs to no consumer group and commits nothing: it reads all that partitions keep.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from zktrace.fleet.spool import Spool
from zktrace.fleet.way import IDLE_S, NoBus, Notice, Publisher, Reader, Worker

TOPIC: Final = "zktrace.fleet"
#: What the topic keeps unless it was made otherwise: as long as the page looks back.
MAX_AGE_S: Final = 7 * 86_400
MAX_BYTES: Final = 10 << 30
_TIMEOUT_S: Final = 5.0
_POLL_S: Final = 0.1
#: How often it is looked whether there are more partitions.
_LOOK_S: Final = 30.0
_FETCH: Final = 256
#: What is not for users to set: what delivery and order rest on.
_OURS: Final = frozenset(
    ("bootstrap.servers", "group.id", "enable.auto.commit", "acks", "auto.offset.reset")
)
_REFUSED: Final = ("_AUTHENTICATION", "SASL_AUTHENTICATION_FAILED")
#: Of librdkafka's words, which name the property and may quote its value.
_PROPERTY: Final = re.compile(r'configuration property[:\s]+"?([a-z0-9._]+)"?')


def _load() -> Any:
    try:
        import confluent_kafka
        import confluent_kafka.admin
    except ImportError:
        raise NoBus("Kafka needs confluent-kafka: pip install 'zktrace[kafka]'") from None
    return confluent_kafka


def _silent() -> logging.Logger:
    """librdkafka's own words hold addresses and more."""
    logger = logging.getLogger("zktrace.kafka")
    logger.setLevel(logging.CRITICAL + 1)
    logger.propagate = False
    return logger


def settings(path: str) -> dict[str, str]:
    """A file of properties, as Kafka's own commands take them: ``name=value`` a line. NoBus says
    what is wrong with it, but no value.
    """
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        words = error.strerror if isinstance(error, OSError) else "it is no text"
        raise NoBus(f"--kafka-config: {path}: {words}") from None
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line[0] in "#!":
            continue
        name, equals, value = line.partition("=")
        if not equals:
            raise NoBus(f"--kafka-config: {path}: line {number} is not name=value")
        if name.strip() in _OURS:
            raise NoBus(f"--kafka-config: {path}: {name.strip()} is not to be set")
        found[name.strip()] = value.strip()
    return found


class Kafka:
    """Where it is, and how to get in."""

    bus = "Kafka"

    def __init__(self, servers: str, config: str | None) -> None:
        """NoBus: the library is not there, or the file of properties is wrong."""
        self.kafka = _load()
        self.shown = servers
        if not re.fullmatch(r"[A-Za-z0-9._:\[\],-]+", servers):
            raise NoBus("--kafka: HOST:PORT, with commas between several")
        self._settings = {} if config is None else settings(config)
        try:
            self.producer(lambda error: None)
        except self.kafka.KafkaException as error:
            found = _PROPERTY.search(str(error))
            what = found[1] if found else "what is in it"
            raise NoBus(f"--kafka-config: {config}: librdkafka does not take {what}") from None

    def _common(self, error: Callable[[Any], None]) -> dict[str, Any]:
        return {
            "client.id": "zktrace",
            "socket.timeout.ms": int(_TIMEOUT_S * 1000),
            "reconnect.backoff.max.ms": 1000,
            **self._settings,
            "bootstrap.servers": self.shown,
            "error_cb": error,
        }

    def producer(self, error: Callable[[Any], None]) -> Any:
        more = {"acks": "all", "linger.ms": 0, "message.timeout.ms": int(2 * _TIMEOUT_S * 1000)}
        return self.kafka.Producer({**self._common(error), **more}, logger=_silent())

    def consumer(self, error: Callable[[Any], None]) -> Any:
        more = {
            "group.id": "zktrace-page",  # asked for by the library, not used
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }
        return self.kafka.Consumer({**self._common(error), **more}, logger=_silent())

    def make_topic(self, error: Callable[[Any], None]) -> None:
        """Makes the topic unless it is there (then it stays as it is)."""
        admin = self.kafka.admin.AdminClient(self._common(error), logger=_silent())
        try:
            if TOPIC in admin.list_topics(timeout=_TIMEOUT_S).topics:
                return
        finally:
            admin.poll(0)  # what else it has to say
        topic = self.kafka.admin.NewTopic(
            TOPIC,
            num_partitions=1,
            replication_factor=-1,
            config={"retention.ms": str(MAX_AGE_S * 1000), "retention.bytes": str(MAX_BYTES)},
        )
        made = admin.create_topics([topic], operation_timeout=_TIMEOUT_S)
        try:
            made[TOPIC].result(2 * _TIMEOUT_S)
        except self.kafka.KafkaException as wrong:
            if wrong.args[0].code() != self.kafka.KafkaError.TOPIC_ALREADY_EXISTS:
                raise

    def publisher(self, spool: Spool, ensemble: str, notice: Notice) -> Publisher:
        return _Publisher(self, spool, notice)

    def reader(self, take: Callable[[bytes], None], notice: Notice) -> Reader:
        return _Reader(self, take, notice)


class _Told(Worker):
    """Tells what the library says meanwhile: it tries for itself, and long."""

    _way: Kafka
    _refused = False
    """Its credentials were: what comes of that says less."""

    def _once(self) -> None:
        self._refused = False
        self._way.make_topic(self._heard)
        self._work()

    def _work(self) -> None:
        raise NotImplementedError

    def _heard(self, error: Any) -> None:
        self._refused |= error.name() in _REFUSED
        if not self.stopping.is_set():
            self.failed(self._say(error))

    def _words(self, error: Exception) -> str:
        given = error.args[0] if isinstance(error, self._way.kafka.KafkaException) else None
        return type(error).__name__ if given is None else self._say(given)

    def _say(self, error: Any) -> str:
        # The name alone: texts may hold secrets.
        name = _REFUSED[0] if self._refused else str(error.name())
        known = {
            "_TRANSPORT": "no server",
            "_ALL_BROKERS_DOWN": "no server",
            "_RESOLVE": "no server of that name",
            "_TIMED_OUT": "no answer in time",
            "_MSG_TIMED_OUT": "no answer in time",
            **dict.fromkeys(_REFUSED, "it does not take the credentials"),
            "TOPIC_AUTHORIZATION_FAILED": f"the topic {TOPIC} is not allowed",
        }
        return known.get(name, name)


class _Publisher(_Told, Publisher):
    def __init__(self, way: Kafka, spool: Spool, notice: Notice) -> None:
        super().__init__(way.bus, way.shown, spool, notice)
        self._way = way

    def _work(self) -> None:
        producer = self._way.producer(self._heard)
        try:
            while not self.stopping.is_set():
                waiting = self._spool.first()
                if waiting is None:
                    producer.poll(IDLE_S)
                    continue
                number, data = waiting
                if not self._delivered(producer, data):
                    return
                self._spool.done(number)
                self.works()
        finally:
            producer.purge()

    def _delivered(self, producer: Any, data: bytes) -> bool:
        """Whether it is there; False: it was stopped before that was known."""
        told: list[Any] = []

        def delivered(error: Any, message: Any) -> None:
            told.append(error)

        producer.produce(TOPIC, data, key=self._spool.agent, on_delivery=delivered)
        while not told:
            if self.stopping.is_set():
                return False
            producer.poll(_POLL_S)
        if told[0] is not None:
            raise self._way.kafka.KafkaException(told[0])
        return True


class _Reader(_Told, Reader):
    def __init__(self, way: Kafka, take: Callable[[bytes], None], notice: Notice) -> None:
        super().__init__(way.bus, way.shown, take, notice)
        self._way = way
        self._next: dict[int, int] = {}
        """Per partition the offset of the message after the last one taken."""

    def _work(self) -> None:
        consumer = self._way.consumer(self._heard)
        try:
            partitions = self._partitions(consumer)
            place = self._way.kafka.TopicPartition
            first = self._way.kafka.OFFSET_BEGINNING
            consumer.assign([place(TOPIC, one, self._next.get(one, first)) for one in partitions])
            looked = time.monotonic()
            while not self.stopping.is_set():
                messages = consumer.consume(_FETCH, timeout=1.0)
                for message in messages:
                    if message.error() is not None:
                        raise self._way.kafka.KafkaException(message.error())
                    self._take(message.value() or b"")
                    self._next[message.partition()] = message.offset() + 1
                # Asked of the server where nothing came: whether it is there.
                self.behind = self._behind(consumer, partitions, cached=bool(messages))
                self.works()
                if time.monotonic() - looked > _LOOK_S:
                    looked = time.monotonic()
                    if self._partitions(consumer) != partitions:
                        return  # again, with those that are new
        finally:
            consumer.close()

    def _partitions(self, consumer: Any) -> list[int]:
        topic = consumer.list_topics(TOPIC, timeout=_TIMEOUT_S).topics[TOPIC]
        if topic.error is not None:
            raise self._way.kafka.KafkaException(topic.error)
        return sorted(topic.partitions)

    def _behind(self, consumer: Any, partitions: list[int], *, cached: bool) -> int:
        behind = 0
        for one in partitions:
            place = self._way.kafka.TopicPartition(TOPIC, one)
            low, high = consumer.get_watermark_offsets(place, timeout=_TIMEOUT_S, cached=cached)
            at = self._next.get(one, low)
            if high < at and not cached:
                # Another topic of that name: what was taken is known by its number.
                self._next.clear()
                raise self._way.kafka.KafkaException(
                    self._way.kafka.KafkaError(self._way.kafka.KafkaError.OFFSET_OUT_OF_RANGE)
                )
            behind += max(high - max(at, low), 0)
        return behind
