"""The schema as text: up to date in the native crate, and about every opcode."""

from __future__ import annotations

from pathlib import Path

from zktrace.wire.layout import schema_text
from zktrace.wire.opcodes import BY_NAME, BY_NUMBER, OPS

ROOT = Path(__file__).resolve().parents[2]


def test_committed_copy_is_up_to_date() -> None:
    """To renew, write what `schema_text()` gives to the file."""
    assert (ROOT / "zktrace/_native/schema.txt").read_text(encoding="utf-8") == schema_text()


def test_opcodes_are_unique() -> None:
    assert len(BY_NUMBER) == len(BY_NAME) == len(OPS)
