"""``zktrace replay``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from zktrace.cli.failure import Failure, marked
from zktrace.cli.options import ClientPort, JsonOption, Sources, engine_options, seconds

if TYPE_CHECKING:
    from zktrace_proxy.replay.plan import Plan
    from zktrace_proxy.replay.report import Report
    from zktrace_proxy.replay.run import Options

EXIT_DIFFERENT: Final = 1
EXIT_INCOMPLETE: Final = 2


def replay(
    sources: Sources,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="HOST:PORT", show_default=False, help="The target server."),
    ] = None,
    order: Annotated[
        str,
        typer.Option(
            metavar="strict|conflict|session|time",
            help="What is kept of the order between sessions: all of it; where it changes a "
            "result; nothing; that of sending.",
        ),
    ] = "conflict",
    speed: Annotated[
        str, typer.Option(metavar="FACTOR|max", help="Of the recording; max: as fast as it goes.")
    ] = "1",
    max_think: Annotated[
        str | None,
        typer.Option(metavar="TIME", show_default=False, help="Shorten pauses to this."),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare", help="Report what the target answered differently; exit status 1 then."
        ),
    ] = False,
    plan_only: Annotated[
        bool, typer.Option("--plan", help="Say what would be done and what cannot, and end.")
    ] = False,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="FILTER",
            show_default=False,
            help="Only requests that match, such as 'read', or 'path =~ \"/app/**\"'.",
        ),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="ZXID|TIME",
            show_default=False,
            help="Begin at this zxid (0x...), or this time of the recording (30s, 10m).",
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            "--until", metavar="ZXID|TIME", show_default=False, help="End there; as --from."
        ),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="IP:PORT",
            show_default=False,
            help="Only connections to this server of the recording.",
        ),
    ] = None,
    prefix: Annotated[
        str,
        typer.Option(metavar="PATH", show_default=False, help="Replay below this path."),
    ] = "",
    versions: Annotated[
        str,
        typer.Option(
            metavar="map|keep|any",
            help="Versions that requests expect: as the target has them, as recorded, any.",
        ),
    ] = "map",
    auth: Annotated[
        list[str],
        typer.Option(
            metavar="SCHEME:CREDENTIAL",
            show_default=False,
            help="Credential for auth packets, such as digest:user:password. May be repeated.",
        ),
    ] = [],  # noqa: B006
    names_in: Annotated[
        list[str],
        typer.Option(
            "--names-in",
            metavar="GLOB",
            show_default=False,
            help="Data of these nodes holds names of sequential nodes, such as /election/leader: "
            "they are mapped in it, too. May be repeated.",
        ),
    ] = [],  # noqa: B006
    wait: Annotated[
        float, typer.Option(min=0.01, metavar="SECONDS", help="For a watch event to come.")
    ] = 5.0,
    reply_timeout: Annotated[
        float, typer.Option(min=0.01, metavar="SECONDS", help="For a reply to come.")
    ] = 30.0,
    session_timeout: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", show_default=False, help="Ask for this instead of the recorded one."
        ),
    ] = None,
    loop: Annotated[int, typer.Option(metavar="N", min=1, help="Replay so many times.")] = 1,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="SNAPSHOT",
            show_default=False,
            help="A snapshot file of ZooKeeper's, or the directory of them: the tree when the "
            "recording began.",
        ),
    ] = None,
    no_start: Annotated[
        bool,
        typer.Option("--no-start", help="Do not make the nodes that must have been there before."),
    ] = False,
    drop_lost: Annotated[
        bool, typer.Option("--drop-lost", help="Leave out requests that got no reply.")
    ] = False,
    serve: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            show_default=False,
            help="The other way round: stand in for the recorded server here, and answer clients.",
        ),
    ] = None,
    unmatched: Annotated[
        str,
        typer.Option(
            metavar="model|refuse|forward=SERVER",
            help="With --serve, for requests that the recording does not have: ask the tree that "
            "the recorded writes made; answer SystemError; ask another server.",
        ),
    ] = "model",
    client: Annotated[
        list[str],
        typer.Option(
            metavar="IP[:PORT]",
            show_default=False,
            help="With --serve: only this recorded client is to come; what the others wrote "
            "happens by itself. May be repeated.",
        ),
    ] = [],  # noqa: B006
    require_all: Annotated[
        bool,
        typer.Option(
            "--require-all",
            help="With --serve: exit status 1 if recorded requests were never asked for.",
        ),
    ] = False,
    keep_connections: Annotated[
        bool,
        typer.Option(
            "--keep-connections",
            help="With --serve: do not lose connections that were lost in the recording.",
        ),
    ] = False,
    client_port: ClientPort = [],  # noqa: B006
    json: JsonOption = False,
) -> None:
    """Send recorded requests to a live server, or answer as one.

    In an order that gives the recorded results. One live connection stands for each recorded one.
    Sessions, names of sequential nodes, zxids and versions are mapped. Exit status: 0 done; 1 with
    --compare: the target answered differently, with --require-all: not all was asked for; 2 it
    could not be done, or not all of it.
    """
    if serve is not None:
        if to is not None:
            raise Failure("--to or --serve, not both")
        if names_in:
            raise Failure("--names-in is about --to: a stand-in answers with live names by itself")
        raise typer.Exit(
            _serve(
                serve, unmatched, client, require_all, not keep_connections, json,
                lambda: _plan(sources, client_port, only, server, since, until, base, None),
            )
        )  # fmt: skip
    if unmatched != "model" or client or require_all or keep_connections:
        raise Failure(
            "--unmatched, --client, --require-all and --keep-connections are about --serve"
        )
    if to is None and not plan_only:
        raise Failure("where to? give --to HOST:PORT, --serve HOST:PORT or --plan")
    rule = _named_paths(names_in)
    options = _options(
        to or "127.0.0.1:0", order, speed, max_think, versions, prefix, auth, session_timeout,
        wait=wait, reply_timeout=reply_timeout, start_state=not no_start, drop_lost=drop_lost,
        names_in=rule,
    )  # fmt: skip
    plan = _plan(sources, client_port, only, server, since, until, base, rule)
    try:
        if plan_only:
            _say_plan(plan, options, json)
            return
        if not json:
            from zktrace_proxy.replay.report import problem_lines

            flows = plan.heard.flows
            for line in problem_lines(plan, heard_flows=flows, options=options):
                print(line, flush=True)
        status = 0
        for number in range(loop):
            own = _looped(options, number, loop)
            report = _run(plan, own)
            _say(report, compare, json)
            if report.incomplete:
                status = EXIT_INCOMPLETE
            elif compare and report.outcome.differences:
                status = max(status, EXIT_DIFFERENT)
            if report.interrupted:
                break
    finally:
        plan.close()
    if status:
        raise typer.Exit(status)


def _serve(
    at: str,
    unmatched: str,
    clients: list[str],
    require_all: bool,
    faithful: bool,
    json: bool,
    read: Callable[[], Plan],
) -> int:
    from zktrace_proxy.addresses import host_and_port
    from zktrace_proxy.replay.standin import command

    address = host_and_port("--serve", at, listening=True)
    kind = command.otherwise(unmatched)
    plan = read()
    try:
        return command.serve(
            plan, address, kind, clients=clients, require_all=require_all, faithful=faithful,
            json=json,
        )  # fmt: skip
    finally:
        plan.close()


def _options(
    to: str,
    order: str,
    speed: str,
    max_think: str | None,
    versions: str,
    prefix: str,
    auth: list[str],
    session_timeout: str | None,
    **limits: Any,
) -> Options:
    from zktrace_proxy.addresses import host_and_port
    from zktrace_proxy.replay.order import Mode
    from zktrace_proxy.replay.rewrite import Versions
    from zktrace_proxy.replay.run import Options

    if order not in Mode.__members__:
        raise Failure(f"--order: {order!r} is none of {', '.join(Mode)}")
    if versions not in Versions.__members__:
        raise Failure(f"--versions: {versions!r} is none of {', '.join(Versions)}")
    prefix = prefix.rstrip("/")
    if prefix and not (prefix.startswith("/") and "//" not in prefix):
        raise Failure(f"--prefix: {prefix!r} is no path such as /replay1")
    session_ms = None
    if session_timeout is not None:
        session_ms = int(seconds("--session-timeout", session_timeout) * 1000)
    return Options(
        host_and_port("--to", to),
        Mode[order],
        _speed(speed),
        _duration("--max-think", max_think),
        Versions[versions],
        prefix,
        _credentials(auth),
        limits["wait"],
        limits["reply_timeout"],
        session_ms,
        limits["start_state"],
        limits["drop_lost"],
        limits["names_in"],
    )


def _named_paths(globs: list[str]) -> Callable[[str], object] | None:
    """Whether a path is one of those whose data names nodes; None: none is."""
    if not globs:
        return None
    import re

    from zktrace.analysis.filter_fields import glob_regex

    for one in globs:
        if not one.startswith("/"):
            raise Failure(f"--names-in: {one!r} is no path such as /election/leader or /app/**")
    return re.compile("|".join(f"(?:{glob_regex(one)})" for one in globs)).fullmatch


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        factor = float(text.removesuffix("x"))
    except ValueError:
        factor = 0.0
    if not 0 < factor < 1e6:
        raise Failure(f"--speed: {text!r} is neither a factor such as 1 or 0.5, nor max")
    return factor


def _duration(option: str, text: str | None) -> float | None:
    if text is None:
        return None
    if text.endswith("ms") and text[:-2].isdecimal():
        return int(text[:-2]) / 1000
    return seconds(option, text)


def _credentials(auth: list[str]) -> dict[str, bytes]:
    found = {}
    for one in auth:
        scheme, colon, credential = one.partition(":")
        if not colon or not scheme:
            raise Failure("--auth: SCHEME:CREDENTIAL is wanted, such as digest:user:password")
        found[scheme] = credential.encode()
    return found


def _plan(
    sources: list[str],
    client_port: list[str],
    only: str | None,
    server: str | None,
    since: str | None,
    until: str | None,
    base: str | None,
    names_in: Callable[[str], object] | None,
) -> Plan:
    from zktrace.analysis.filter_syntax import FilterError
    from zktrace.cli.terminal import progress
    from zktrace_proxy.messages.reader import Reader
    from zktrace_proxy.replay.plan import Span
    from zktrace_proxy.replay.prepare import prepare

    try:
        span = Span.parse(since, until)
    except ValueError as error:
        raise Failure(str(error)) from None
    with progress() as bar:
        try:
            reader = Reader(sources, engine_options(client_port, [], []), where=only, progress=bar)
        except FilterError as error:
            text = marked("--only", error.message, error.expression, error.position)
            raise Failure(text) from None
        plan = prepare(reader, reader.heard, server=server, span=span, names_in=names_in)
    if base is not None:
        _start_from(plan, base)
    if not plan.connections and not plan.heard.joined:
        plan.close()
        raise Failure("there is no client connection in it")
    return plan


def _start_from(plan: Plan, snapshot: str) -> None:
    from pathlib import Path

    from zktrace_proxy.replay import base

    try:
        found = base.read(Path(snapshot))
    except base.BaseError as error:
        plan.close()
        raise Failure(f"--base: {error}") from None
    plan.base_zxid = found.zxid
    plan.not_in_base = base.join(plan.start, found)


def _looped(options: Options, number: int, count: int) -> Options:
    """Rounds of a loop below a prefix get one each, so that they find the same start."""
    from dataclasses import replace

    if count == 1 or not options.prefix:
        return options
    return replace(options, prefix=f"{options.prefix}-{number + 1}")


def _run(plan: Plan, options: Options) -> Report:
    import asyncio
    import signal

    from zktrace.cli.terminal import progress
    from zktrace_proxy.replay.run import Replayer, ReplayError

    async def all_of_it(replayer: Replayer) -> Report:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, replayer.stop)
        return await replayer.run()

    with progress() as bar:
        replayer = Replayer(plan, options, bar)
        try:
            return asyncio.run(all_of_it(replayer))
        except ReplayError as error:
            raise Failure(f"--to: {error}") from None


def _say_plan(plan: Plan, options: Options, json: bool) -> None:
    from zktrace_proxy.replay.report import plan_dict, plan_lines

    if json:
        import json as codec

        print(codec.dumps(plan_dict(plan)))
        return
    print("\n".join(plan_lines(plan, options)))


def _say(report: Report, compare: bool, json: bool) -> None:
    if json:
        import json as codec

        print(codec.dumps(report.as_dict()))
    else:
        print("\n".join(report.text(compare=compare)))
    sys.stdout.flush()
