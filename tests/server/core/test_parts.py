"""Paths, addresses, sessions' time: the small parts, against what Java makes of them."""

from __future__ import annotations

import pytest

from zktrace_server.core import address, paths
from zktrace_server.core.errors import KeeperError
from zktrace_server.core.node import CONTAINER_OWNER, MAX_TTL, Owner, owner_kind, ttl_of, ttl_owner
from zktrace_server.core.sessions import Sessions, first_session_id


@pytest.mark.parametrize(
    "path", ["/", "/a", "/a/b", "/a.b", "/...", "/a/..b", "/.a", "/é", "/a b", "/\u00a0"]
)
def test_allowed_paths(path: str) -> None:
    assert paths.validate(path) == path


@pytest.mark.parametrize(
    "path",
    [
        None,
        "",
        "a",
        "/a/",
        "//",
        "/a//b",
        "/.",
        "/..",
        "/a/./b",
        "/a/..",
        "/../a",
        "/\0",
        "/\x1f",
        "/\x7f",
        "/\x9f",
        "/\ue000",
        "/\uf8ff",
        "/\ufffd",
        "/\U0001f600",
    ],
)
def test_refused_paths(path: str | None) -> None:
    with pytest.raises(KeeperError):
        paths.validate(path)


@pytest.mark.parametrize(
    ("client", "expression", "wanted"),
    [
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("10.1.2.3", "10.1.2.0/31", False),
        ("10.1.2.3", "0.0.0.0/0", True),
        ("::1", "::1", True),
        ("2001:db8::1", "2001:db8::/32", True),
        ("2001:db9::1", "2001:db8::/32", False),
        ("::1", "0.0.0.0/0", False),
    ],
)
def test_addresses(client: str, expression: str, wanted: bool) -> None:
    assert address.valid(expression)
    assert address.matches(client, expression) is wanted


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "a",
        "1.2.3",
        "1.2.3.256",
        "1.2.3.4/33",
        "1.2.3.4/x",
        "1.2.3.4/-1",
        "1.2.3.4/",
        ":::",
        "1:2:3",
        "1:2:3:4:5:6:7::8:9",
        "12345::",
        "1::2::3",
        "g::",
    ],
)
def test_what_is_no_address(expression: str) -> None:
    assert not address.valid(expression)


def test_owners() -> None:
    assert owner_kind(0, True) is Owner.NONE
    assert owner_kind(CONTAINER_OWNER, True) is Owner.CONTAINER
    assert owner_kind(0x1000000000000001, True) is Owner.SESSION
    for ttl_ms in (1, 1000, MAX_TTL):
        assert owner_kind(ttl_owner(ttl_ms), True) is Owner.TTL
        assert owner_kind(ttl_owner(ttl_ms), False) is Owner.SESSION
        assert ttl_of(ttl_owner(ttl_ms)) == ttl_ms


def test_session_ids_do_not_meet_a_containers_owner() -> None:
    assert first_session_id(0x80, 0) == CONTAINER_OWNER + 1
    assert first_session_id(1, 1) == 1 << 56 | 1 << 16


def test_sessions_expire_by_the_tick() -> None:
    sessions = Sessions(2000, 1, 10_500)
    sessions.track(1, 4000, 10_500)  # 14,500, rounded up
    sessions.track(2, 4000, 12_000)
    assert sessions.by_expiry() == {16_000: [1], 18_000: [2]}
    assert sessions.expired(15_999) == []
    assert sessions.touch(1, 4000, 13_999)
    assert sorted(sessions.expired(18_000)) == [1, 2]
    assert not sessions.touch(1, 4000, 18_000)
    with pytest.raises(KeeperError, match="-112"):
        sessions.check(1)
    sessions.remove(1)
    with pytest.raises(KeeperError, match="-12"):
        sessions.check(1)
