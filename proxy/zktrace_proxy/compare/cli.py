"""``zktrace compare``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from zktrace.cli.failure import Failure
from zktrace.cli.options import ClientPort, JsonOption, engine_options

if TYPE_CHECKING:
    from zktrace_proxy.compare.pairwise import Comparison
    from zktrace_proxy.compare.recording import Recording

EXIT_DIFFERENT = 1


def compare(
    first: Annotated[
        str, typer.Argument(metavar="A", show_default=False, help="A capture or a recording.")
    ],
    second: Annotated[
        str, typer.Argument(metavar="B", show_default=False, help="Another one, of the same.")
    ],
    prefix: Annotated[
        str,
        typer.Option(
            metavar="PATH", show_default=False, help="B was replayed below this path (--prefix)."
        ),
    ] = "",
    allow_extra: Annotated[
        bool,
        typer.Option(
            "--allow-extra",
            help="Connections that only B has are no difference (such as the one that makes the "
            "nodes from before a recording).",
        ),
    ] = False,
    html: Annotated[
        str | None,
        typer.Option(metavar="FILE", show_default=False, help="Write a page, too."),
    ] = None,
    client_port: ClientPort = [],  # noqa: B006
    json: JsonOption = False,
) -> None:
    """Compare two recordings of the same requests.

    By replies, watch events and latencies. Session ids, zxids and names of sequential nodes are
    mapped, times are not compared, children are a set. Exit status: 0 no difference, 1 differences,
    2 nothing can be compared.
    """
    from zktrace.cli.terminal import progress
    from zktrace_proxy.compare.pairwise import compare as compared

    prefix = prefix.rstrip("/")
    one = two = None
    try:
        one = _read(first, client_port, "")
        two = _read(second, client_port, prefix)
        with progress() as bar:
            found = compared(one, two, prefix, bar)
        if allow_extra:
            found.pairs.only_second.clear()
        if not found.outcome.counts.total():
            raise Failure("nothing can be compared: no connection of A has a counterpart in B")
        if html is not None:
            _write(html, found, first, second)
        _say(found, json)
    finally:
        for recording in (one, two):
            if recording is not None:
                recording.close()
    if found.differences:
        raise typer.Exit(EXIT_DIFFERENT)


def _read(source: str, client_port: list[str], prefix: str) -> Recording:
    from zktrace.cli.terminal import progress
    from zktrace_proxy.compare.recording import Recording
    from zktrace_proxy.messages.reader import Reader

    with progress() as bar:
        reader = Reader([source], engine_options(client_port, [], []), progress=bar)
        recording = Recording(reader, prefix)
    if not recording.talks:
        recording.close()
        raise Failure(f"{source}: there is no client connection in it")
    return recording


def _write(file: str, found: Comparison, first: str, second: str) -> None:
    from zktrace_proxy.compare.page import page

    with open(file, "w", encoding="utf-8") as out:
        out.write(page(found.as_dict(), first, second))


def _say(found: Comparison, json: bool) -> None:
    from zktrace_proxy.compare.text import latency_lines, outcome_lines, unseen_lines

    if json:
        import json as codec

        print(codec.dumps(found.as_dict()))
        return
    lines = unseen_lines("A", found.first.heard) + unseen_lines("B", found.second.heard)
    lines += outcome_lines(found.outcome)
    for name, talks in (("A", found.pairs.only_first), ("B", found.pairs.only_second)):
        for talk in talks[:10]:
            lines.append(
                f"DIFFERS   only {name} has the connection of {talk.client} "
                f"({talk.requests:,} requests)"
            )
        if len(talks) > 10:
            lines.append(f"          and {len(talks) - 10:,} more")
    lines += latency_lines(found.latencies.rows())
    print("\n".join(lines))
