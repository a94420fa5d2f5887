"""Which connection of one recording is which of the other.

Ports, session ids and times differ, so what was said tells: first connections of which all that
was asked and answered is the same, then all that was asked, then the same but for sequence numbers,
then the first so many requests. Among equals the order of their beginning decides. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from zktrace_proxy.compare.recording import PREFIXES, Talk


@dataclass(slots=True)
class Pairs:
    """`pairs` in the first one's order; connections that have no counterpart."""

    pairs: list[tuple[Talk, Talk]] = field(default_factory=list)
    only_first: list[Talk] = field(default_factory=list)
    only_second: list[Talk] = field(default_factory=list)


def match(first: list[Talk], second: list[Talk]) -> Pairs:
    """Pairs connections, both lists in order of their beginning."""
    left, right = list(first), list(second)
    pairs: list[tuple[Talk, Talk]] = []
    keys: list[Callable[[Talk], Hashable]] = [
        lambda talk: (talk.kind, talk.requests, talk.exact),
        lambda talk: (talk.kind, talk.requests, talk.asked),
        lambda talk: (talk.kind, talk.requests, talk.shape),
    ]
    for key in keys:
        left, right = _pair(left, right, key, pairs)
    for count in PREFIXES:
        left, right = _pair(left, right, _prefix(count), pairs)
    pairs.sort(key=lambda pair: (pair[0].first_ns, pair[0].conn))
    return Pairs(pairs, left, right)


def _prefix(count: int) -> Callable[[Talk], Hashable]:
    return lambda talk: (talk.kind, talk.prefixes.get(count))


def _pair(
    left: list[Talk],
    right: list[Talk],
    key: Callable[[Talk], Hashable],
    pairs: list[tuple[Talk, Talk]],
) -> tuple[list[Talk], list[Talk]]:
    waiting: dict[Hashable, list[Talk]] = {}
    for talk in reversed(right):
        waiting.setdefault(key(talk), []).append(talk)
    rest = []
    taken = set()
    for talk in left:
        found = key(talk)
        same = waiting.get(found)
        known = not (isinstance(found, tuple) and found[-1] is None)
        if same and known:
            other = same.pop()
            taken.add(other.conn)
            pairs.append((talk, other))
        else:
            rest.append(talk)
    return rest, [talk for talk in right if talk.conn not in taken]
