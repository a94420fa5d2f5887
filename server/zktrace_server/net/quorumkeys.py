"""Keys of zoo.cfg for a server's place in an ensemble (QuorumPeerConfig.parseDynamicConfig,
setupMyId, setupClientPort): its number, the servers, the limits, and whether all that may change.

The servers are in zoo.cfg itself or in the file that its `dynamicConfigFile` names. What was
proposed and perhaps never committed is in a third (`storage.configs`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from zktrace_server.core.quorum.ensemble import Ensemble, MembershipError, parse_ensemble
from zktrace_server.core.quorum.limits import Limits
from zktrace_server.net.quorumsasl import QuorumSasl, QuorumSaslError, sasl_from
from zktrace_server.net.tls import QuorumTls, TlsError, between_servers
from zktrace_server.storage.configs import POINTER, read_dynamic, read_next


class QuorumError(Exception):
    """The keys describe no place in an ensemble; the text says why."""


class Values(Protocol):
    """The keys of a configuration; all but those that are kept are taken once."""

    def text(self, key: str, default: str | None = None, *, keep: bool = False) -> str | None: ...
    def number(self, key: str, default: int, *, keep: bool = False) -> int: ...
    def flag(self, key: str, default: bool, *, keep: bool = False) -> bool: ...
    def left(self) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class QuorumConfig:
    """This server's place in an ensemble. `seen`: a configuration that was proposed and is later
    than the committed one. `path`: the zoo.cfg, None if there is no file. `tls`: where servers
    speak that to each other; `sasl`: where they prove to each other who they are. `leader_serves`:
    whether it has clients while it leads.
    """

    sid: int
    ensemble: Ensemble
    limits: Limits
    listen_on_all: bool
    seen: Ensemble | None = None
    path: Path | None = None
    tls: QuorumTls | None = None
    sasl: QuorumSasl | None = None
    leader_serves: bool = True


_SERVER: Final = re.compile(r"(server|group|weight)\.(\d{1,18})\Z")
#: Keys that ask for what an ensemble of this server cannot do: it does not start with them.
_ONLY: Final = {
    "electionAlg": "3",
    "multiAddress.enabled": "false",
}
_NO_EFFECT: Final = ("portUnification",)


def quorum_from(
    values: Values, data_dir: Path, warn: Callable[[str], None], path: Path | None
) -> QuorumConfig | None:
    """The ensemble that the keys describe; None where it is one server, unless standaloneEnabled
    says that one is an ensemble, too. `path`: the zoo.cfg that they are of.
    """
    standalone = values.flag("standaloneEnabled", True, keep=True)
    try:
        ensemble = _ensemble(values, warn)
    except MembershipError as error:
        raise QuorumError(str(error)) from None
    if ensemble is None:
        return None
    if len(ensemble.members) == 1 and standalone:
        warn(f"server.{next(iter(ensemble.members))} is the only server: it stands alone")
        return None
    for key, good in _ONLY.items():
        value = values.text(key)
        if value is not None and value.lower() != good:
            raise QuorumError(f"{key}={value} is not supported in an ensemble, only {good}")
    for key in _NO_EFFECT:
        if (values.text(key) or "false").lower() == "true":
            warn(f"{key} is not supported yet, and has no effect in an ensemble")
    limits = Limits(
        values.number("tickTime", 3000, keep=True),
        _positive(values, "initLimit"),
        _positive(values, "syncLimit"),
        values.number("connectToLearnerMasterLimit", 0),
    )
    sid = read_myid(data_dir)
    if sid not in ensemble.members:
        raise QuorumError(f"{data_dir / 'myid'}: there is no server.{sid}")
    own = ensemble.members[sid]
    role = "observer" if own.observer else "participant"
    said = (values.text("peerType") or role).lower()
    if said != role:
        warn(f"peerType={said} is not what server.{sid} says: it is {role}")
    seen = None
    if values.flag("reconfigEnabled", False, keep=True) and path is not None:
        try:
            seen = read_next(path)
        except MembershipError as error:
            raise QuorumError(str(error)) from None
    listen_on_all = values.flag("quorumListenOnAllIPs", False)
    try:
        tls = between_servers(values) if values.flag("sslQuorum", False) else None
        sasl = sasl_from(values)
    except (TlsError, QuorumSaslError) as error:
        raise QuorumError(str(error)) from None
    # Leader.lead looks for this one word.
    serves = values.text("leaderServes") != "no"
    return QuorumConfig(sid, ensemble, limits, listen_on_all, seen, path, tls, sasl, serves)


def _ensemble(values: Values, warn: Callable[[str], None]) -> Ensemble | None:
    """The committed configuration: that of the file which is named, else of the keys."""
    lines: dict[str, dict[int, str]] = {"server": {}, "group": {}, "weight": {}}
    for key in values.left():
        match = _SERVER.match(key)
        if match is not None:
            lines[match[1]][int(match[2])] = values.text(key) or ""
    dynamic = values.text(POINTER)
    if dynamic is not None:
        if lines["server"]:
            warn(f"the server lines are ignored, those of {POINTER}={dynamic} count")
        return read_dynamic(Path(dynamic))
    if not lines["server"]:
        return None
    return parse_ensemble(lines["server"], lines["group"], lines["weight"])


def _positive(values: Values, key: str) -> int:
    number = values.number(key, 0)
    if number <= 0:
        raise QuorumError(f"{key} is not set")
    return number


def read_myid(data_dir: Path) -> int:
    """The file that says which server this is. QuorumError where there is none."""
    path = data_dir / "myid"
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise QuorumError(f"cannot read {path}: {reason}") from None
    if not text.isdigit():
        raise QuorumError(f"{path}: {text!r} is no server's number")
    return int(text)


def client_port(given: tuple[int | None, str], told: str, what: str) -> tuple[int | None, str]:
    """Where clients connect, as port and address: what the server's line says (host:port, or empty)
    and what zoo.cfg says must not contradict each other (setupClientPort).
    """
    port, address = given
    if not told:
        return given
    host, _, number = told.rpartition(":")
    host = host.strip("[]")
    anywhere = ("", "0.0.0.0", "::")
    differs = address not in anywhere and host not in anywhere and address != host
    if port is not None and (port != int(number) or differs):
        raise QuorumError(f"{what}={port} is not what the server's own line says, {told}")
    return int(number), "" if host in anywhere else host
