"""What relays: its configuration, and what can be asked of it.

The plane that is used is native (``zktrace/_native/src/relay``): a thread of its own that never
takes Python's lock. Bytes are sent on at once and copied to the tap, a pcapng stream of TCP
segments between client and server as if there were no proxy, which anything that reads captures can
read. Of ZooKeeper it knows frames, and what rules (:mod:`zktrace_proxy.rules`) ask about them; a
connection that no rule concerns is relayed without a look at its frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol, TypeAlias

from zktrace_proxy.tls import NO_TLS, Tls

if TYPE_CHECKING:
    from zktrace.engine.base import LiveEngine
    from zktrace_proxy.rules import Rule

#: Bytes of a direction of a connection that wait to be sent; beyond, its source is not read.
SPILL_LIMIT: Final = 256 * 1024
#: Bytes that wait for whoever decodes or records; beyond, the traffic stops, or packets are left
#: out.
TAP_LIMIT: Final = 64 << 20
CONNECT_TIMEOUT_S: Final = 5.0
#: Frames up to this are put together where rules concern a connection; larger ones pass unseen.
MAX_FRAME: Final = 16 << 20
MAX_CONNECTIONS: Final = 20_000


class PlaneError(Exception):
    """There is no plane, or it cannot start; the text is one line that says why."""


class Upstream(NamedTuple):
    """A server: ``IP:PORT``, IPv6 in brackets; and the name that its certificate is to be for."""

    address: str
    name: str

    @classmethod
    def of(cls, address: str) -> Upstream:
        """One without a name but its address."""
        return cls(address, address.rpartition(":")[0].strip("[]"))


@dataclass(frozen=True, slots=True)
class Listener:
    """Where clients connect (``IP:PORT``, IPv6 in brackets), and the servers behind.

    New connections go to the servers in turn, and to the next one where one does not answer.
    """

    address: str
    upstreams: tuple[Upstream, ...]

    @classmethod
    def to(cls, address: str, *servers: str) -> Listener:
        """To servers without names."""
        return cls(address, tuple(map(Upstream.of, servers)))


@dataclass(frozen=True, slots=True)
class Record:
    """A recording: a pcapng file.

    With `rotate_bytes` or `rotate_s`, files are numbered (``name-00001.pcapng``) and begun anew at
    that size or age; `keep` of them are left. `redact`: session passwords, credentials of ``auth``,
    tokens of SASL and hashes in ACLs of the digest scheme are zeros on disk. `data_bytes`: of each
    node's data, so many bytes are kept, and the others zeros, too; None: all are kept. `filter`: an
    expression (of :data:`zktrace.analysis.filter_program.FIELDS`): only requests that it selects,
    with their replies, and watch events are recorded, which the head of each file says; always
    connects, ``auth``, SASL, closeSession and the ends of connections.
    """

    path: str
    rotate_bytes: int | None = None
    rotate_s: float | None = None
    keep: int | None = None
    redact: bool = True
    data_bytes: int | None = None
    filter: str | None = None


WhenDown: TypeAlias = Literal["accept", "reset", "close-listener"]


@dataclass(frozen=True, slots=True)
class Config:
    """What a plane does.

    `slow_reader_s`: a connection whose bytes one side takes none of for so long is reset; None:
    never. `lossless`: when those who read the tap do not keep up, sockets are not read until they
    have; else packets are left out of the tap and counted. `taps`: how many read
    the traffic by :meth:`Plane.next`, each all of it; `observers`: how many more there are,
    numbered behind these, which are never waited for. `when_down`: what
    clients get while no server accepts: they wait, are reset, or are refused by the kernel until
    one does. `rules` are in force from the start, and
    numbered from 1. `tls`: with whom TLS is spoken; what is seen of the traffic is decrypted then.
    """

    listeners: tuple[Listener, ...]
    spill_limit: int = SPILL_LIMIT
    slow_reader_s: float | None = None
    connect_timeout_s: float = CONNECT_TIMEOUT_S
    max_connections: int = MAX_CONNECTIONS
    tap_limit: int = TAP_LIMIT
    lossless: bool = True
    taps: int = 1
    observers: int = 0
    record: Record | None = None
    max_frame: int = MAX_FRAME
    when_down: WhenDown = "reset"
    rules: tuple[Rule, ...] = ()
    tls: Tls = NO_TLS


@dataclass(frozen=True, slots=True)
class Decision:
    """What a rule did to a connection or a frame. `opcode`, `path`, `xid`: of the request, as far
    as there is one.
    """

    ts_ns: int
    rule: int
    action: str
    client: str
    server: str
    session: int | None
    opcode: int | None
    path: str | None
    xid: int | None
    detail: str


#: The frame goes on; or another one; a request's reply, for which the server is not asked; nothing
#: goes on; the connection is reset.
Verdict: TypeAlias = Literal["pass", "replace", "answer", "drop", "close"]


@dataclass(frozen=True, slots=True)
class Question:
    """A frame that waits for a verdict, and its direction with it. `opcode` and `path`: of the
    request, of a watch event its own.
    """

    connection: int
    ticket: int
    rule: int
    kind: Literal["request", "reply", "event"]
    client: str
    server: str
    session: int | None
    opcode: int | None
    path: str | None
    xid: int
    frame: bytes
    """With its length."""


class Plane(Protocol):
    """A running data plane."""

    def addresses(self) -> list[str]:
        """Where it listens, in the order of the configuration."""

    def next(self, timeout_s: float, tap: int = 0) -> bytes | None:
        """A tap's next bytes, whole pcapng blocks; None when none came in time."""

    def feed(self, engine: LiveEngine, source: int, budget_s: float, tap: int = 0) -> bool:
        """Feeds a source of an engine with what a tap gives, for up to so long, or waits for it;
        False: these two have no way but :meth:`next`.
        """

    def ended(self, tap: int = 0) -> bool:
        """Whether a tap has given all it ever will."""

    def counters(self) -> dict[str, int]:
        """What happened so far: connections, bytes, what the tap left out."""

    def recorded(self) -> tuple[int, int, str | None]:
        """Bytes recorded, files begun, and why nothing can be written at the moment."""

    def add_rule(self, form: tuple[Any, ...]) -> None:
        """Puts a rule (:meth:`zktrace_proxy.rules.Rule.form`) in force, at once."""

    def remove_rule(self, number: int) -> bool:
        """Takes a rule back; whether there was one."""

    def rules(self) -> list[tuple[int, int, int, bool]]:
        """Of each rule: number, how often it matched, how often it did something, whether it is
        over.
        """

    def decisions(self) -> tuple[list[Decision], int]:
        """What rules did since this was asked last; how much of it was forgotten by then."""

    def set_upstreams(self, listener: int, servers: Sequence[Upstream]) -> None:
        """The servers behind a listener from now on (``IP:PORT``), for new connections."""

    def reload_tls(self) -> None:
        """Reads the files of TLS again: for connections from now on.

        :raises PlaneError: one cannot be used; what was there before stays.
        """

    def notices(self) -> tuple[list[str], int]:
        """With whom TLS failed since this was last asked, and why; how many more there were."""

    def drain(self, over_s: float) -> int:
        """Accepts nobody any more, and ends connections when nothing is under way on them, spread
        over this time; waits for it. How many were still open then.
        """

    def question(self, timeout_s: float) -> Question | None:
        """The next frame that a rule wants decided about; None when none came in time."""

    def decide(self, question: Question, what: Verdict, frame: bytes | None = None) -> bool:
        """Decides; whether the connection is still there. `frame`: with its length, for
        ``replace`` and ``answer``.

        :raises ValueError: it is no frame.
        """

    def inject(self, connection: int, frame: bytes) -> bool:
        """Sends a frame to a client, between two others; whether the connection is still there.

        :raises ValueError: it is no frame.
        """

    def stop(self) -> None:
        """Resets all connections, writes the recording to its end, and ends."""


def create(config: Config) -> Plane:
    """Binds and begins to relay.

    The native plane, or asyncio's where it was not built; ``ZKTRACE_ENGINE`` chooses, as it does
    for decoding.

    :raises PlaneError: what is wanted needs the native engine, an address that cannot be bound, a
        file that cannot be written.
    """
    import os

    from zktrace.engine.base import ENGINE_VARIABLE

    engine = os.environ.get(ENGINE_VARIABLE, "")
    if engine not in ("", "native", "python"):
        raise PlaneError(f"{ENGINE_VARIABLE}: {engine!r} is neither native nor python")
    if engine != "python":
        from zktrace_proxy.native import Missing, NativePlane

        try:
            return NativePlane(config)
        except Missing as error:
            if engine == "native":
                raise PlaneError(str(error)) from None
    from zktrace_proxy.fallback.plane import AsyncioPlane

    return AsyncioPlane(config)
