"""``zktrace demo --round-trip``: what clients did on one ensemble, done again on another.

A workload on a fresh ensemble, recorded by a proxy; the recording replayed on a second one, every
reply and watch event compared, and recorded in turn; both recordings compared. All of it by the
commands that anybody would call, which are told as they are called.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from zktrace.cli.failure import Failure
from zktrace.cli.options import say

if TYPE_CHECKING:
    from zktrace.cli.crew import Crew, Member

_LOAD: Final = (
    *("--workload", "mix,discovery,locks,election,queue,config,kafka"),
    *("--clients", "21", "--ops", "3000", "--seed", "1"),
)
#: All of it on a busy machine.
_DONE_S: Final = 600.0


def round_trip(crew: Crew, directory: Path, ensemble: tuple[str, ...]) -> int:
    """Prints what came of it; the exit status. `ensemble`: the command that makes and runs one,
    but for its directory.
    """
    first, second = directory / "a.pcapng", directory / "b.pcapng"
    recorder, listens = _recorded(crew, "first", directory / "a", ensemble, first)
    _done(crew, "server", "load", "--connect", listens, *_LOAD)
    crew.dismiss(recorder)
    recorder, listens = _recorded(crew, "second", directory / "b", ensemble, second, one=True)
    differs = _done(crew, "replay", str(first), "--to", listens, "--speed", "max", "--compare")
    crew.dismiss(recorder)
    return max(differs, _done(crew, "compare", str(first), str(second)))


def _recorded(
    crew: Crew,
    name: str,
    directory: Path,
    ensemble: tuple[str, ...],
    file: Path,
    *,
    one: bool = False,
) -> tuple[Member, str]:
    """An ensemble, or `one` of its members, behind a proxy that records: the proxy, and where
    clients connect.
    """
    from zktrace.cli.crew import Ended

    try:
        member = crew.start(f"the {name} ensemble", *ensemble, "--dir", str(directory), "--prepare")
        servers = member.said(r"^\S+:\d+(?:,\S+:\d+)*$")[0]
        crew.dismiss(member)
        member = crew.start(f"the {name} ensemble", *ensemble, "--dir", str(directory))
        modes = member.said(r"zktrace server: (.*); Ctrl-C")[1]
        before = servers.partition(",")[0] if one else servers
        proxy = crew.start(
            f"the proxy of the {name} ensemble",
            *("proxy", "run", "--listen", "127.0.0.1:0", "--upstream", before),
            *("--record", str(file)),
        )
        listens = proxy.said(r"(\S+:\d+) -> ")[1]
    except Ended as ended:
        raise Failure(f"there is no {name} ensemble that can be recorded: {ended}") from None
    say(f"the {name} ensemble: {modes}; a proxy at {listens} before {before} records")
    return proxy, listens


def _done(crew: Crew, *arguments: str) -> int:
    """Runs a command to its end and shows what it says; its exit status, 0 or 1."""
    print(f"\n$ zktrace {' '.join(arguments)}", flush=True)
    member = crew.start(arguments[0], *arguments)
    if not member.wait(_DONE_S):
        raise Failure(f"{arguments[0]} did not come to its end within {_DONE_S:g} s")
    print("\n".join(member.lines), flush=True)
    status = member.status
    crew.dismiss(member)
    if status not in (0, 1):
        raise Failure(f"{arguments[0]} ended with status {status}")
    return status
