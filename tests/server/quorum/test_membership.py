"""What a reconfig request makes of a configuration, and which configurations count."""

from __future__ import annotations

import pytest

from zktrace.wire.records import ReconfigRequest
from zktrace_server.core import errors as e
from zktrace_server.core.errors import KeeperError
from zktrace_server.core.quorum.ensemble import Ensemble, parse_text
from zktrace_server.core.quorum.membership import Membership
from zktrace_server.core.quorum.reconfig import next_ensemble

_SEEN = parse_text(
    "server.1=10.0.0.1:1:2;3\nserver.2=10.0.0.2:1:2;3\nserver.3=10.0.0.3:1:2:observer;3\nversion=5"
)
_GROUPS = parse_text("server.1=a:1:2\nserver.2=b:1:2\ngroup.1=1:2\nversion=5")


def _next(
    joining: str | None = None,
    leaving: str | None = None,
    new: str | None = None,
    *,
    base: int = -1,
    seen: Ensemble = _SEEN,
    standalone: bool = True,
) -> Ensemble:
    request = ReconfigRequest(joining, leaving, new, base)
    return next_ensemble(seen, request, 9, standalone=standalone)


def _roles(ensemble: Ensemble) -> dict[int, bool]:
    return {sid: not member.observer for sid, member in sorted(ensemble.members.items())}


def test_incremental() -> None:
    changed = _next("server.4=10.0.0.4:1:2:observer;3, server.3 = 10.0.0.3:1:2;3", "2,77")
    assert _roles(changed) == {1: True, 3: True, 4: False}
    assert changed.version == 9
    # Back again under another address, in one request: first who leaves, then who joins.
    moved = _next("server.2=10.0.0.9:1:2;3", "2", base=5)
    assert moved.members[2].host == "10.0.0.9"
    assert _next().same_servers(_SEEN)


def test_all_members() -> None:
    whole = _next("ignored", "ignored", "server.7=a:1:2;3,server.8=b:1:2\nserver.9=c:1:2:observer")
    assert _roles(whole) == {7: True, 8: True, 9: False}
    assert _next(new="server.1=a:1:2", standalone=False).voters == [1]
    with_groups = _next(new="server.1=a:1:2\nserver.2=b:1:2\ngroup.1=1:2", seen=_GROUPS)
    assert with_groups.groups == {1: 1, 2: 1}


def test_loopback_addresses_may_repeat() -> None:
    seen = parse_text("server.1=127.0.0.1:1:2;localhost:3\nserver.2=h:1:2;3")
    assert len(_next("server.5=127.0.0.1:1:2;localhost:3", seen=seen).members) == 3


@pytest.mark.parametrize(
    ("joining", "leaving", "new", "code"),
    [
        ("server.4=h:1:2", None, None, e.BAD_ARGUMENTS),  # no client port
        ("server.4=h:1", None, None, e.BAD_ARGUMENTS),
        ("server.4", None, None, e.BAD_ARGUMENTS),
        ("server.4=10.0.0.1:1:9;3", None, None, e.BAD_ARGUMENTS),  # the address of 1
        ("server.4=h:1:2:boss;3", None, None, e.BAD_ARGUMENTS),
        ("server.x=h:1:2;3", None, None, e.MARSHALLING_ERROR),
        (None, "x", None, e.MARSHALLING_ERROR),
        (None, "1", None, e.BAD_ARGUMENTS),  # one participant is left
        (None, None, "server.1=a:1:2", e.BAD_ARGUMENTS),
        (None, None, "server.1=a:1:2,tickTime=3", e.BAD_ARGUMENTS),
        (None, None, "", e.BAD_ARGUMENTS),
        (None, None, "server.1=a:1:2:observer;3", e.MARSHALLING_ERROR),
    ],
)
def test_refused(joining: str | None, leaving: str | None, new: str | None, code: int) -> None:
    with pytest.raises(KeeperError) as refused:
        _next(joining, leaving, new)
    assert refused.value.code == code


def test_refused_for_what_is_there() -> None:
    """The version comes first, whatever else is wrong; nobody says which group a server joins."""
    with pytest.raises(KeeperError) as refused:
        _next("nonsense", base=4)
    assert refused.value.code == e.BAD_VERSION
    with pytest.raises(KeeperError) as refused:
        _next(leaving="1", seen=_GROUPS)
    assert refused.value.code == e.BAD_ARGUMENTS


class _Kept:
    """What was to be kept, in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, bool]] = []

    def save_seen(self, seen: Ensemble) -> None:
        self.calls.append(("seen", seen.version, False))

    def save_committed(self, committed: Ensemble, *, settled: bool) -> None:
        self.calls.append(("committed", committed.version, settled))


def test_both_count_until_it_is_committed() -> None:
    kept = _Kept()
    membership = Membership(_SEEN, reconfig=True, keeper=kept)
    new = parse_text("server.4=a:1:2\nserver.5=b:1:2\nserver.6=c:1:2\nversion=6")
    assert membership.has_quorum([1, 2])
    membership.see(new)
    assert membership.changing
    assert membership.voters == [1, 2, 4, 5, 6]
    assert [membership.has_quorum(sids) for sids in ([1, 2], [4, 5, 6], [1, 2, 5, 6])] == [
        False,
        False,
        True,
    ]
    assert membership.activate(new)
    assert membership.has_quorum([4, 5])
    assert not membership.votes(1)
    # Nothing twice, and nothing that is older; a version alone changes no server.
    assert not membership.activate(new)
    assert not membership.activate(_SEEN)
    assert not membership.activate(new.at(8))
    assert kept.calls == [("seen", 6, False), ("committed", 6, True), ("committed", 8, True)]


def test_a_proposal_that_was_never_committed() -> None:
    membership = Membership(_SEEN, _SEEN.at(9), reconfig=True)
    assert membership.changing
    membership.see(_SEEN)
    assert not membership.changing


def test_without_reconfiguration_nothing_changes() -> None:
    membership = Membership(_SEEN, _SEEN.at(9), keeper=_Kept())
    membership.see(_SEEN.at(10))
    assert not membership.activate(_SEEN.at(11))
    assert (membership.committed.version, membership.seen.version) == (5, 5)
