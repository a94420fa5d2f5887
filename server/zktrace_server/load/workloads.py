"""All workloads, by name."""

from __future__ import annotations

from typing import Final

from zktrace_server.load.mixes import ClickHouse, Kafka, Large, ReadWrite, Storm
from zktrace_server.load.recipes import Config, Discovery, Election, Locks, Queue
from zktrace_server.load.workload import Actor

_ALL: Final[tuple[type[Actor], ...]] = (
    ReadWrite,
    Discovery,
    Locks,
    Election,
    Queue,
    Config,
    Kafka,
    ClickHouse,
    Large,
    Storm,
)
WORKLOADS: Final[dict[str, type[Actor]]] = {kind.name: kind for kind in _ALL}
