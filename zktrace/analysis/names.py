"""Names and numbers that results are asked about, taken from the schema as the engine has it
(``zktrace.wire.layout``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

from zktrace.engine.base import schema_text


@dataclass(frozen=True)
class Vocabulary:
    """What the schema names."""

    opcodes: dict[str, int] = field(default_factory=dict)
    """Opcode by op name, ``connect`` among them."""
    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()
    """Ops that only read, and ops that change the tree; the others are neither (ping, auth,
    setWatches ...).
    """
    errors: dict[str, int] = field(default_factory=dict)
    """Error code by name."""
    events: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    packets: tuple[str, ...] = ()
    """Types of quorum packets."""
    votes: tuple[str, ...] = ()
    """States of servers in an election."""

    @classmethod
    def of(cls, text: str) -> Vocabulary:
        """Reads the schema's text."""
        # A ConnectRequest has no opcode on the wire; -10 (createSession) stands for it.
        opcodes = {"connect": -10}
        effects: dict[str, set[str]] = {"r": set(), "w": set()}
        errors: dict[str, int] = {}
        named: dict[str, list[str]] = {
            kind: [] for kind in ("event", "state", "word", "packet", "vote")
        }
        for line in text.splitlines():
            what, number, name = line.split(" ", 2)
            if what == "op":
                name, effect, _ = name.split(" ", 2)
                opcodes[name] = int(number)
                effects.setdefault(effect, set()).add(name)
            elif what == "error":
                errors[name] = int(number)
            elif what in named:
                named[what].append(name)
        return cls(
            opcodes=opcodes,
            reads=frozenset(effects["r"]),
            writes=frozenset(effects["w"]),
            errors=errors,
            events=tuple(named["event"]),
            states=tuple(named["state"]),
            words=tuple(named["word"]),
            packets=tuple(named["packet"]),
            votes=tuple(named["vote"]),
        )


@cache
def vocabulary() -> Vocabulary:
    """That of this version."""
    return Vocabulary.of(schema_text())
