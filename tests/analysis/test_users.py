"""Who connections authenticate as: what each message names, in both engines, and what counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import zktrace
from tests.cli.test_command import output
from tests.conftest import needs_native
from tests.support import net, zk
from tests.support.pcapio import write_pcap
from tests.support.talk import Scene, Talk
from zktrace.store.part import COLUMNS
from zktrace.stream import identity

AUTH, SASL, WHO_AM_I = 100, 102, 107


def text(value: str | bytes) -> bytes:
    data = value if isinstance(value, bytes) else value.encode()
    return zk.i32(len(data)) + data


def auth(scheme: str, what: bytes) -> bytes:
    return zk.i32(0) + text(scheme) + text(what)


def who_am_i(*users: tuple[str, str]) -> bytes:
    return zk.i32(len(users)) + b"".join(text(scheme) + text(user) for scheme, user in users)


RESPONSE = b'charset=utf-8,username="carol",realm="zk",nonce="n",response=0123456789abcdef'


@pytest.mark.parametrize(
    ("opcode", "body", "claim"),
    [
        (AUTH, auth("digest", b"bob:secret"), "digest:bob"),
        (AUTH, auth("digest", b"bob:with:colons"), "digest:bob"),
        (AUTH, auth("digest", b"no-colon-perhaps-a-password"), None),
        (AUTH, auth("digest", b":secret"), None),
        (AUTH, auth("digest", b"\xff\xfe:secret"), "digest"),
        (AUTH, auth("digest", b"a\x1b[31m:secret"), "digest"),
        (AUTH, auth("digest", b"x" * 129 + b":secret"), "digest"),
        (AUTH, auth("jwt", b"eyJhbGciOi"), "jwt"),
        (AUTH, auth("ip", b"10.0.0.1"), None),
        (AUTH, auth("no such scheme!", b"a:b"), None),
        (AUTH, auth("digest", b"bob:secret")[:-20], None),
        (AUTH, b"", None),
        (AUTH, zk.i32(0) + zk.i32(-1), None),
        (AUTH, zk.i32(0) + zk.i32(0x7FFFFFFF), None),
        (SASL, text(RESPONSE), "sasl:carol"),
        (SASL, text(b'username="a\\"b\\\\c",realm="r"'), 'sasl:a"b\\c'),
        (SASL, text(b'xusername="mallory",username="carol"'), "sasl:carol"),
        (SASL, text(b'username="carol'), None),
        (SASL, text(b'username="carol\\'), None),
        (SASL, text(b""), None),
        (SASL, text(b"\x60\x82\x02\x6e\x06\x09\x2a\x86\x48\x86\xf7\x12\x01\x02\x02"), None),
        (SASL, zk.i32(-1), None),
        (WHO_AM_I, b"", None),
    ],
)
def test_claims(opcode: int, body: bytes, claim: str | None) -> None:
    assert identity.claimed(opcode, body) == claim


@pytest.mark.parametrize(
    ("opcode", "claim", "body", "users"),
    [
        (AUTH, "digest:bob", b"", ["digest:bob"]),
        (AUTH, None, b"", []),
        (SASL, "sasl:carol", text(b"rspauth=00"), ["sasl:carol"]),
        # Kept although SASL failed (zookeeper.allowSaslFailedClients).
        (SASL, "sasl:carol", zk.i32(-1), []),
        (SASL, "sasl:carol", text(b"nonce=1"), []),
        (WHO_AM_I, None, who_am_i(("ip", "10.0.0.1")), []),
        (
            WHO_AM_I,
            None,
            who_am_i(("x509", "CN=bob,O=x"), ("super", "")),
            ["x509:CN=bob,O=x", "super"],
        ),
        (WHO_AM_I, None, who_am_i(("digest", "a"))[:-1], []),
        (WHO_AM_I, None, zk.i32(-1), []),
        (WHO_AM_I, None, zk.i32(0x7FFFFFFF), []),
    ],
)
def test_grants(opcode: int, claim: str | None, body: bytes, users: list[str]) -> None:
    assert identity.granted(opcode, claim, body) == users


def scene(tmp_path: Path) -> Path:
    """Two users, one connection of nobody, one of two users, one refused, one joined."""
    made = Scene()
    bob = Talk(made, ("10.1.0.1", 40001)).open()
    bob.connect(0x100)
    bob.get(1, "/before", 1)
    bob.call(-4, AUTH, auth("digest", b"bob:hunter2"), 1)
    bob.get(2, "/a", 1)
    bob.event(3, "/a")
    nobody = Talk(made, ("10.1.0.2", 40002)).open()
    nobody.connect(0x200)
    nobody.get(1, "/a", 1)
    carol = Talk(made, ("10.1.0.3", 40003)).open()
    carol.connect(0x300)
    carol.call(1, SASL, text(b""), 0, text(b'realm="zk",nonce="n"'))
    carol.call(2, SASL, text(RESPONSE), 0, text(b"rspauth=00"))
    carol.get(3, "/b", 1)
    carol.call(
        4, WHO_AM_I, b"", 1, who_am_i(("ip", "10.1.0.3"), ("sasl", "carol"), ("x509", "CN=c"))
    )
    carol.get(5, "/b", 1)
    refused = Talk(made, ("10.1.0.4", 40004)).open()
    refused.connect(0x400)
    refused.call(-4, AUTH, auth("digest", b"eve:hunter2"), 0, error=-115)
    bob.get(3, "/a", 2)
    again = Talk(made, ("10.1.0.1", 40005)).open()
    again.connect(0x100)
    again.call(-4, AUTH, auth("digest", b"bob:other"), 1)
    again.get(1, "/a", 2)
    bob.close()
    path = tmp_path / "users.pcap"
    write_pcap(path, map(net.record, made.segs))
    return path


#: Requests, and watch events: the request that a user's name comes with is not yet theirs.
USERS = {
    None: (12, 0),
    "digest:bob": (3, 1),
    "sasl:carol": (2, 0),
    "sasl:carol + x509:CN=c": (1, 0),
}


def test_rows_of_users(engine: str, tmp_path: Path) -> None:
    trace = zktrace.read(scene(tmp_path))
    told = [row for row in trace.connections.to_pylist() if row["event"] == "authenticated"]
    assert [row["detail"] for row in told] == [
        "digest:bob",
        "sasl:carol",
        "sasl:carol + x509:CN=c",
        "digest:bob",
    ]
    result = trace.stats(by=["user"])
    found = {row["user"]: (row["requests"], row["watch_events"]) for row in result["by_user"]}
    assert found == USERS
    assert result["total"]["requests"] == sum(requests for requests, _ in USERS.values())
    assert "hunter2" not in repr(trace.tables) + json.dumps(result)


def _by_user(engine: str, *args: str) -> list[dict[str, Any]]:
    text = output("stats", "--json", "--by", "user", *args, engine=engine)
    rows: list[dict[str, Any]] = json.loads(text)["by_user"]
    return rows


def test_stats_by_user(engine: str, tmp_path: Path) -> None:
    path = str(scene(tmp_path))
    rows = _by_user(engine, path)
    assert {row["user"]: (row["requests"], row["watch_events"]) for row in rows} == USERS
    # What a filter selects is whose it was, though it does not select what told of that.
    rows = _by_user(engine, "--filter", 'path == "/a"', path)
    assert {row["user"]: row["requests"] for row in rows} == {"digest:bob": 3, None: 1}


@needs_native
def test_windows_count_what_is_known(tmp_path: Path) -> None:
    from tests.store.test_windows import _native, _python

    path = scene(tmp_path)
    for windows, totals in (_python(path, 64, 1000), _native(path, 64, 1000)):
        assert windows
        keys, _, numbers = totals["user"][0][:3]
        counts = memoryview(numbers).cast("q")
        rows = range(0, len(counts), COLUMNS)
        found = {key: (counts[i], counts[i + 4]) for key, i in zip(keys, rows, strict=True)}
        assert found == {key: value for key, value in USERS.items() if key is not None}
