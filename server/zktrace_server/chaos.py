"""What can be done to the servers of a local ensemble (``zktrace server chaos``)."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Final

from zktrace_server.local import Local, LocalError

_SIGNALS: Final = {
    "kill": signal.SIGKILL,
    "pause": signal.SIGSTOP,
    "resume": signal.SIGCONT,
}
ACTIONS: Final = ("status", *_SIGNALS, "restart", "stop")


def act(local: Local, action: str, names: list[str]) -> Iterator[str]:
    """Does it to each server; a line for each. LocalError for what cannot be done."""
    if action not in ACTIONS:
        raise LocalError(f"unknown action {action}; there are {', '.join(ACTIONS)}")
    if not local.sids():
        raise LocalError(f"there is no ensemble in {local.directory}")
    for sid in _servers(local, names or (["all"] if action == "status" else [])):
        if action == "status":
            yield f"{sid} {local.mode(sid)} 127.0.0.1:{local.port(sid)}"
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
