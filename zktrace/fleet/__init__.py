"""Many sensors, one picture: ``zktrace agent`` and ``zktrace serve --nats`` or
``--kafka``.

An agent decodes where the traffic is and publishes what it counted (windows of a second with their
histograms, whose sums are exact) and the events themselves (Arrow), as messages
(:mod:`zktrace.fleet.message`) with numbers that grow by one. A message is on the agent's disk
(:mod:`zktrace.fleet.spool`) before it is sent, and until NATS JetStream, or Kafka, has said that it
is on its own. The aggregator (:mod:`zktrace.fleet.merged`) reads the stream from its beginning and
takes each message of an agent once, by its number: so whichever of the three ends and comes back,
the sums are those of the agents. What was lost all the same (a full spool, a stream with limits) is
counted.

Only :mod:`zktrace.fleet.bus` knows NATS and only :mod:`zktrace.fleet.kafka` Kafka, which of them it
is nobody else (:mod:`zktrace.fleet.way`); nothing here knows captures or HTTP.
"""
