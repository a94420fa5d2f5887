"""Listening on interfaces, for the subcommands that can: options to a plan, rights, messages."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from zktrace.cli.failure import Failure, marked
from zktrace.cli.options import say, seconds, size

if TYPE_CHECKING:
    from zktrace.capture.bpf import Network
    from zktrace.capture.keep import File, Ring
    from zktrace.capture.live import Capture, CaptureFilter, Form
    from zktrace.cli.options import Kept, Listen
    from zktrace.engine.base import EngineOptions, LiveEngine, Port
    from zktrace.engine.live import LiveRun
    from zktrace.store.listen import LiveFeed
    from zktrace.store.picture import Picture

#: Where no port is given: those of ZooKeeper's documentation.
_USUAL_PORTS: Final = (2181, 2888, 3888)

#: What is loaded while the process still has its rights: another user may not read root's files.
_LATER: Final = (
    "zktrace.analysis.filter",
    "zktrace.analysis.stats",
    "zktrace.analysis.stats_result",
    "zktrace.analysis.trace",
    "zktrace.export.coverage",
    "zktrace.export.jsonl",
    "zktrace.export.summary",
    "zktrace.export.text",
    "rich.console",
    "rich.table",
)


class Listening:
    """What the options of a subcommand ask for; :meth:`run` opens the capture."""

    def __init__(
        self,
        interfaces: list[str],
        options: EngineOptions,
        asked: Listen,
        *,
        record: Form | None = None,
        not_from: Port | None = None,
    ) -> None:
        from zktrace.capture.bpf import WHOLE
        from zktrace.capture.interfaces import find
        from zktrace.capture.live import Plan
        from zktrace.capture.privileges import chosen

        ports = (*options.client_ports, *options.quorum_ports, *options.election_ports)
        given = tuple(dict.fromkeys(ports)) or tuple((None, port) for port in _USUAL_PORTS)
        self._plan = Plan(
            interfaces=tuple(find(interfaces)),
            ports=() if asked.all_ports else given,
            hosts=tuple(_network(host) for host in asked.host),
            tunnels=asked.tunnels,
            snaplen=asked.snaplen or WHOLE,
            promiscuous=asked.promisc,
            ring_bytes=asked.buffer << 20,
            record=record,
            also=_also(asked.capture_filter),
            # Ports that are named do not hold ours.
            not_from=not_from if asked.all_ports else None,
        )
        self._budget = asked.budget()
        self._user = chosen(asked.user)

    @property
    def user(self) -> str | None:
        """Whom the process belongs to once it listens; None: to whom it did."""
        return None if self._user is None else self._user.name

    def open(self, *later: str) -> Capture:
        """Opens the capture, then gives up what rights the process has. `later`: modules to load
        before another user may have to.
        """
        from zktrace.capture.bpf import FilterTooLong
        from zktrace.capture.privileges import become, drop_capabilities
        from zktrace.engine.live import listen

        if self._user is not None:
            _load(*_LATER, *later)
        try:
            capture = listen(self._plan)
        except FilterTooLong as error:
            raise Failure(str(error)) from None
        if self._user is not None:
            become(self._user)
        else:
            # Threads that libraries start would keep theirs, so before those are loaded.
            drop_capabilities()
        return capture

    def ring(self, directory: str, kept: Kept) -> Ring:
        """Keeps the latest packets there (the options must say so). After :meth:`open`: files
        belong to whom the process does then.
        """
        from zktrace.capture.keep import Ring

        ring = Ring(
            directory,
            self._plan,
            keep_s=max(int(seconds("--keep", kept.keep)), 1),
            max_bytes=size("--keep-size", kept.keep_size),
            notice=say,
        )
        ring.prepare()
        return ring

    def file(self, file: BinaryIO) -> File:
        """Keeps all packets there."""
        from zktrace.capture.keep import File

        return File(file, self._plan, say)

    def run(
        self,
        engine: LiveEngine,
        capture: Capture | None = None,
        *,
        notice: Callable[[str], None] = say,
        **more: Any,
    ) -> LiveRun:
        """What is captured, through an engine. `more`: as :class:`LiveRun` takes it."""
        from zktrace.engine.live import LiveRun

        return LiveRun(
            self._plan,
            capture or self.open(),
            engine,
            notice=notice,
            budget=self._budget,
            **more,
        )

    def picture(
        self, capture: Capture, options: EngineOptions, key: bytes | None, **more: Any
    ) -> tuple[Picture, LiveFeed]:
        """The picture of what is captured, and the thread that feeds it, not started. `more`: as
        :meth:`run` takes it.

        What starts threads is loaded here, after the capture was opened: they keep the rights of
        the time at which they are started.
        """
        from zktrace.store.listen import LiveFeed
        from zktrace.store.picture import Picture

        # What is loaded late. Of Python itself, too.
        if not all(os.access(file, os.R_OK) for file in (os.__file__, __file__)):
            raise Failure(
                f"the user {self.user} may not read zktrace's files: give --user root (rights are "
                "given up all the same), or install it where they can be read"
            )
        picture = Picture(options, hash_key=key)
        picture.ring = more.get("keeper")
        return picture, LiveFeed(picture, self.run(picture.engine, capture, **more))


def there() -> str:
    """What can be listened on, for a message."""
    from zktrace.capture.interfaces import ANY, names

    return ", ".join([*names(), ANY])


def _load(*names: str) -> None:
    from importlib import import_module

    for name in names:
        import_module(name)


def _network(text: str) -> Network:
    from ipaddress import ip_network

    try:
        return ip_network(text, strict=False)
    except ValueError:
        raise Failure(f"--host: {text!r} is no address and no network") from None


def _also(text: str | None) -> CaptureFilter | None:
    """The user's own filter."""
    if text is None:
        return None
    from zktrace.capture.expression import ExpressionError, parse
    from zktrace.capture.live import CaptureFilter

    try:
        return CaptureFilter(" ".join(text.split()), parse(text))
    except ExpressionError as error:
        raise Failure(marked("--capture-filter", error.message, text, error.position)) from None
