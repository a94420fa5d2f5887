"""Session ids replaced by keyed hashes."""

from __future__ import annotations

import pytest
from hypothesis import given

from tests.analysis.rows import EVENTS, INT64, Event, tables
from zktrace.analysis.hashing import SessionHasher, make_key, siphash24

KEY = bytes(range(16))


def test_published_vectors() -> None:
    """From the paper (15 bytes) and the authors' vectors (8 bytes)."""
    assert siphash24(KEY, bytes(range(15))) == 0xA129CA6149BE45E5
    assert siphash24(KEY, bytes(range(8))).to_bytes(8, "little").hex() == "6224939a79f5f593"


def test_keys() -> None:
    assert make_key("a") == make_key("a") != make_key("b")
    assert make_key() != make_key()
    assert len(make_key()) == len(make_key("a")) == 16
    with pytest.raises(ValueError, match="16 bytes"):
        SessionHasher(b"short")


@given(INT64)
def test_a_hash_is_no_special_owner(session: int) -> None:
    hashed = SessionHasher(KEY).session(session)
    assert hashed is not None
    assert hashed >> 56 == 0
    assert (hashed == 0) == (session == 0)


@pytest.mark.parametrize("owner", [0, -(1 << 63), -1, (0xFF << 56) - (1 << 64) + 5000, None])
def test_special_owners_stay(owner: int | None) -> None:
    assert SessionHasher(KEY).owner(owner) == owner


@given(EVENTS)
def test_tables_are_else_the_same(events: list[Event]) -> None:
    hasher = SessionHasher(KEY)
    for table in tables(events).values():
        for batch in table.combine_chunks().to_batches():
            hashed = hasher.batch(batch.slice(1))  # a slice, since offsets are easily forgotten
            assert hashed.schema == batch.schema
            for row, was in zip(hashed.to_pylist(), batch.slice(1).to_pylist(), strict=True):
                if was.get("session") is not None:
                    assert row.pop("session") == hasher.session(was.pop("session"))
                if was.get("stat"):
                    owner = was["stat"].pop("ephemeral_owner")
                    assert row["stat"].pop("ephemeral_owner") == hasher.owner(owner)
                assert row == was
