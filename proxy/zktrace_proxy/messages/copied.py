"""What came of a capture's messages that were written to another: counts, and how they are told.

Knows nothing of why a message was left out or changed; who does adds its own counts and lines.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Copied(ABC):
    connections: int = 0
    messages: int = 0
    #: messages of which bytes were missing
    damaged: int = 0
    four_letter: int = 0
    #: connections by role that were left out
    dropped: dict[str, int] = field(default_factory=dict)

    @abstractmethod
    def as_dict(self) -> dict[str, Any]:
        """As JSON tells it."""


def say(
    told: Copied,
    out: str,
    json: bool,
    verb: str,
    *,
    chosen: Sequence[str] = (),
    more: Sequence[str] = (),
) -> None:
    """On standard output: JSON, or lines. `chosen`: lines of what was left out on purpose; `more`:
    of what else became of messages.
    """
    if json:
        import json as codec

        print(codec.dumps(told.as_dict()))
        return
    from zktrace.export.summary import plural

    messages, connections = plural(told.messages, "message"), plural(told.connections, "connection")
    print(f"{verb:9} {messages} of {connections} to {out}")
    for line in chosen:
        print(line)
    for role, count in told.dropped.items():
        name = "TLS" if role == "tls" else role
        print(f"left out  {plural(count, f'{name} connection')}")
    if told.four_letter:
        print(f"left out  {plural(told.four_letter, 'four-letter word')}")
    for line in more:
        print(line)
