"""The state file: what it keeps, and what becomes of a bad one."""

from __future__ import annotations

import json
import os
import random
import zlib
from pathlib import Path
from typing import Any

import pytest

from tests.store.test_windows import PCAPS
from zktrace.store.feed import Feed
from zktrace.store.part import REQUESTS
from zktrace.store.picture import Picture
from zktrace.store.state import MAGIC, BadState, StateFile, decode, encode
from zktrace.store.windows import Windows


def _picture() -> Picture:
    picture = Picture()
    feed = Feed(picture, [str(PCAPS / "57_v39_herd.pcap")])
    feed.start()
    assert feed.join(60)
    return picture


@pytest.fixture(scope="module")
def data() -> bytes:
    return encode(_picture().save(), 1_700_000_000)


def _sums(windows: Windows) -> Any:
    assert windows.first is not None
    assert windows.last is not None
    found = []
    for window in windows.span(windows.clamp(windows.first), windows.last + 1):
        part = window.part("path")
        found.append((window.second, part.keys, part.numbers[:, REQUESTS].tolist()))
    return found


def test_windows_are_there_again(data: bytes, engine: str) -> None:
    before = _picture()
    after = Picture()
    after.restore(decode(data), 1 << 40)
    assert _sums(after.windows) == _sums(before.windows)
    assert after.windows.first == before.windows.first
    assert after.windows.size == before.windows.size


def test_a_file_from_before_a_grouping_is_read_on(data: bytes) -> None:
    line, _, rest = data[len(MAGIC) : -4].partition(b"\n")
    head = json.loads(line)
    assert head["groupings"].pop() == "user"
    parts, at = b"", 0
    for _, _, lengths in head["windows"]:
        parts += rest[at : at + sum(lengths[:-1])]
        at += sum(lengths)
        lengths.pop()
    body = MAGIC + json.dumps(head).encode() + b"\n" + parts
    saved = decode(body + zlib.crc32(body).to_bytes(4, "little"))
    assert not any(window.part("user").keys for _, window in saved.windows)
    after = Picture()
    after.restore(saved, 1 << 40)
    assert _sums(after.windows) == _sums(_picture().windows)


def test_windows_of_a_clock_that_was_ahead_are_left_out(data: bytes) -> None:
    saved = decode(data)
    seconds = sorted(window.second for tier, window in saved.windows if tier == 0)
    windows = Windows()
    windows.restore(saved, seconds[1])
    assert windows.last == seconds[1]
    assert [second for second, _, _ in _sums(windows)] == seconds[:2]
    windows = Windows()
    windows.restore(saved, 0)
    assert (len(windows), windows.first, windows.last) == (0, None, None)


@pytest.mark.parametrize("seed", range(5))
def test_a_damaged_file_is_told(data: bytes, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(40):
        cut = data[: chance.randrange(len(data))]
        with pytest.raises(BadState):
            decode(cut)
        at = chance.randrange(len(data))
        flipped = data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
        with pytest.raises(BadState):
            decode(flipped)


@pytest.mark.parametrize(
    "head",
    [
        b"{}",
        b"[]",
        b"null",
        b"{",
        b'{"tiers":[[1,600,64,1],[10,2160,32,2],[60,10080,16,4]],"groupings":["op","client","path",'
        b'"fingerprint","server"],"first":0,"slots":[0,0,0],"windows":[[7,0,[0,0,0,0,0]]]}',
        b'{"tiers":[[1,600,64,1],[10,2160,32,2],[60,10080,16,4]],"groupings":["op","client","path",'
        b'"fingerprint","server"],"first":0,"slots":[0,0,0],"windows":[[0,0,[1,0,0,0,0]]]}',
        b'{"tiers":[[1,600,64,1],[10,2160,32,2],[60,10080,16,4]],"groupings":["op","client","path",'
        b'"fingerprint","server"],"first":0,"slots":[0],"windows":[]}',
    ],
)
def test_a_file_that_was_made_up_is_told(head: bytes) -> None:
    body = MAGIC + head + b"\n"
    with pytest.raises(BadState):
        decode(body + zlib.crc32(body).to_bytes(4, "little"))


def test_a_bad_file_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_bytes(b"something else")
    told: list[str] = []
    keeping = StateFile(path, Picture(), told.append)
    assert keeping.restored is None
    assert len(told) == 1
    assert "set aside as state.bad-" in told[0]
    (aside,) = tmp_path.glob("state.bad-*")
    assert aside.read_bytes() == b"something else"
    assert path.read_bytes().startswith(MAGIC)
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_was_written_is_read(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "state"
    told: list[str] = []
    first = StateFile(path, _picture(), told.append)
    first.start()
    first.stop()
    again = StateFile(path, picture := Picture(), told.append)
    assert again.restored == len(decode(data).windows)
    assert _sums(picture.windows)
    assert told == []
    assert sorted(one.name for one in tmp_path.iterdir()) == ["state"]


def test_a_full_disk_is_told_once_and_the_last_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    keeping = StateFile(tmp_path / "state", _picture(), told.append)
    before = (tmp_path / "state").read_bytes()

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    keeping.save()
    keeping.save()
    assert len(told) == 1
    assert "No space left on device" in told[0]
    monkeypatch.undo()
    assert (tmp_path / "state").read_bytes() == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["state"]


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        StateFile(tmp_path / "absent" / "state", Picture(), lambda line: None)
