"""Which bus a fleet's messages go by: options of those who publish and of those who read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zktrace.cli.failure import Failure
from zktrace.cli.groups import Group
from zktrace.cli.options import Kafka, KafkaConfig, Nats, NatsCredentials

if TYPE_CHECKING:
    from zktrace.fleet.way import Way


class Bus(Group):
    """NATS or Kafka."""

    nats: Nats = None
    nats_credentials: NatsCredentials = None
    kafka: Kafka = None
    kafka_config: KafkaConfig = None

    def way(self) -> Way | None:
        """None: neither was given. :class:`Failure`: it cannot be."""
        if self.nats is not None and self.kafka is not None:
            raise Failure("give --nats or --kafka (ZKTRACE_NATS, ZKTRACE_KAFKA), not both")
        from zktrace.fleet.way import NoBus

        try:
            if self.nats is not None:
                from zktrace.fleet.bus import Nats

                return Nats(self.nats, self.nats_credentials)
            if self.kafka is not None:
                from zktrace.fleet.kafka import Kafka

                return Kafka(self.kafka, self.kafka_config)
        except NoBus as error:
            raise Failure(str(error)) from None
        return None
