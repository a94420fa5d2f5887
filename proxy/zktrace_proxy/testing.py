"""A proxy within a test: ``with between("127.0.0.1:2181") as p: p.faults.add("drop-reply nth=1")``.

As ``zktrace_proxy.between``; as a pytest fixture see :mod:`zktrace_proxy.pytest_plugin`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

from zktrace_proxy.addresses import listeners
from zktrace_proxy.faults import Faults
from zktrace_proxy.plane import Config, Decision, Plane, create
from zktrace_proxy.rules import parse
from zktrace_proxy.tls import NO_TLS

_TICK_S: Final = 0.01


class Between:
    """A running proxy."""

    def __init__(self, plane: Plane, faults: Faults) -> None:
        self.plane = plane
        self.faults = faults
        """``add(rule)``, ``remove(number)``, ``clear()``, ``list()``."""
        self._decisions: list[Decision] = []

    @property
    def addresses(self) -> list[str]:
        """Where clients connect: one ``IP:PORT`` for each listener."""
        return self.plane.addresses()

    @property
    def hosts(self) -> str:
        """A connect string for clients: all addresses."""
        return ",".join(self.addresses)

    @property
    def decisions(self) -> list[Decision]:
        """What faults did so far, in order."""
        made, _ = self.plane.decisions()
        self._decisions += made
        return list(self._decisions)

    def wait_for(self, action: str, timeout_s: float = 30.0) -> Decision:
        """The first decision of that action, waiting for it.

        :raises TimeoutError: there was none in time.
        """
        until = time.monotonic() + timeout_s
        while True:
            for one in self.decisions:
                if one.action == action:
                    return one
            if time.monotonic() > until:
                raise TimeoutError(f"no fault {action!r} was made within {timeout_s} s")
            time.sleep(_TICK_S)

    def counters(self) -> dict[str, int]:
        """Connections and bytes so far."""
        return self.plane.counters()


@contextmanager
def between(
    upstream: str | Sequence[str],
    *,
    listen: str | Sequence[str] | None = None,
    faults: Sequence[str] = (),
    **config: Any,
) -> Iterator[Between]:
    """Puts a proxy in front of servers for as long as the block lasts.

    `upstream`: servers behind one listener (``HOST:PORT,HOST:PORT``); a sequence of them: a
    listener for each, so that each server can be cut off by itself. `listen`: where, instead of any
    free port of 127.0.0.1. `faults`: rules in force from the start. `config`: other fields of
    :class:`zktrace_proxy.plane.Config`.

    :raises RuleError: a rule cannot be understood.
    :raises PlaneError: an address is wrong or taken.
    """
    behind = [upstream] if isinstance(upstream, str) else list(upstream)
    if listen is None:
        at = ["127.0.0.1:0"] * len(behind)
    else:
        at = [listen] if isinstance(listen, str) else list(listen)
    rules = tuple(parse(text) for text in faults)
    pairs = [f"{address}={servers}" for address, servers in zip(at, behind, strict=True)]
    servers = config.get("tls", NO_TLS).servers
    name = None if servers is None else servers.name
    wanted = replace(Config(listeners(pairs, None, name=name), taps=0, rules=rules), **config)
    plane = create(wanted)
    try:
        yield Between(plane, Faults(plane, rules))
    finally:
        plane.stop()
