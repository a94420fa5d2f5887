"""What a reconfig request asks for, as the next configuration (PrepRequestProcessor).

Incremental: servers that join (or change) and sids that leave, from what was last seen; or all of
the new members. Knows neither rights nor who is up: those are checked by whoever proposes it.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from zktrace.wire.records import ReconfigRequest
from zktrace_server.core import errors as e
from zktrace_server.core.errors import KeeperError
from zktrace_server.core.quorum.ensemble import (
    Ensemble,
    Member,
    MembershipError,
    ObserversOnly,
    parse_member,
    parse_text,
)

#: Long.parseLong
_SID: Final = re.compile(r"[+-]?[0-9]{1,19}\Z")


def next_ensemble(
    seen: Ensemble, request: ReconfigRequest, version: int, *, standalone: bool
) -> Ensemble:
    """The configuration that was asked for, as `version`. `standalone` (standaloneEnabled): two
    participants are the least, else one. KeeperError: BadVersion where it is asked for on top of
    another than `seen`; BadArguments; MarshallingError where Java stumbles over a number.
    """
    if request.cur_config_id not in (-1, seen.version):
        raise KeeperError(e.BAD_VERSION)
    try:
        if request.new_members is not None:
            new = _whole(request.new_members)
        else:
            new = _incremental(seen, request)
    except ObserversOnly:
        raise KeeperError(e.MARSHALLING_ERROR) from None
    except MembershipError:
        raise KeeperError(e.BAD_ARGUMENTS) from None
    if len(new.voters) < (2 if standalone else 1):
        raise KeeperError(e.BAD_ARGUMENTS)
    return new.at(version)


def _whole(text: str) -> Ensemble:
    """All members; lines, or with commas between them."""
    return parse_text(text.replace(",", "\n"))


def _incremental(seen: Ensemble, request: ReconfigRequest) -> Ensemble:
    if seen.groups:
        # Nobody says in which group a server that joins would be.
        raise KeeperError(e.BAD_ARGUMENTS)
    members = dict(seen.members)
    for text in _split(request.leaving_servers, ","):
        members.pop(_sid(text), None)
    for text in _split(request.joining_servers, ","):
        parts = _split(text, "=")
        if len(parts) != 2:
            raise KeeperError(e.BAD_ARGUMENTS)
        sid = _sid(parts[0].rpartition(".")[2])
        member = parse_member(sid, parts[1])
        if not member.client and not member.secure:
            raise KeeperError(e.BAD_ARGUMENTS)
        others = (other for other in members.values() if other.sid != sid)
        if any(_addresses(member) & _addresses(other) for other in others):
            raise KeeperError(e.BAD_ARGUMENTS)
        members[sid] = member
    return Ensemble(members)


def _split(text: str | None, separator: str) -> list[str]:
    """Parts without the space around them, empty ones left out (StringUtils.split)."""
    return [part.strip() for part in (text or "").split(separator) if part.strip()]


def _sid(text: str) -> int:
    if not _SID.match(text):
        raise KeeperError(e.MARSHALLING_ERROR)
    return int(text)


def _addresses(member: Member) -> set[tuple[str, str]]:
    """Those that no other server may have: not the ones that are the same on every machine
    (QuorumServer.excludedSpecialAddresses).
    """
    pairs = [(member.host, str(member.quorum_port)), (member.host, str(member.election_port))]
    for text in (member.client, member.secure):
        host, _, port = text.rpartition(":")
        pairs.append((host.strip("[]"), port))
    return {(host, port) for host, port in pairs if port and not _special(host)}


def _special(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_unspecified or address.is_loopback
