"""Messages: what is sent is what is taken, and other bytes are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zktrace.analysis.trace import to_batch
from zktrace.engine.base import EngineOptions
from zktrace.engine.driver import Run
from zktrace.fleet.agent import Counting
from zktrace.fleet.message import (
    MAX_BYTES,
    Message,
    Piece,
    Sender,
    bundles,
    decode,
    encode,
    event_pieces,
    window_pieces,
)
from zktrace.store.part import merge

PCAPS = Path(__file__).parents[2] / "pcaps"
SENDER = Sender("0" * 32, "here", "prod", "1" * 32)


def sent(name: str = "57_v39_herd.pcap") -> tuple[list[bytes], Any, dict[str, Any]]:
    """A capture as messages; its windows summed up, its events."""
    counting = Counting(EngineOptions())
    run = Run([str(PCAPS / name)], counting.engine)
    pieces: list[Piece] = []
    windows = []
    rows: dict[str, Any] = {}
    for _ in run:
        for kind, some in counting.take().items():
            if len(some):
                batch = to_batch(kind, some)
                rows[kind] = [*rows.get(kind, []), *batch.to_pylist()]
                pieces += event_pieces(kind, batch)
        for second, groups in counting.windows(all=True):
            windows.append(groups)
            pieces += window_pieces(second, groups)
    made = [
        encode(SENDER, number, 5, 0, run.coverage(), bundle)
        for number, bundle in enumerate(bundles(pieces), 1)
    ]
    whole = {by: merge([groups[by] for groups in windows]) for by in windows[0]}
    return made, whole, rows


MESSAGES, WINDOWS, ROWS = sent()


def test_what_is_sent_is_what_is_taken(engine: str) -> None:
    made, windows, rows = sent()
    assert all(len(data) < MAX_BYTES for data in made)
    found: list[Message] = [decode(data) for data in made]
    assert all(message.sender == SENDER for message in found)
    assert found[0].coverage["packets"] == 3991
    for by, whole in windows.items():
        parts = [part for message in found for _, one, part in message.windows if one == by]
        again = merge(parts)
        assert again.keys == whole.keys
        assert again.numbers.tolist() == whole.numbers.tolist()
        assert again.counts.tolist() == whole.counts.tolist()
    for kind, wanted in rows.items():
        batches = [batch for message in found for one, batch in message.events if one == kind]
        assert [row for batch in batches for row in batch.to_pylist()] == wanted


@given(st.data())
def test_other_bytes_are_refused_in_a_word(data: st.DataObject) -> None:
    """Whatever is changed: it is a message, or a ValueError."""
    whole = bytearray(MESSAGES[0])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)))
    for changed in (bytes(whole), bytes(whole[:cut])):
        try:
            decode(changed)
        except ValueError:
            pass


@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode(noise)


@pytest.mark.parametrize(
    "change",
    [
        {"agent": "../../etc"},
        {"ensemble": "a/b"},
        {"ensemble": ""},
        {"name": None},
        {"number": -1},
        {"number": True},
        {"number": 1 << 70},
        {"coverage": []},
        {"parts": {}},
        {"parts": [["window", 5, "op", -3]]},
        {"parts": [["events", "exchanges", 1 << 60]]},
        {"parts": [["nothing", "x", 0]]},
    ],
)
def test_headers_that_cannot_be(change: dict[str, Any]) -> None:
    header = json.loads(encode(SENDER, 1, 5, 0, {}, [])[8:])
    text = json.dumps(header | change).encode()
    with pytest.raises(ValueError, match=r"."):
        decode(b"ZKF1" + len(text).to_bytes(4, "little") + text)
