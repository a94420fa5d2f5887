"""``zktrace proxy``: the commands."""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import ExitStack
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from zktrace.cli.failure import Failure
from zktrace.cli.options import HashKey, HashSessions, hashing_key
from zktrace.cli.site import AllowHost, MetricsTop, Site, Token
from zktrace_proxy import command_fault

if TYPE_CHECKING:
    from types import FrameType

    from zktrace_proxy.hooks.runner import Hooks
    from zktrace_proxy.plane import Listener, Plane, Record
    from zktrace_proxy.rules import Rule

app = typer.Typer(
    help="Stand between clients and servers: relay, decode, record.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

#: How often names of servers are looked up again.
_RESOLVE_S = 30.0


class UpstreamDown(StrEnum):
    """As :data:`zktrace_proxy.plane.WhenDown`."""

    accept = "accept"
    reset = "reset"
    close_listener = "close-listener"


#: How often it is looked whether recording works.
_LOOK_S = 1.0
#: How long decoding may take to end.
_END_S = 10.0

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_SPANS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


app.add_typer(command_fault.app, name="fault")


def main(arguments: list[str] | None = None) -> int:
    """The command by itself; its exit status."""
    from zktrace.cli.main import run as command

    return command(arguments, app, "zktrace proxy")


@app.callback()
def _root() -> None:
    """Stand between clients and servers: relay, decode, record."""


@app.command()
def run(
    listen: Annotated[
        list[str],
        typer.Option(
            metavar="ADDR[=SERVER,...]",
            show_default=False,
            help="Where clients connect: ADDR:PORT, :PORT for all addresses; with = and the "
            "servers behind this one listener. May be repeated, as for a listener per member.",
        ),
    ] = [],  # noqa: B006
    upstream: Annotated[
        str | None,
        typer.Option(
            metavar="SERVER,...",
            show_default=False,
            help="Servers behind the listeners that name none: HOST:PORT. New connections go to "
            "them in turn.",
        ),
    ] = None,
    record: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Record all traffic to this pcapng file. Session passwords, credentials, SASL "
            "tokens and hashes in ACLs are zeros in it.",
        ),
    ] = None,
    rotate: Annotated[
        list[str],
        typer.Option(
            metavar="SIZE|TIME",
            show_default=False,
            help="Begin a new, numbered file at this size (256M) or after this time (1h); both "
            "may be given.",
        ),
    ] = [],  # noqa: B006
    keep: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, show_default=False, help="Of rotated files, how many are left."
        ),
    ] = None,
    secrets: Annotated[bool, typer.Option("--record-secrets", help="Record secrets, too.")] = False,
    data_bytes: Annotated[
        int | None,
        typer.Option(
            "--snaplen",
            min=0,
            metavar="BYTES",
            show_default=False,
            help="Of each node's data, record so many bytes, and zeros for the others.",
        ),
    ] = None,
    redact_data: Annotated[
        bool, typer.Option("--redact-data", help="Record no node's data: --snaplen 0.")
    ] = False,
    http: Annotated[
        str | None,
        typer.Option(
            metavar="ADDR:PORT",
            show_default=False,
            help="Where to offer the page, the JSON API and metrics, as zktrace serve does.",
        ),
    ] = None,
    lossy: Annotated[
        bool,
        typer.Option(
            "--lossy",
            help="When decoding or recording does not keep up, leave packets out (and count them) "
            "rather than let the traffic wait.",
        ),
    ] = False,
    slow_reader: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            metavar="SECONDS",
            show_default=False,
            help="Reset connections of which one side takes nothing for so long.",
        ),
    ] = None,
    connect_timeout: Annotated[
        float, typer.Option(min=0.001, metavar="SECONDS", help="For a server to accept.")
    ] = 5.0,
    upstream_down: Annotated[
        UpstreamDown,
        typer.Option(
            help="What clients get while no server accepts: they wait (accept), are reset, or are "
            "refused until one does (close-listener)."
        ),
    ] = UpstreamDown.reset,
    drain: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="SECONDS",
            help="When it is told to end: accept nobody, and end connections when nothing is under "
            "way on them, spread over this time. Then what is left is reset.",
        ),
    ] = 0.0,
    max_frame: Annotated[
        str,
        typer.Option(
            metavar="SIZE",
            help="Frames above this are relayed, but neither put together nor looked at by faults "
            "and hooks.",
        ),
    ] = "16M",
    max_connections: Annotated[
        int, typer.Option(metavar="N", min=1, help="Connections at once; more are reset.")
    ] = 20_000,
    fault: Annotated[
        list[str],
        typer.Option(
            metavar="RULE",
            show_default=False,
            help="A fault from the start: ACTION [VALUE] [KEY=VALUE ...] [when FILTER]. May be "
            "repeated; more are given by zktrace proxy fault.",
        ),
    ] = [],  # noqa: B006
    script: Annotated[
        list[str],
        typer.Option(
            "--script",
            "-s",
            metavar="FILE",
            show_default=False,
            help="Python hooks that see or change what goes through; read again when the file "
            "changes. May be repeated. See docs/hooks.md.",
        ),
    ] = [],  # noqa: B006
    token: Token = None,
    allow_host: AllowHost = [],  # noqa: B006
    metrics_top: MetricsTop = 0,
    hash_sessions: HashSessions = False,
    hash_key: HashKey = None,
) -> None:
    """Relay between clients and servers, and show or record what is said.

    Ctrl-C ends it, and its connections; clients connect again by themselves.
    """
    from zktrace_proxy.addresses import listeners
    from zktrace_proxy.plane import Config, PlaneError, create

    site = None if http is None else Site(http, token, allow_host)
    key = hashing_key(hash_sessions, hash_key)
    # Also where interrupts were ignored, as in the background of a script: the recording is
    # written to its end.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    _more_files()
    with ExitStack() as stack:
        if site is not None:
            stack.enter_context(site.bind())
        try:
            rules = _rules(fault)
            hooks = _hooks(script)
            wanted = listeners(listen, upstream)
            plane = create(
                Config(
                    wanted,
                    slow_reader_s=slow_reader,
                    connect_timeout_s=connect_timeout,
                    max_connections=max_connections,
                    max_frame=_frame_limit(max_frame),
                    when_down=upstream_down.value,
                    lossless=not lossy,
                    taps=int(site is not None),
                    observers=int(bool(script)),
                    record=_record(record, rotate, keep, secrets, 0 if redact_data else data_bytes),
                    rules=rules,
                )
            )
        except PlaneError as error:
            raise Failure(str(error)) from None
        stack.callback(plane.stop)
        try:
            if hooks is not None:
                hooks.start(plane, tap=int(site is not None))
                stack.callback(hooks.stop)
            for one, address in zip(wanted, plane.addresses(), strict=True):
                _say(f"{address} -> {', '.join(one.upstreams)}")
            if record is not None:
                _say(f"recording to {record}")
                stack.callback(_watch(plane).set)
            stack.callback(_resolving(plane, listen, upstream, wanted).set)
            if site is None:
                threading.Event().wait()
            else:
                _show(plane, site, metrics_top, key, rules, drain)
        except KeyboardInterrupt:
            pass  # the way to end it
        _drain(plane, drain)
    _told(plane)


def _say(text: str) -> None:
    print(f"zktrace: {text}", file=sys.stderr, flush=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _more_files() -> None:
    """Lets the process open as many files as it may: a connection is two."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):
        pass  # as it is, then: macOS has a limit of its own below an infinite one


def _frame_limit(text: str) -> int:
    size = _size(text)
    if size is None or not 64 <= size <= 1 << 28:
        raise Failure(f"--max-frame: {text!r} is no size from 1k to 256M")
    return size


def _size(text: str) -> int | None:
    """Bytes of ``256M``; None: it is no size."""
    number, unit = text[:-1], text[-1:]
    if unit not in ("k", "M", "G") or not _number(number):
        return None
    return int(float(number) * _UNITS[unit.lower()])


def _rules(texts: list[str]) -> tuple[Rule, ...]:
    if not texts:
        return ()
    from zktrace_proxy.rules import RuleError, parse

    try:
        return tuple(parse(text) for text in texts)
    except RuleError as error:
        raise Failure(f"--fault: {error}") from None


def _hooks(scripts: list[str]) -> Hooks | None:
    """Reads the scripts."""
    if not scripts:
        return None
    from zktrace_proxy.hooks.runner import Hooks

    try:
        return Hooks(scripts, _say)
    except OSError as error:
        raise Failure(f"--script {error.filename}: {error.strerror or error}") from None
    except Exception as error:  # whatever a script raises when it is run
        words = " ".join(f"{type(error).__name__}: {error}".split())
        raise Failure(f"--script: {words}") from None


def _show(
    plane: Plane,
    site: Site,
    metrics_top: int,
    key: bytes | None,
    rules: tuple[Rule, ...],
    drain: float,
) -> None:
    from zktrace.store.picture import Picture
    from zktrace_proxy import http
    from zktrace_proxy.faults import Faults
    from zktrace_proxy.feed import TapFeed

    picture = Picture(hash_key=key)
    feed = TapFeed(picture, plane, ", ".join(plane.addresses()))
    feed.start()
    try:
        faults = Faults(plane, rules)
        site.serve(picture, metrics_top, lambda app: http.add(app, faults))
    finally:
        _drain(plane, drain)
        plane.stop()
        if not feed.join(_END_S):
            _say("decoding did not come to its end")


def _drain(plane: Plane, over_s: float) -> None:
    if not over_s or not plane.counters()["open"]:
        return
    from zktrace.export.summary import plural

    left = plane.drain(over_s)
    if left:
        _say(f"{plural(left, 'connection')} cut: something was under way after {over_s:g} s")


def _resolving(
    plane: Plane, listen: list[str], upstream: str | None, now: tuple[Listener, ...]
) -> threading.Event:
    """Looks names of servers up again and again: new connections go where they lead then."""
    from zktrace_proxy.addresses import listeners
    from zktrace_proxy.plane import PlaneError

    ended = threading.Event()

    def look() -> None:
        known = [one.upstreams for one in now]
        while not ended.wait(_RESOLVE_S):
            try:
                found = [one.upstreams for one in listeners(listen, upstream)]
            except PlaneError:
                continue  # a resolver that fails for a while: what is known stays
            for index, (old, new) in enumerate(zip(known, found, strict=True)):
                if set(old) != set(new):
                    plane.set_upstreams(index, new)
                    _say(f"{plane.addresses()[index]} -> {', '.join(new)}")
                    known[index] = new

    threading.Thread(target=look, name="zktrace-resolve", daemon=True).start()
    return ended


def _watch(plane: Plane) -> threading.Event:
    """Says when recording fails, and when it works again."""
    ended = threading.Event()

    def look() -> None:
        told = None
        while not ended.wait(_LOOK_S):
            problem = plane.recorded()[2]
            if problem != told:
                _say(f"RECORDING FAILS: {problem}" if problem else "recording works again")
            told = problem

    threading.Thread(target=look, name="zktrace-watch", daemon=True).start()
    return ended


def _told(plane: Plane) -> None:
    """The last lines: what went through."""
    from zktrace.export.summary import plural
    from zktrace.export.text import size

    counted = plane.counters()
    recorded, files, problem = plane.recorded()
    _say(
        f"{plural(counted['accepted'], 'connection')}, "
        f"{size(counted['bytes_to_server'])} to servers, "
        f"{size(counted['bytes_to_client'])} to clients"
        + (f"; {size(recorded)} recorded in {files:,} files" if files > 1 else "")
        + (f"; {size(recorded)} recorded" if files == 1 else "")
    )
    wrong = {
        "unreachable": ("connection", " reset as no server accepted"),
        "refused": ("connection", " refused (--max-connections)"),
        "slow_readers": ("connection", " reset for a slow reader"),
        "faulted": ("connection", " ended by a fault"),
        "drained": ("connection", " ended when nothing was under way (--drain)"),
        "accept_failures": ("failure", " to accept"),
        "tap_lost_packets": ("packet", " left out by the tap"),
    }
    for name, (what, words) in wrong.items():
        if counted[name]:
            _say(plural(counted[name], what) + words)
    if problem:
        raise Failure(f"the recording is not complete: {problem}")


def _record(
    path: str | None, rotate: list[str], keep: int | None, secrets: bool, data_bytes: int | None
) -> Record | None:
    from zktrace_proxy.plane import Record

    if path is None:
        if rotate or keep is not None or secrets or data_bytes is not None:
            raise Failure(
                "--rotate, --keep, --record-secrets, --snaplen and --redact-data are about "
                "--record FILE"
            )
    elif secrets and data_bytes is not None:
        raise Failure("--record-secrets records all: it does not go with --snaplen, --redact-data")
    if path is None:
        return None
    rotate_bytes: int | None = None
    rotate_s: float | None = None
    for text in rotate:
        number, unit = text[:-1], text[-1:]
        if unit in "smhd" and unit and _number(number):
            rotate_s = float(number) * _SPANS[unit]
        elif (size := _size(text)) is not None:
            rotate_bytes = size
        else:
            raise Failure(f"--rotate: {text!r} is neither a size (256M, 1G) nor a time (30m, 1h)")
    if keep is not None and not rotate:
        raise Failure("--keep is about rotated files: give --rotate")
    return Record(path, rotate_bytes, rotate_s, keep, not secrets, data_bytes)


def _number(text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        return False
