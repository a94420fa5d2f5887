"""What can be done to the servers of a local ensemble (``zktrace server chaos``)."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from typing import Final

from zktrace_server.local import Local, LocalError
from zktrace_server.net.wire import Faults, both_ways

_SIGNALS: Final = {
    "kill": signal.SIGKILL,
    "pause": signal.SIGSTOP,
    "resume": signal.SIGCONT,
}
#: Without names, these are about all.
_OF_ALL: Final = ("status", "heal")
ACTIONS: Final = ("status", *_SIGNALS, "restart", "stop", "partition", "slow", "heal")


def act(local: Local, action: str, names: list[str], delay_ms: int = 0) -> Iterator[str]:
    """Does it to each server; a line for each. LocalError for what cannot be done. `delay_ms` is
    how late what a slow server sends to others comes.
    """
    if action not in ACTIONS:
        raise LocalError(f"unknown action {action}; there are {', '.join(ACTIONS)}")
    if not local.sids():
        raise LocalError(f"there is no ensemble in {local.directory}")
    wanted = _servers(local, names or (["all"] if action in _OF_ALL else []))
    if action == "partition":
        rest = [sid for sid in local.sids() if sid not in wanted]
        both_ways({sid: local.faults(sid) for sid in local.sids()}, (wanted, rest))
        yield f"{_listed(wanted)} | {_listed(rest)}"
        return
    for sid in wanted:
        if action == "status":
            yield f"{sid} {local.mode(sid)} 127.0.0.1:{local.port(sid)}{_hurt(local, sid)}"
            continue
        if action == "slow":
            path = local.faults(sid)
            Faults.read(path)._replace(delay_ms=delay_ms).write(path)
            yield f"{sid} slow, {delay_ms} ms"
            continue
        if action == "heal":
            _heal(local, sid)
            yield f"{sid} heal"
            continue
        if action in _SIGNALS:
            local.signal(sid, _SIGNALS[action])
            if action == "kill":
                local.stop([sid])  # it is gone when that is said
        else:
            local.stop([sid])
            if action == "restart":
                local.start(sid)
        yield f"{sid} {action}"


def _heal(local: Local, sid: int) -> None:
    """It reaches all, and all reach it, at once."""
    Faults().write(local.faults(sid))
    for other in local.sids():
        path = local.faults(other)
        faults = Faults.read(path)
        faults._replace(cut=faults.cut - {sid}).write(path)


def _hurt(local: Local, sid: int) -> str:
    faults = Faults.read(local.faults(sid))
    cut = f", cut off from {_listed(faults.cut)}" if faults.cut else ""
    return cut + (f", slow by {faults.delay_ms} ms" if faults.delay_ms else "")


def _listed(sids: Iterable[int]) -> str:
    return " ".join(map(str, sorted(sids))) or "none"


def _servers(local: Local, names: list[str]) -> list[int]:
    if not names:
        raise LocalError("which server? A number, leader, or all")
    known = local.sids()
    found: list[int] = []
    for name in names:
        if name == "all":
            found += known
        elif name == "leader":
            leading = [sid for sid in known if local.mode(sid) == "leader"]
            if not leading:
                raise LocalError("there is no leader at the moment")
            found += leading
        elif name.isdigit() and int(name) in known:
            found.append(int(name))
        else:
            raise LocalError(f"there is no server {name} (there: {', '.join(map(str, known))})")
    return list(dict.fromkeys(found))
