"""Reassembly, whatever comes: true bytes at true places, within limits, equal in both engines."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.flow.conversations import (
    Mangled,
    captures,
    cut,
    doubled,
    garbage,
    lossy,
    reordered,
    talks,
)
from tests.flow.model import CLIENT, Recorder, Talk, reassemble
from zktrace.capture.segment import SYN, Segment
from zktrace.flow import Limits, Reassembler

SMALL = Limits(connections=3, side_buffer=600, total_buffer=1_000, tombstones=2)


def native_reassemble() -> Any:
    try:
        module = importlib.import_module("zktrace._native")
    except ImportError:
        return None
    return getattr(module, "debug_reassemble", None)


NATIVE = native_reassemble()


def same(segments: list[Segment], limits: Limits | None = None) -> Recorder:
    """The Python engine's calls, after the native one made the same."""
    recorder, counters = reassemble(segments, limits)
    if NATIVE is not None:
        calls, counts = NATIVE(segments, **dataclasses.asdict(limits or Limits()))
        assert calls == recorder.calls
        assert counts == dataclasses.asdict(counters)
    return recorder


def first_times(talk: Talk, side: int, segments: list[Segment]) -> dict[int, tuple[int, int]]:
    """Position in a stream -> times of the earliest packet that has it, and of the first
    captured.
    """
    times: dict[int, tuple[int, int]] = {}
    src = (talk.client, talk.server)[side]
    for s in segments:
        if (s.src, s.sport) == src:
            syn = bool(s.flags & SYN)
            off = (s.seq + syn - talk.isn[side] - 1 + 2**31) % 2**32 - 2**31
            for i in range(len(s.payload)):
                earliest, first = times.get(off + i, (s.ts_ns, s.ts_ns))
                times[off + i] = (min(earliest, s.ts_ns), first)
    return times


def check_times(recorder: Recorder, talk: Talk, side: int, segments: list[Segment]) -> None:
    times = first_times(talk, side, segments)
    off = 0
    for call in recorder.calls:
        if call[0] == "data" and call[2] == side:
            for earliest, first in (times[off + i] for i in range(len(call[5]))):
                assert call[6] or earliest <= call[3] <= first
            off += len(call[5])


@given(st.data())
def test_nothing_lost(data: st.DataObject) -> None:
    """Doubled and reordered, but complete: the true streams, each byte with its first time."""
    # A packet that comes more than 3 packets and a second late is taken for lost.
    quick = data.draw(st.booleans())
    talk = data.draw(talks(handshake=True, quick=quick))
    segments = data.draw(doubled(talk.segments))
    # The SYN stays first: without it the connection is a joined one.
    segments = segments[:2] + data.draw(reordered(segments[2:], 6 if quick else 3))
    recorder = same(segments)
    assert len(recorder.ended) == 1
    assert not recorder.named("gap")
    for side in (0, 1):
        assert recorder.stream(side) == bytes(talk.streams[side])
        check_times(recorder, talk, side, segments)


@given(st.data())
def test_needs_are_true(data: st.DataObject) -> None:
    """What a segment is said to need is what its sender had acknowledged."""
    talk = data.draw(talks(handshake=True, closes=False, quick=True))
    recorder = same(talk.segments[:3] + data.draw(reordered(talk.segments[3:])))
    acks: dict[tuple[int, int], set[int]] = {}
    for s in talk.segments:
        side = int(s.src != talk.client[0])
        off = (s.seq - talk.isn[side] - 1) % 2**32
        for i in range(len(s.payload)):
            need = (s.ack - talk.isn[1 - side] - 1) % 2**32
            acks.setdefault((side, off + i), set()).add(need)
    position = [0, 0]
    for _, _, side, _, need, payload, _ in recorder.named("data"):
        assert need in acks[side, position[side]]
        position[side] += len(payload)


@given(st.data())
def test_joined(data: st.DataObject) -> None:
    """From the middle on, reordered: everything from the first byte of each side on."""
    talk = data.draw(talks(handshake=False, closes=False, quick=True))
    segments = data.draw(reordered(data.draw(doubled(talk.segments)), 4))
    carrying = [s for s in segments if s.payload]
    assume(carrying and len(talk.segments) > 1)
    recorder = same(segments)
    for call in recorder.named("open"):
        assert not call[5]
    assert len(recorder.ended) == 1
    assert not recorder.named("gap")
    client_is_a = recorder.opens()[0][0] == talk.client
    for side in (0, 1):
        sent = [s for s in talk.segments if s.payload and (s.src == talk.client[0]) == (side == 0)]
        if sent:
            first = (sent[0].seq - talk.isn[side] - 1) % 2**32
            found = recorder.stream(side if client_is_a else 1 - side)
            assert bytes(talk.streams[side]).endswith(found)
            assert len(found) >= len(talk.streams[side]) - first


def placed(recorder: Recorder, talk: Talk, base: tuple[int, int] = (0, 0)) -> None:
    """Every delivered byte is at its true place, and no stream is longer than the truth."""
    position = list(base)
    for call in recorder.calls:
        if call[0] == "data":
            side, payload = call[2], call[5]
            truth = bytes(talk.streams[side][position[side] : position[side] + len(payload)])
            assert payload == truth
            position[side] += len(payload)
        elif call[0] == "gap":
            position[call[2]] += call[4]
    for side in (0, 1):
        assert position[side] <= len(talk.streams[side]) + 1


@given(st.data())
def test_lost_but_never_at_a_wrong_place(data: st.DataObject) -> None:
    talk = data.draw(talks(handshake=True))
    segments = data.draw(lossy(talk.segments, keep=2))
    assume(segments and segments[0].flags & SYN)
    if data.draw(st.booleans()):
        segments = segments[:2] + data.draw(reordered(segments[2:], 3))
    recorder = same(segments)
    assume(len(recorder.ended) == 1)
    started = {s.src for s in segments if s.flags & SYN}
    if started == {talk.client[0], talk.server[0]}:
        placed(recorder, talk)


@given(st.data())
def test_cut_but_never_at_a_wrong_place(data: st.DataObject) -> None:
    talk = data.draw(talks(handshake=True))
    segments = data.draw(cut(talk.segments))
    segments = segments[:2] + data.draw(reordered(data.draw(doubled(segments[2:]))))
    recorder = same(segments)
    placed(recorder, talk)


@given(captures(), st.sampled_from([None, SMALL]))
def test_any_capture_is_the_same_in_both_engines(mangled: Mangled, limits: Limits | None) -> None:
    same(mangled.segments, limits)


@given(st.lists(garbage(), max_size=80), st.sampled_from([None, SMALL]))
def test_garbage_stays_within_limits(segments: list[Segment], limits: Limits | None) -> None:
    same(segments, limits)
    limits = limits or Limits()
    reassembler = Reassembler(Recorder(), limits)
    for segment in segments:
        reassembler.segment(segment)
        assert reassembler._cost <= limits.total_buffer
        assert len(reassembler._connections) <= limits.connections
        assert len(reassembler._tombstones) <= limits.tombstones


@pytest.mark.skipif(NATIVE is None, reason="the native engine was not built")
@given(talks(), st.integers(0, 3), st.data())
def test_long_conversations(talk: Talk, losses: int, data: st.DataObject) -> None:
    """Enough packets behind each hole that all its rules get their turn."""
    for i in range(300):
        talk.send(i % 2, b"%03d" % i)
        if i % 7 == 0:
            talk.ack(i % 2)
    segments = list(talk.segments)
    for _ in range(losses):
        first = data.draw(st.integers(0, len(segments)))
        del segments[first : first + data.draw(st.integers(1, 9))]
    same(data.draw(st.sampled_from([segments, [s for s in segments if s.src == talk.client[0]]])))


def test_eviction_spares_who_is_at_work() -> None:
    """A flood of SYNs takes its share of the table, and not the connections that were answered."""
    live = [Talk(client=(CLIENT[0], port)).handshake() for port in range(5)]
    flood = [Talk(client=(CLIENT[0], 1000 + port)).handshake().segments[:1] for port in range(50)]
    segments = [s for talk in live for s in talk.send(0, b"up").send(1, b"down").segments]
    segments += [s for syn in flood for s in syn]
    recorder = same(segments, Limits(connections=8))
    assert [*recorder.ended.values()].count("evicted") == 47
    assert [recorder.ended[conn] for conn in range(5)] == ["eof"] * 5
    assert [c[1] for c in recorder.named("end")][:3] == [5, 6, 7]


def test_new_connections_have_their_chance_in_a_full_table() -> None:
    old = [Talk(client=(CLIENT[0], port)).handshake() for port in range(8)]
    new = [Talk(client=(CLIENT[0], 1000 + port)).handshake() for port in range(2)]
    segments = [s for talk in old for s in talk.send(0, b"up").send(1, b"down").segments]
    segments += [s for pair in zip(*(talk.segments for talk in new), strict=True) for s in pair]
    data = [talk.send(0, b"up").send(1, b"down").segments[-2:] for talk in new]
    segments += [s for pair in zip(*data, strict=True) for s in pair]
    recorder = same(segments, Limits(connections=8))
    assert [recorder.ended[conn] for conn in (8, 9)] == ["eof"] * 2
    assert [c[1] for c in recorder.named("end")][:2] == [0, 1]


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 5)), max_size=300), st.integers(1, 9))
def test_evictions_are_the_same_in_both_engines(steps: list[tuple[int, int]], limit: int) -> None:
    """Of many connections one after another says something, some of them nothing but a SYN."""
    many = [Talk(client=(CLIENT[0], port)) for port in range(41)]
    segments: list[Segment] = []
    for port, what in steps:
        talk = many[port]
        if what == 0 or not talk.segments:
            talk.segments += Talk(client=talk.client).handshake().segments[:1]
        elif what == 1:
            talk.ack(0)
        else:
            talk.send(what % 2, b"text")
        segments.append(talk.segments[-1]._replace(ts_ns=len(segments)))
    same(segments, Limits(connections=limit))
