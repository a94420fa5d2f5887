"""``zktrace proxy read``: a recording, or any capture, looked at or written once more, filtered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from zktrace.cli.decode import decode
from zktrace.cli.failure import Failure
from zktrace.cli.filtering import compiled
from zktrace.cli.groups import grouped
from zktrace.cli.options import (
    Hashing,
    JsonOption,
    Limit,
    NoColor,
    Ports,
    Time,
    Times,
)
from zktrace.cli.terminal import progress

if TYPE_CHECKING:
    from zktrace_proxy.messages.sift import Sifted


@grouped
def read(
    source: Annotated[
        str, typer.Argument(metavar="FILE", show_default=False, help="A recording or a capture.")
    ],
    where: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILTER]",
            show_default=False,
            help="What of it: an expression as of zktrace decode --filter.",
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="OUT",
            show_default=False,
            help="Write what matches to this pcapng file (which must not be there) rather than "
            "print it.",
        ),
    ] = None,
    json: JsonOption = False,
    limit: Limit = None,
    times: Time = Times.utc,
    ports: Ports = Ports(),  # noqa: B008
    hashing: Hashing = Hashing(),  # noqa: B008
    no_color: NoColor = False,
) -> None:
    """Events of a recording that match: print them, or write them out.

    With -o: requests that match, with their replies, and watch events; connects, auth and the ends
    of sessions always, so that the file decodes and replays. It says that it is filtered. Client
    connections only; secrets stay as they are in FILE.
    """
    if out is None:
        decode(
            sources=[source],
            filter=where,
            json=json,
            limit=limit,
            times=times,
            no_color=no_color,
            **vars(ports),
            **vars(hashing),
        )
        return
    if limit is not None or hashing.hash_sessions:
        raise Failure("--limit and --hash-sessions are about what is printed: not with -o")
    compiled(where)  # a wrong one is told before a file is made
    from zktrace_proxy.messages.newfile import new_file
    from zktrace_proxy.messages.sift import sift

    options = ports.engine()
    with new_file(out) as file, progress() as bar:
        told = sift([source], file, where, options, bar)
        if not told.connections:
            raise Failure(f"{source}: there is no client connection in it")
    _say(told, out, json)


def _say(told: Sifted, out: str, json: bool) -> None:
    from zktrace.export.summary import plural
    from zktrace_proxy.messages.copied import say

    chosen, more = [], []
    if told.left_out:
        chosen.append(
            f"left out  {plural(told.left_out, 'message')} that the filter does not select"
        )
    if told.damaged:
        more.append(f"holes     {plural(told.damaged, 'message')} of which bytes were not captured")
    say(told, out, json, "written", chosen=chosen, more=more)
