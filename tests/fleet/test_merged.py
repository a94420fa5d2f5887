"""Messages of several agents, as one picture: in whatever order, however often they come."""

from __future__ import annotations

import random

from tests.fleet.test_message import MESSAGES, ROWS, WINDOWS
from zktrace.fleet.merged import Merged, added
from zktrace.fleet.message import Message, Sender, decode
from zktrace.store.part import REQUESTS, Part
from zktrace.store.picture import Picture


def from_agent(index: int, run: int = 0) -> list[Message]:
    found = [decode(data) for data in MESSAGES]
    for message in found:
        message.sender = Sender(f"{index:032x}", f"host{index}", "prod", f"{run:032x}")
    return found


def requests(merged: Merged) -> int:
    packed, _ = merged.totals("op")
    return int(Part.of(packed).numbers[:, REQUESTS].sum())


ONE = int(WINDOWS["op"].numbers[:, REQUESTS].sum())


def test_each_message_counts_once() -> None:
    merged = Merged(1000)
    for message in [*from_agent(1), *from_agent(1), *from_agent(2), *from_agent(2)]:
        merged.take_message(message)
    assert ONE > 1000
    assert requests(merged) == 2 * ONE
    assert merged.coverage()["packets"] == 2 * 3991
    assert len(merged.take()["exchanges"]) == 2 * len(ROWS["exchanges"])
    assert [agent["requests"] for agent in merged.agents()] == [ONE, ONE]


def test_what_never_came_is_told() -> None:
    merged = Merged(1000)
    late = from_agent(1)[0]
    late.number = 5
    merged.take_message(late)
    assert merged.coverage()["missing_messages"] == 4


def test_a_new_run_adds_to_the_coverage() -> None:
    merged = Merged(1000)
    for message in from_agent(1):
        merged.take_message(message)
    for message in from_agent(1, run=1):
        message.number += len(MESSAGES)
        merged.take_message(message)
    assert merged.coverage()["packets"] == 2 * 3991
    assert merged.coverage()["exchanges"]["complete"] == 2 * 1032
    assert merged.coverage()["first_ts_ns"] == from_agent(1)[0].coverage["first_ts_ns"]


def test_totals_that_are_cut_say_what_may_be_missing() -> None:
    whole, cut = Merged(1000), Merged(8)
    chance = random.Random(1)
    messages = [message for index in range(4) for message in from_agent(index)]
    chance.shuffle(messages)
    for message in messages:
        message.number = 1 + messages.index(message)
        whole.take_message(message)
        cut.take_message(message)
    packed, column = cut.totals("path")
    part = Part.of(packed)
    true = Part.of(whole.totals("path")[0])
    counts = dict(zip(true.keys, true.numbers[:, REQUESTS].tolist(), strict=True))
    missed = [int.from_bytes(column[at : at + 8], "little") for at in range(0, len(column), 8)]
    assert len(part.keys) <= 9
    for key, number, bound in zip(
        part.keys, part.numbers[:, REQUESTS].tolist(), missed, strict=True
    ):
        if not key[1]:
            assert number <= counts[key] <= number + bound
    assert int(part.numbers[:, REQUESTS].sum()) == sum(counts.values())


def test_a_picture_of_it() -> None:
    merged = Merged(1000)
    picture = Picture(engine=merged)
    picture.state = "reading"
    for index in (1, 2):
        for message in from_agent(index):
            with picture.decoding():
                merged.take_message(message)
                picture.collect()
    part, _ = picture.rows("op", picture.span("all"))
    assert int(part.numbers[:, REQUESTS].sum()) == 2 * ONE
    assert picture.coverage()["packets"] == 2 * 3991


def test_coverages_are_added() -> None:
    one = {"packets": 1, "kernel_drops": None, "first_ts_ns": 5, "flows": {"client": 1}}
    other = {"packets": 2, "kernel_drops": 3, "first_ts_ns": 4, "flows": {"client": 1, "tls": 1}}
    assert added(one, other) == {
        "packets": 3,
        "kernel_drops": 3,
        "first_ts_ns": 4,
        "flows": {"client": 2, "tls": 1},
    }
