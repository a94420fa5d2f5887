"""``zktrace proxy``: the commands."""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

import typer

from zktrace.cli.failure import Failure
from zktrace.cli.groups import grouped
from zktrace.cli.options import Hashing, size
from zktrace.cli.site import Site, SiteOptions
from zktrace_proxy import command_fault, command_read
from zktrace_proxy.options import (
    ConnectTimeout,
    Drain,
    Faults,
    HealthCheck,
    HttpAddress,
    LineOptions,
    Listen,
    Lossy,
    MaxConnections,
    MaxFrame,
    RecordOptions,
    Scripts,
    Servers,
    ShadowAddress,
    SlowReader,
    TlsOptions,
    UpstreamDown,
    WhenServersDown,
)

if TYPE_CHECKING:
    from types import FrameType

    from zktrace_proxy.hooks.runner import Hooks
    from zktrace_proxy.lines import Lines
    from zktrace_proxy.plane import Plane
    from zktrace_proxy.replay.shadow.shadow import Shadow
    from zktrace_proxy.rules import Rule
    from zktrace_proxy.tls import Tls
    from zktrace_proxy.upstreams import Upstreams

app = typer.Typer(
    help="Stand between clients and servers: relay, decode, record.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

#: How long decoding may take to end.
_END_S = 10.0


app.add_typer(command_fault.app, name="fault")
app.command()(command_read.read)


def main(arguments: list[str] | None = None) -> int:
    """The command by itself; its exit status."""
    from zktrace.cli.main import run as command

    return command(arguments, app, "zktrace proxy")


@app.callback()
def _root() -> None:
    """Stand between clients and servers: relay, decode, record."""


@app.command()
@grouped
def run(
    listen: Listen = [],  # noqa: B006
    upstream: Servers = None,
    recording: RecordOptions = RecordOptions(),  # noqa: B008
    http: HttpAddress = None,
    printing: LineOptions = LineOptions(),  # noqa: B008
    lossy: Lossy = False,
    slow_reader: SlowReader = None,
    health_check: HealthCheck = 0.0,
    connect_timeout: ConnectTimeout = 5.0,
    upstream_down: WhenServersDown = UpstreamDown.reset,
    drain: Drain = 0.0,
    max_frame: MaxFrame = "16M",
    max_connections: MaxConnections = 20_000,
    fault: Faults = [],  # noqa: B006
    script: Scripts = [],  # noqa: B006
    shadow: ShadowAddress = None,
    encryption: TlsOptions = TlsOptions(),  # noqa: B008
    page: SiteOptions = SiteOptions(),  # noqa: B008
    hashing: Hashing = Hashing(),  # noqa: B008
) -> None:
    """Relay between clients and servers, and show or record what is said.

    Ctrl-C ends it, and its connections; clients connect again by themselves. Standard output has
    nothing but the lines of -v or --json.
    """
    from zktrace_proxy.addresses import listeners
    from zktrace_proxy.attend import Attendant
    from zktrace_proxy.plane import Config, PlaneError, create
    from zktrace_proxy.tls import NO_TLS, TlsError, key_log
    from zktrace_proxy.upstreams import Upstreams

    site = None if http is None else Site(http, page)
    key = hashing.key()
    lines = printing.made(key)
    tls = encryption.made()
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
            wanted = listeners(listen, upstream, name=encryption.upstream_name)
            keys = key_log() if tls != NO_TLS else None
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
                    observers=int(bool(script)) + int(shadow is not None) + int(lines is not None),
                    record=recording.made(),
                    rules=rules,
                    tls=tls,
                )
            )
            stack.callback(plane.stop)
            upstreams = Upstreams(
                plane,
                listen,
                upstream,
                wanted,
                servers=tls.servers,
                every_s=health_check,
                timeout_s=connect_timeout,
                told=_say,
            )
        except (PlaneError, TlsError) as error:
            raise Failure(str(error)) from None
        try:
            if hooks is not None:
                hooks.start(plane, tap=int(site is not None))
                stack.callback(hooks.stop)
            for one, address in zip(wanted, plane.addresses(), strict=True):
                _say(f"{address} -> {', '.join(server.address for server in one.upstreams)}")
            second = None
            if shadow is not None:
                second = _shadow(plane, int(site is not None) + int(bool(script)), shadow)
                stack.callback(_end_shadow, plane, second)
            if lines is not None:
                # the last of the observers
                tap = int(site is not None) + int(bool(script)) + int(shadow is not None)
                lines.start(plane, tap, _say)
                stack.callback(_end_lines, plane, lines)
            if recording.record is not None:
                _say(f"recording to {recording.record}")
            _tell_tls(tls, keys)
            attendant = Attendant(plane, tls, _say, upstreams.reload)
            if tls != NO_TLS and hasattr(signal, "SIGHUP"):
                signal.signal(signal.SIGHUP, lambda *_: attendant.reload())
            for thread in (attendant, upstreams):
                thread.start()
                stack.callback(thread.stop)
            if site is None:
                threading.Event().wait()
            else:
                _show(plane, upstreams, site, key, rules, drain, second)
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
    given = size("--max-frame", text)
    if not 64 <= given <= 1 << 28:
        raise Failure(f"--max-frame: {text!r} is no size from 1k to 256M")
    return given


def _tell_tls(tls: Tls, keys: str | None) -> None:
    """What is not as safe as TLS sounds."""
    if tls.servers is not None and tls.servers.verify == "none":
        _say("THE CERTIFICATES OF SERVERS ARE NOT VERIFIED (--upstream-verify none)")
    if keys is not None:
        _say(f"session keys are written to {keys} (SSLKEYLOGFILE): who has it can read the traffic")


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
    upstreams: Upstreams,
    site: Site,
    key: bytes | None,
    rules: tuple[Rule, ...],
    drain: float,
    shadow: Shadow | None,
) -> None:
    from itertools import chain

    from zktrace.store.picture import Picture
    from zktrace_proxy import http
    from zktrace_proxy.faults import Faults
    from zktrace_proxy.feed import TapFeed
    from zktrace_proxy.measures import measures

    picture = Picture(hash_key=key)
    if shadow is None:
        picture.measures = lambda: measures(plane, upstreams)
    else:
        from zktrace_proxy.replay.shadow import http as shown

        picture.measures = lambda: chain(measures(plane, upstreams), shown.measures(shadow))
        shadow.tell = picture.note
    feed = TapFeed(picture, plane, ", ".join(plane.addresses()))
    feed.start()
    try:
        faults = Faults(plane, rules)
        site.serve(picture, lambda app: http.add(app, faults, upstreams, shadow))
    finally:
        _drain(plane, drain)
        plane.stop()
        if not feed.join(_END_S):
            _say("decoding did not come to its end")


def _shadow(plane: Plane, tap: int, address: str) -> Shadow:
    from zktrace_proxy.addresses import host_and_port
    from zktrace_proxy.replay.shadow.shadow import Shadow

    made = Shadow(plane, tap, host_and_port("--shadow", address))
    made.start()
    _say(f"shadow: {address}")
    return made


def _end_shadow(plane: Plane, shadow: Shadow) -> None:
    plane.stop()
    if not shadow.join(_END_S):
        _say("the shadow did not come to its end")
    for line in shadow.lines():
        _say(line)


def _end_lines(plane: Plane, lines: Lines) -> None:
    plane.stop()
    if not lines.join(_END_S):
        _say("the last lines did not come out")


def _drain(plane: Plane, over_s: float) -> None:
    if not over_s or not plane.counters()["open"]:
        return
    from zktrace.export.summary import plural

    left = plane.drain(over_s)
    if left:
        _say(f"{plural(left, 'connection')} cut: something was under way after {over_s:g} s")


def _told(plane: Plane) -> None:
    """The last lines: what went through."""
    from zktrace.export.summary import plural
    from zktrace.export.text import size as shown

    counted = plane.counters()
    recorded, files, problem = plane.recorded()
    _say(
        f"{plural(counted['accepted'], 'connection')}, "
        f"{shown(counted['bytes_to_server'])} to servers, "
        f"{shown(counted['bytes_to_client'])} to clients"
        + (f"; {shown(recorded)} recorded in {files:,} files" if files > 1 else "")
        + (f"; {shown(recorded)} recorded" if files == 1 else "")
    )
    wrong = {
        "unreachable": ("connection", " reset as no server accepted"),
        "tls_failures": ("connection", " of clients with whom TLS failed"),
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
