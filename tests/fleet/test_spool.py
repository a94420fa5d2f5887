"""What waits on disk: numbers that never come twice, bounds, one agent at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from zktrace.capture.errors import CaptureError
from zktrace.fleet.spool import Spool


def test_what_waits_survives_and_numbers_go_on(tmp_path: Path) -> None:
    one = Spool(str(tmp_path), 1 << 20)
    for text in (b"a", b"b", b"c"):
        one.add(text)
    assert one.first() == (1, b"a")
    one.done(1)
    one.close()
    again = Spool(str(tmp_path), 1 << 20)
    assert again.agent == one.agent
    assert (again.first(), again.waiting, again.next) == ((2, b"b"), 2, 4)
    for number in (2, 3):
        again.done(number)
    again.close()
    last = Spool(str(tmp_path), 1 << 20)
    assert (last.first(), last.next) == (None, 4)
    last.close()
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.iterdir())


def test_the_oldest_are_given_up_and_counted(tmp_path: Path) -> None:
    one = Spool(str(tmp_path), 100)
    for _ in range(10):
        one.add(b"x" * 30)
    assert (one.waiting, one.lost) == (3, 7)
    assert one.first() == (8, b"x" * 30)
    one.close()


def test_what_was_written_in_part_is_no_message(tmp_path: Path) -> None:
    Spool(str(tmp_path), 100).close()
    (tmp_path / f"{1:020}.part").write_bytes(b"half")
    one = Spool(str(tmp_path), 100)
    assert one.first() is None
    one.close()


def test_one_agent_at_a_time(tmp_path: Path) -> None:
    one = Spool(str(tmp_path), 100)
    with pytest.raises(CaptureError, match="in use"):
        Spool(str(tmp_path), 100)
    one.close()
