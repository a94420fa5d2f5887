"""``POST /api/slice``, the one request that changes something: what it takes, and from whom."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.pcapio import read_pcap
from tests.web.conftest import PCAPS, Client, client_of, picture_of
from zktrace.capture.interfaces import Interface
from zktrace.capture.keep import Ring
from zktrace.capture.live import Plan, record_bytes
from zktrace.store.picture import Picture

JSON = {"Content-Type": "application/json"}
ALL = {"from_ns": 0, "to_ns": 1 << 62}


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Picture]:
    """A picture whose packets are kept."""
    plan = Plan((Interface("lo", 1, 772),), record="pcapng")
    ring = Ring(str(tmp_path), plan, keep_s=10**6, max_bytes=1 << 20)
    ring.prepare()
    ring.begin()
    for record in read_pcap(PCAPS / "02_basic_ops.pcap").records:
        ring.add(record_bytes("pcapng", record.ts_ns, record.data, record.length), 1)
    picture = picture_of("02_basic_ops.pcap")
    picture.ring = ring
    yield picture
    ring.close()


def post(client: Client, body: Any = ALL, **headers: str) -> Any:
    return client.post("/api/slice", json=body, headers=JSON | headers)


def test_it_saves_what_was_asked_for(kept: Picture, tmp_path: Path) -> None:
    client = client_of(kept)
    answer = post(client)
    assert answer.status_code == 201
    assert answer.json()["packets"] == 119
    assert answer.json()["bytes"] == (tmp_path / answer.json()["file"]).stat().st_size
    numbers = []
    for ends in ({"server": "127.0.0.2:21812"}, {"server": "127.0.0.2"}, {"client": "127.0.0.2"}):
        numbers.append(post(client, ALL | ends).json()["packets"])
    assert numbers[0] == numbers[1] == numbers[2] < 119
    assert post(client, ALL | {"client": "10.0.0.1"}).status_code == 404
    assert post(client, ALL | {"client": "here"}).status_code == 422
    assert post(client, {"from_ns": 1}).status_code == 422
    assert post(client, ALL | {"file": "../x"}).status_code == 422
    found = client.json("/api/coverage")["source"]["kept"]
    assert found["files"] >= 1


def test_where_nothing_is_kept_there_is_nothing(herd: Picture) -> None:
    assert post(client_of(herd)).status_code == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://127.0.0.1:8080", "Sec-Fetch-Site": "same-origin"}, 201),
        ({"Sec-Fetch-Site": "none"}, 201),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:9090"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Length": "9000"}, 413),
    ],
)
def test_no_other_site_can_ask(
    kept: Picture, tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    assert post(client_of(kept), **headers).status_code == status
    assert len(list(tmp_path.glob("zktrace-slice-*"))) == (status == 201)


def test_it_needs_the_token(kept: Picture, tmp_path: Path) -> None:
    client = client_of(kept, token="not-a-secret-token")
    assert post(client).status_code == 401
    assert not list(tmp_path.glob("zktrace-slice-*"))
    assert post(client, Authorization="Bearer not-a-secret-token").status_code == 201
