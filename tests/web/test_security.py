"""Who is let in, and what browsers are told."""

from __future__ import annotations

import pytest

from tests.web.conftest import Client, client_of
from zktrace.store.picture import Picture
from zktrace.web.security import host_name, is_loopback

TOKEN = "not-a-secret-token"


@pytest.fixture
def locked(herd: Picture) -> Client:
    return client_of(herd, token=TOKEN)


def test_without_the_token_there_is_nothing(locked: Client) -> None:
    for path in ("/", "/api/summary", "/metrics", "/static/app.js", "/openapi.json", "/docs"):
        response = locked.get(path)
        assert response.status_code == 401, path
        assert response.headers["content-type"] == "application/problem+json"
    assert locked.get("/healthz").status_code == 200


def test_the_token_opens(locked: Client) -> None:
    assert locked.get("/api/ops", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    for wrong in (f"Bearer {TOKEN}x", "Bearer ", f"Basic {TOKEN}", TOKEN):
        assert locked.get("/api/ops", headers={"Authorization": wrong}).status_code == 401


def test_the_token_in_the_address_becomes_a_cookie(locked: Client) -> None:
    response = locked.get(f"/?token={TOKEN}&a=b")
    assert response.status_code == 303
    assert response.headers["location"] == "/?a=b"
    cookie = response.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert TOKEN not in cookie
    value = cookie.split(";")[0]
    assert locked.get("/api/ops", headers={"Cookie": value}).status_code == 200
    assert locked.get("/api/ops", headers={"Cookie": "zktrace=x"}).status_code == 401
    assert locked.get("/?token=wrong").status_code == 401


@pytest.mark.parametrize("path", ["//evil.example/", "/\\evil.example", "/%0d%0aX: y"])
def test_the_token_leads_nowhere_else(locked: Client, path: str) -> None:
    response = locked.get(f"http://127.0.0.1:8080{path}?token={TOKEN}")
    location = response.headers.get("location", "/")
    assert location.startswith("/")
    assert not location.startswith(("//", "/\\"))
    assert "\n" not in location


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8080", 200),
        ("localhost", 200),
        ("LOCALHOST:80", 200),
        ("[::1]:8080", 200),
        ("10.1.2.3", 200),
        ("monitor.example", 200),
        ("evil.example", 421),
        ("localhost.evil.example:8080", 421),
        ("127.0.0.1.evil.example", 421),
        ("127.0.0.1:80@evil", 421),
        ("", 421),
        ("[::1", 421),
    ],
)
def test_only_known_hosts_are_served(herd: Picture, host: str, status: int) -> None:
    client = client_of(herd, hosts=["monitor.example"])
    assert client.get("/api/ensemble", headers={"Host": host}).status_code == status


def test_every_answer_says_what_a_page_may_do(client: Client, locked: Client) -> None:
    for who, path in ((client, "/"), (client, "/api/ops"), (client, "/nope"), (locked, "/")):
        headers = who.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["referrer-policy"] == "no-referrer"
        assert "access-control-allow-origin" not in headers


def test_requests_are_bounded(client: Client) -> None:
    assert client.get("/api/ops?filter=" + "x" * 3000).status_code == 422
    assert client.get("/api/ops?filter=" + "x" * 9000).status_code == 414
    deep = client.get("/api/ops", params={"filter": "(" * 900 + "read" + ")" * 900})
    assert deep.status_code in (200, 400)


def test_host_names() -> None:
    assert host_name("[::1]:80") == "::1"
    assert host_name("a:b") is None
    assert is_loopback("127.9.9.9")
    assert is_loopback("::1")
    assert not is_loopback("0.0.0.0")
