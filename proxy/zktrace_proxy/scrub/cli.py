"""``zktrace scrub``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from zktrace.cli.failure import Failure
from zktrace.cli.options import ClientPort, JsonOption, engine_options

if TYPE_CHECKING:
    from zktrace_proxy.scrub.rewrite import Scrubbed

_KEY_BYTES = 32
_LEAST = 16


def scrub(
    source: Annotated[
        str, typer.Argument(metavar="IN", show_default=False, help="A capture or a recording.")
    ],
    out: Annotated[
        str,
        typer.Argument(metavar="OUT", show_default=False, help="A pcapng file; must not be there."),
    ],
    key_file: Annotated[
        str | None,
        typer.Option(
            "--key-file",
            metavar="FILE",
            show_default=False,
            help="Key of the pseudonyms, for the same ones in several captures; made where there "
            "is none. Without it a random key that nobody keeps.",
        ),
    ] = None,
    client_port: ClientPort = [],  # noqa: B006
    json: JsonOption = False,
) -> None:
    """Write a capture that is safe to hand out.

    Paths, data, addresses, session ids and ids of ACLs are replaced, the same by the same;
    passwords, credentials and tokens are zeros. Ops, errors, versions, zxids, sizes and times stay,
    so that it decodes, compares and replays as before. Connections of other protocols, and those
    between servers, are left out and told.
    """
    from zktrace.cli.terminal import progress
    from zktrace_proxy.messages.newfile import new_file
    from zktrace_proxy.scrub.rewrite import scrub as scrubbed

    key = _key(key_file)
    options = engine_options(client_port, [], [])
    with new_file(out) as file, progress() as bar:
        told = scrubbed([source], file, key, options, bar)
        if not told.connections:
            raise Failure(f"{source}: there is no client connection in it")
    _say(told, out, json)


def _key(file: str | None) -> bytes:
    if file is None:
        return os.urandom(_KEY_BYTES)
    try:
        with open(file, "rb") as given:
            key = given.read()
    except FileNotFoundError:
        key = os.urandom(_KEY_BYTES).hex().encode() + b"\n"
        made = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(made, "wb") as new:
            new.write(key)
    if len(key.strip()) < _LEAST:
        raise Failure(f"--key-file: {file} holds fewer than {_LEAST} bytes")
    return key.strip()


def _say(told: Scrubbed, out: str, json: bool) -> None:
    from zktrace.export.summary import plural
    from zktrace_proxy.messages.copied import say

    more = []
    if told.dialects:
        count = plural(told.dialects, "connection")
        more.append(f"left out  {count} of ClickHouse Keeper's dialects")
    if told.damaged:
        more.append(f"left out  {plural(told.damaged, 'message')} of which bytes were not captured")
    if told.unknown_bodies:
        more.append(f"zeros     {plural(told.unknown_bodies, 'body', 'bodies')} of no known layout")
    say(told, out, json, "scrubbed", more=more)
