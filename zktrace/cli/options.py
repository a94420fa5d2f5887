"""Options that several subcommands share, as types that Typer reads."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from zktrace.cli.failure import Failure
from zktrace.cli.groups import Group
from zktrace.engine.base import MAX_CONNECTIONS, EngineOptions, parse_ports

if TYPE_CHECKING:
    from zktrace.capture.follow import Follower
    from zktrace.engine.budget import Budget

_ROLES = "Where the roles of connections are not to be found from their first bytes"
_PORTS = "port of servers, N or IP:N or [IPv6]:N; may be repeated."

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE",
        show_default=False,
        help="Captures: pcap or pcapng, plain, .gz or .zst; - is standard input; several files are "
        "one capture in time order.",
    ),
]
OptionalSources = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[SOURCE]...",
        show_default=False,
        help="Captures: pcap or pcapng, plain, .gz or .zst; - is standard input; several files are "
        "one capture in time order.",
    ),
]
Reads = Annotated[
    list[str],
    typer.Option(
        "--read",
        "-r",
        metavar="SOURCE",
        show_default=False,
        help="Capture to read: pcap or pcapng, plain, .gz or .zst; - is standard input; may be "
        "repeated, several files are one capture in time order.",
    ),
]
Nats = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        envvar="ZKTRACE_NATS",
        show_default=False,
        help="NATS servers, as in nats://10.0.0.1:4222, with commas between several. A password in "
        "it is better given by ZKTRACE_NATS, as others can read command lines.",
    ),
]
NatsCredentials = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        envvar="ZKTRACE_NATS_CREDENTIALS",
        show_default=False,
        help="Credentials for NATS (a .creds file).",
    ),
]
Kafka = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        envvar="ZKTRACE_KAFKA",
        show_default=False,
        help="Kafka brokers, with commas between several, in place of NATS.",
    ),
]
KafkaConfig = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        envvar="ZKTRACE_KAFKA_CONFIG",
        show_default=False,
        help="Properties for Kafka's client, such as security.protocol and sasl.password: "
        "name=value a line.",
    ),
]
Follow = Annotated[
    bool,
    typer.Option(
        "--follow",
        help="Go on as more is written, to the file and to those that come after it, in a "
        "directory or of a pattern; until Ctrl-C.",
    ),
]
Voters = Annotated[
    int | None,
    typer.Option(
        "--voters",
        metavar="N",
        min=1,
        max=255,
        show_default=False,
        help="How many servers vote. Else as many as were seen, at least.",
    ),
]
Interfaces = Annotated[
    list[str],
    typer.Option(
        "--interface",
        "-i",
        metavar="IFACE",
        show_default=False,
        help="Interface to listen on, or any; may be repeated.",
    ),
]
Duration = Annotated[
    float | None,
    typer.Option(
        "--duration",
        min=0,
        metavar="SECONDS",
        show_default=False,
        help="Stop listening after so long.",
    ),
]
Hosts = Annotated[
    list[str],
    typer.Option(
        "--host",
        metavar="ADDRESS",
        help="Listen to what comes from or goes to this address, or network (10.0.0.0/8), only; "
        "may be repeated.",
    ),
]
CaptureFilterOption = Annotated[
    str | None,
    typer.Option(
        "--capture-filter",
        metavar="EXPR",
        show_default=False,
        help="Listen only to what matches this, too, in tcpdump's words: 'src net 10.0.0.0/8 and "
        "not host 10.1.2.3' (host, net, port, portrange, ip, ip6, src, dst, and, or, not).",
    ),
]
AllPorts = Annotated[
    bool,
    typer.Option(
        "--all-ports",
        help="Listen to all of TCP. Else to the ports that are given, or 2181, 2888 and 3888.",
    ),
]
Tunnels = Annotated[
    bool,
    typer.Option(
        "--tunnels",
        help="Listen to what is in tunnels, too (VXLAN, Geneve, GRE, IP in IP), on any port.",
    ),
]
Snaplen = Annotated[
    int | None,
    typer.Option(
        "--snaplen",
        "-s",
        metavar="BYTES",
        min=1,
        max=262_144,
        show_default=False,
        help="Bytes of a packet to keep; what is beyond is not decoded. Default: all.",
    ),
]
Promisc = Annotated[
    bool, typer.Option("--promisc", help="Take packets that are not for this machine, too.")
]
Buffer = Annotated[
    int,
    typer.Option(
        "--buffer",
        min=4,
        max=4096,
        metavar="MIB",
        help="Room for packets that wait, of each interface.",
    ),
]
#: Of :data:`Keep` and :data:`KeepSize`.
KEEP = "10m"
KEEP_SIZE = "1G"
#: Of :data:`Buffer`.
BUFFER_MIB = 32
Keep = Annotated[
    str,
    typer.Option(
        metavar="TIME",
        help="With --write DIR: how far back packets are kept, as in 30s, 10m, 2h.",
    ),
]
KeepSize = Annotated[
    str,
    typer.Option(
        metavar="SIZE",
        help="With --write DIR: what they may take, as in 500M, 2G; and slices as much again.",
    ),
]
MaxCpu = Annotated[
    float | None,
    typer.Option(
        "--max-cpu",
        min=0.1,
        max=6400,
        metavar="PERCENT",
        show_default=False,
        help="Of one core, all in all; beyond, only some connections are listened to, and it says "
        "which share.",
    ),
]
MaxMemory = Annotated[
    str | None,
    typer.Option(
        "--max-memory",
        metavar="SIZE",
        show_default=False,
        help="As in 200M; beyond, only some connections are listened to, and it says which share.",
    ),
]
UserOption = Annotated[
    str | None,
    typer.Option(
        "--user",
        metavar="NAME",
        show_default=False,
        help="As root: become this user when listening has begun. With sudo: the one who called "
        "it. Else capabilities are given up.",
    ),
]
ClientPort = Annotated[
    list[str], typer.Option("--client-port", metavar="PORT", help=f"Client {_PORTS}")
]
QuorumPort = Annotated[
    list[str], typer.Option("--quorum-port", metavar="PORT", help=f"Quorum {_PORTS}")
]
ElectionPort = Annotated[
    list[str], typer.Option("--election-port", metavar="PORT", help=f"Election {_PORTS}")
]
FilterOption = Annotated[
    str | None,
    typer.Option(
        "--filter",
        "-f",
        metavar="EXPR",
        show_default=False,
        help="Only events that match, such as "
        '\'op == "create" and path =~ "/locks/**" and latency > 10ms\'.',
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="JSON for programs.")]
HashSessions = Annotated[
    bool,
    typer.Option(
        "--hash-sessions",
        help="Replace session ids by keyed hashes (a session's password follows from its id).",
    ),
]
HashKey = Annotated[
    str | None,
    typer.Option(
        "--hash-key",
        metavar="TEXT",
        envvar="ZKTRACE_HASH_KEY",
        show_default=False,
        help="Key of --hash-sessions, for the same hashes in every run; without it a random one.",
    ),
]
NoColor = Annotated[bool, typer.Option("--no-color", help="No colours, not on a terminal either.")]
MaxConnections = Annotated[
    int,
    typer.Option(
        "--max-connections",
        metavar="N",
        min=1,
        help="Live connections to keep track of; beyond, the longest silent one is forgotten.",
    ),
]


Limit = Annotated[
    int | None,
    typer.Option(
        "--limit", "-n", metavar="N", min=0, show_default=False, help="Stop after so many events."
    ),
]


class Times(StrEnum):
    """How times are shown."""

    utc = "utc"
    local = "local"
    date = "date"
    epoch = "epoch"
    relative = "relative"


Time = Annotated[Times, typer.Option("--time", "-t", help="How times are shown (not with --json).")]


class Ports(Group):
    """What is known of connections before they are seen."""

    client_port: ClientPort = []  # noqa: RUF012
    quorum_port: QuorumPort = []  # noqa: RUF012
    election_port: ElectionPort = []  # noqa: RUF012
    max_connections: MaxConnections = MAX_CONNECTIONS

    def engine(self, **more: Any) -> EngineOptions:
        """`more`: as :func:`engine_options`."""
        return engine_options(
            self.client_port,
            self.quorum_port,
            self.election_port,
            max_connections=self.max_connections,
            **more,
        )


class Hashing(Group):
    """Of the ids of sessions."""

    hash_sessions: HashSessions = False
    hash_key: HashKey = None

    def key(self) -> bytes | None:
        """The key to replace session ids with; None: they stay."""
        if not self.hash_sessions:
            return None
        from zktrace.analysis.hashing import make_key

        return make_key(self.hash_key)


class Listen(Group):
    """To what, and at what cost; the interface apart, which commands have at a place of its own."""

    host: Hosts = []  # noqa: RUF012
    capture_filter: CaptureFilterOption = None
    all_ports: AllPorts = False
    tunnels: Tunnels = False
    snaplen: Snaplen = None
    promisc: Promisc = False
    buffer: Buffer = BUFFER_MIB
    user: UserOption = None
    max_cpu: MaxCpu = None
    max_memory: MaxMemory = None

    def budget(self) -> Budget | None:
        """What listening may cost."""
        if self.max_cpu is None and self.max_memory is None:
            return None
        from zktrace.engine.budget import Budget

        memory = None if self.max_memory is None else size("--max-memory", self.max_memory)
        return Budget(self.max_cpu, memory)


class Kept(Group):
    """Of a ring of files."""

    keep: Keep = KEEP
    keep_size: KeepSize = KEEP_SIZE


def engine_options(
    client_port: list[str],
    quorum_port: list[str],
    election_port: list[str],
    *,
    max_connections: int = MAX_CONNECTIONS,
    tables: bool = True,
    json_form: str | None = None,
    aggregate_by: tuple[str, ...] | None = None,
    path_depth: int | None = None,
    hash_key: bytes | None = None,
) -> EngineOptions:
    """What the options mean for an engine."""
    try:
        return EngineOptions(
            client_ports=parse_ports(client_port),
            quorum_ports=parse_ports(quorum_port),
            election_ports=parse_ports(election_port),
            max_connections=max_connections,
            tables=tables,
            json_form=json_form,
            aggregate_by=aggregate_by,
            path_depth=path_depth,
            hash_key=hash_key,
        )
    except ValueError as error:
        raise Failure(str(error)) from None


_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_BYTES: Final = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def seconds(option: str, text: str) -> float:
    """Of `90`, `30s`, `1.5h`, `1d`."""
    return _amount(option, text, _SECONDS, "a time such as 30s, 10m, 2h")


def size(option: str, text: str) -> int:
    """Bytes, of `1000000`, `500k`, `2M`, `1G`."""
    bare = text.removesuffix("B").removesuffix("i")
    return int(_amount(option, text, _BYTES, "a size such as 500M", bare))


def _amount(
    option: str, text: str, units: dict[str, int], what: str, bare: str | None = None
) -> float:
    bare = text if bare is None else bare
    unit = units.get(bare[-1:].lower(), 0)
    number = bare[:-1] if unit else bare
    whole, point, part = number.partition(".")
    digits = whole.isascii() and whole.isdigit() and (not point or part.isdigit())
    if not (digits and 0 < float(number) < 1 << 40):
        raise Failure(f"{option}: {text!r} is not {what}")
    return float(number) * (unit or 1)


def follower(sources: list[str]) -> Follower:
    """For ``--follow``."""
    from zktrace.capture.follow import Follower
    from zktrace.capture.source import STDIN

    if STDIN in sources:
        raise Failure("--follow is about files: standard input is read as it comes anyway")
    return Follower(sources, say)


def say(text: str) -> None:
    """A line for the user, beside what is written to standard output."""
    if sys.stderr is not None:
        print(f"zktrace: {text}", file=sys.stderr, flush=True)
