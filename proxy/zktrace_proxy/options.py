"""The options of ``zktrace proxy run``, as types that Typer reads, and what groups of them mean."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from zktrace.cli.failure import Failure, marked
from zktrace.cli.groups import Group
from zktrace.cli.options import FilterOption, NoColor, Time, Times, seconds, size

if TYPE_CHECKING:
    from zktrace_proxy.lines import Lines
    from zktrace_proxy.plane import Record
    from zktrace_proxy.tls import Tls, ToClients, ToServers


class UpstreamDown(StrEnum):
    """As :data:`zktrace_proxy.plane.WhenDown`."""

    accept = "accept"
    reset = "reset"
    close_listener = "close-listener"


class ClientCertificate(StrEnum):
    """Whether clients must have one."""

    required = "required"
    optional = "optional"


class UpstreamVerify(StrEnum):
    """As :data:`zktrace_proxy.tls.Verify`."""

    full = "full"
    ca = "ca"
    none = "none"


Listen = Annotated[
    list[str],
    typer.Option(
        metavar="ADDR[=SERVER,...]",
        show_default=False,
        help="Where clients connect: ADDR:PORT, :PORT for all addresses; with = and the "
        "servers behind this one listener. May be repeated, as for a listener per member.",
    ),
]
Servers = Annotated[
    str | None,
    typer.Option(
        metavar="SERVER,...",
        show_default=False,
        help="Servers behind the listeners that name none: HOST:PORT. New connections go to "
        "them in turn.",
    ),
]
RecordFile = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        show_default=False,
        help="Record all traffic to this pcapng file. Session passwords, credentials, SASL "
        "tokens and hashes in ACLs are zeros in it.",
    ),
]
Rotate = Annotated[
    list[str],
    typer.Option(
        metavar="SIZE|TIME",
        show_default=False,
        help="Begin a new, numbered file at this size (256M) or after this time (1h); both "
        "may be given.",
    ),
]
Keep = Annotated[
    int | None,
    typer.Option(
        metavar="N", min=1, show_default=False, help="Of rotated files, how many are left."
    ),
]
Secrets = Annotated[bool, typer.Option("--record-secrets", help="Record secrets, too.")]
Snaplen = Annotated[
    int | None,
    typer.Option(
        "--snaplen",
        min=0,
        metavar="BYTES",
        show_default=False,
        help="Of each node's data, record so many bytes, and zeros for the others.",
    ),
]
RedactData = Annotated[
    bool, typer.Option("--redact-data", help="Record no node's data: --snaplen 0.")
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Print a line per event, as zktrace decode does."),
]
JsonLines = Annotated[
    bool, typer.Option("--json", help="Print a JSON object per event, as zktrace decode --json.")
]
RecordFilter = Annotated[
    str | None,
    typer.Option(
        metavar="EXPR",
        show_default=False,
        help="Record only requests that match, with their replies, and watch events; and connects, "
        "auth and the ends of sessions always. The file says that it is filtered.",
    ),
]
HttpAddress = Annotated[
    str | None,
    typer.Option(
        metavar="ADDR:PORT",
        show_default=False,
        help="Where to offer the page, the JSON API and metrics, as zktrace serve does.",
    ),
]
Lossy = Annotated[
    bool,
    typer.Option(
        "--lossy",
        help="When decoding or recording does not keep up, leave packets out (and count them) "
        "rather than let the traffic wait.",
    ),
]
SlowReader = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        metavar="SECONDS",
        show_default=False,
        help="Reset connections of which one side takes nothing for so long.",
    ),
]
ConnectTimeout = Annotated[
    float, typer.Option(min=0.001, metavar="SECONDS", help="For a server to accept.")
]
WhenServersDown = Annotated[
    UpstreamDown,
    typer.Option(
        help="What clients get while no server accepts: they wait (accept), are reset, or are "
        "refused until one does (close-listener)."
    ),
]
Drain = Annotated[
    float,
    typer.Option(
        min=0,
        metavar="SECONDS",
        help="When it is told to end: accept nobody, and end connections when nothing is under "
        "way on them, spread over this time. Then what is left is reset.",
    ),
]
MaxFrame = Annotated[
    str,
    typer.Option(
        metavar="SIZE",
        help="Frames above this are relayed, but neither put together nor looked at by faults "
        "and hooks.",
    ),
]
MaxConnections = Annotated[
    int, typer.Option(metavar="N", min=1, help="Connections at once; more are reset.")
]
Faults = Annotated[
    list[str],
    typer.Option(
        metavar="RULE",
        show_default=False,
        help="A fault from the start: ACTION [VALUE] [KEY=VALUE ...] [when FILTER]. May be "
        "repeated; more are given by zktrace proxy fault.",
    ),
]
Scripts = Annotated[
    list[str],
    typer.Option(
        "--script",
        "-s",
        metavar="FILE",
        show_default=False,
        help="Python hooks that see or change what goes through; read again when the file "
        "changes. May be repeated. See docs/hooks.md.",
    ),
]

ShadowAddress = Annotated[
    str | None,
    typer.Option(
        "--shadow",
        metavar="HOST:PORT",
        show_default=False,
        help="Send the clients' requests to this second ensemble, too, and tell where it answers "
        "otherwise. See docs/shadow.md.",
    ),
]

HealthCheck = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        min=0,
        help="Ask each server so often how it is (srvr); new connections go to those that are "
        "well. 0: do not.",
    ),
]
TlsCert = Annotated[
    list[str],
    typer.Option(
        metavar="CERT[,KEY]",
        show_default=False,
        help="Clients speak TLS: the proxy's certificate with the chain behind it, and its key "
        "where that is not in the same file; PEM. May be repeated: the one for the name that a "
        "client asks for is shown, else the first.",
    ),
]
TlsClientCa = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        show_default=False,
        help="Clients show certificates that these authorities have signed.",
    ),
]
TlsClientCert = Annotated[
    ClientCertificate,
    typer.Option(help="With --tls-client-ca: whether a client must have a certificate."),
]
UpstreamTls = Annotated[bool, typer.Option("--upstream-tls", help="Servers speak TLS.")]
UpstreamCa = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        show_default=False,
        help="Authorities that have signed the certificates of servers; PEM.",
    ),
]
UpstreamCert = Annotated[
    str | None,
    typer.Option(
        metavar="CERT[,KEY]",
        show_default=False,
        help="The certificate that is shown to servers, and its key; PEM.",
    ),
]
VerifyUpstream = Annotated[
    UpstreamVerify,
    typer.Option(
        "--upstream-verify",
        help="Of the certificates of servers: that an authority signed them for the server's name "
        "(full), that it signed them (ca), or nothing (none).",
    ),
]
UpstreamName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        show_default=False,
        help="The name that certificates of servers are to be for, rather than the hosts of "
        "--upstream.",
    ),
]


class RecordOptions(Group):
    """What is recorded."""

    record: RecordFile = None
    rotate: Rotate = []  # noqa: RUF012
    keep: Keep = None
    secrets: Secrets = False
    data_bytes: Snaplen = None
    redact_data: RedactData = False
    record_filter: RecordFilter = None

    def made(self) -> Record | None:
        """:class:`Failure` where the options do not go together."""
        from zktrace_proxy.plane import Record

        data_bytes = 0 if self.redact_data else self.data_bytes
        if self.record is None:
            given = (self.keep, data_bytes, self.record_filter)
            if self.rotate or self.secrets or any(one is not None for one in given):
                raise Failure(
                    "--rotate, --keep, --record-secrets, --record-filter, --snaplen and "
                    "--redact-data are about --record FILE"
                )
            return None
        _check_filter(self.record_filter)
        if self.secrets and data_bytes is not None:
            raise Failure(
                "--record-secrets records all: it does not go with --snaplen, --redact-data"
            )
        rotate_bytes: int | None = None
        rotate_s: float | None = None
        for text in self.rotate:
            if text[-1:] in ("s", "m", "h", "d"):
                rotate_s = seconds("--rotate", text)
            elif text[-1:] in ("k", "M", "G"):
                rotate_bytes = size("--rotate", text)
            else:
                raise Failure(
                    f"--rotate: {text!r} is neither a size (256M, 1G) nor a time (30m, 1h)"
                )
        if self.keep is not None and not self.rotate:
            raise Failure("--keep is about rotated files: give --rotate")
        return Record(
            self.record,
            rotate_bytes,
            rotate_s,
            self.keep,
            not self.secrets,
            data_bytes,
            self.record_filter,
        )


def _check_filter(expression: str | None) -> None:
    """Says what is wrong with it, if something is."""
    if expression is None:
        return
    from zktrace.analysis.filter import FilterError
    from zktrace.analysis.filter_program import compile_program

    try:
        compile_program(expression)
    except FilterError as error:
        text = marked("--record-filter", error.message, error.expression, error.position)
        raise Failure(text) from None


class LineOptions(Group):
    """What is printed of the traffic."""

    verbose: Verbose = False
    json: JsonLines = False
    filter: FilterOption = None
    times: Time = Times.utc
    no_color: NoColor = False

    def made(self, key: bytes | None) -> Lines | None:
        """:class:`Failure` where the options do not go together. `key`: of hashed sessions."""
        if not (self.verbose or self.json):
            if self.filter is not None:
                raise Failure("--filter is about the lines of -v or --json: give one of them")
            return None
        from zktrace_proxy.lines import Lines

        return Lines(
            json=self.json, filter=self.filter, times=self.times, no_color=self.no_color, key=key
        )


class TlsOptions(Group):
    """On either side."""

    tls_cert: TlsCert = []  # noqa: RUF012
    tls_client_ca: TlsClientCa = None
    tls_client_cert: TlsClientCert = ClientCertificate.required
    upstream_tls: UpstreamTls = False
    upstream_ca: UpstreamCa = None
    upstream_cert: UpstreamCert = None
    upstream_verify: VerifyUpstream = UpstreamVerify.full
    upstream_name: UpstreamName = None

    def made(self) -> Tls:
        """:class:`Failure` where the options do not go together; `TlsError` is about the files."""
        from zktrace_proxy.tls import Tls

        return Tls(self._clients(), self._servers())

    def _clients(self) -> ToClients | None:
        from zktrace_proxy.tls import Identity, ToClients

        required = self.tls_client_cert is ClientCertificate.required
        if not self.tls_cert:
            if self.tls_client_ca is not None:
                raise Failure("--tls-client-ca is about clients that speak TLS: give --tls-cert")
            return None
        if self.tls_client_ca is None and not required:
            raise Failure("--tls-client-cert is about --tls-client-ca FILE")
        return ToClients(tuple(map(Identity.of, self.tls_cert)), self.tls_client_ca, required)

    def _servers(self) -> ToServers | None:
        from zktrace_proxy.tls import Identity, ToServers

        ca, cert, verify = self.upstream_ca, self.upstream_cert, self.upstream_verify
        if not self.upstream_tls:
            if ca or cert or self.upstream_name or verify is not UpstreamVerify.full:
                raise Failure(
                    "--upstream-ca, --upstream-cert, --upstream-verify and --upstream-name are "
                    "about --upstream-tls"
                )
            return None
        if ca is None and verify is not UpstreamVerify.none:
            raise Failure(
                "--upstream-tls: who has signed the servers' certificates? Give --upstream-ca "
                "FILE, or --upstream-verify none"
            )
        if ca is not None and verify is UpstreamVerify.none:
            raise Failure(
                "--upstream-verify none looks at no certificate: it does not go with a CA"
            )
        identity = None if cert is None else Identity.of(cert)
        return ToServers(verify.value, ca, identity, self.upstream_name)
