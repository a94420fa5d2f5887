"""Time without packets: what an idle line of a live capture gives, in both engines."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from tests.flow.conversations import Mangled, captures, reordered, talks
from tests.flow.model import CLIENT, SERVER, Recorder, reassemble
from tests.flow.test_properties import NATIVE
from zktrace.capture.segment import ACK, FIN, PSH, SYN, Segment
from zktrace.flow import Reassembler

SECOND = 1_000_000_000

Tick = tuple[int, int]
"""How many segments come before it, and its time."""


def ticked(segments: list[Segment], ticks: list[Tick]) -> Recorder:
    """The Python engine's calls, after the native one made the same."""
    recorder = Recorder()
    reassembler = Reassembler(recorder)
    left = list(ticks)
    for index, segment in enumerate(segments):
        while left and left[0][0] <= index:
            reassembler.tick(left.pop(0)[1])
        reassembler.segment(segment)
    for _, now_ns in left:
        reassembler.tick(now_ns)
    before_end = len(recorder.calls)
    reassembler.finish()
    if NATIVE is not None:
        calls, counts = NATIVE(segments, ticks=ticks)
        assert calls == recorder.calls
        assert counts == dataclasses.asdict(reassembler.counters)
    recorder.calls = recorder.calls[:before_end]
    return recorder


def seg(ts_ns: int, side: int, seq: int, ack: int, flags: int, payload: bytes = b"") -> Segment:
    (src, sport), (dst, dport) = (CLIENT, SERVER) if side == 0 else (SERVER, CLIENT)
    return Segment(ts_ns, src, dst, sport, dport, seq, ack, flags, payload, len(payload))


HANDSHAKE = [
    seg(0, 0, 99, 0, SYN),
    seg(1, 1, 499, 100, SYN | ACK),
    seg(2, 0, 100, 500, ACK),
]


def test_a_joined_stream_starts() -> None:
    first = seg(0, 0, 100, 500, ACK | PSH, b"request")
    assert not ticked([first], [(1, SECOND - 1)]).named("data")
    assert ticked([first], [(1, SECOND)]).stream(0) == b"request"


def test_a_closed_connection_ends() -> None:
    closed = [*HANDSHAKE, seg(3, 0, 100, 500, FIN | ACK), seg(4, 1, 500, 101, FIN | ACK)]
    assert not ticked(closed, [(5, SECOND + 3)]).named("end")
    assert ticked(closed, [(5, SECOND + 4)]).named("end") == [("end", 0, 4, "closed")]


def test_a_hole_is_declared() -> None:
    """When enough packets came before, the time is all that was missing."""
    lost = [seg(n, 1, 500, 150, ACK) for n in range(10, 15)]
    later = seg(15, 0, 150, 500, ACK | PSH, b"next")
    segments = [*HANDSHAKE, *lost, later]
    assert not ticked(segments, [(9, SECOND)]).named("gap")
    recorder = ticked(segments, [(9, SECOND + 10)])
    assert [call[4] for call in recorder.named("gap")] == [50]
    assert recorder.stream(0)[-4:] == b"next"


def test_time_may_stand_still_or_go_back() -> None:
    assert ticked(HANDSHAKE, [(0, 5), (1, -7), (3, 0)]).named("open")


@given(st.data())
def test_a_tick_at_the_time_of_a_packet_adds_nothing(data: st.DataObject) -> None:
    talk = data.draw(talks(handshake=data.draw(st.booleans()), quick=True))
    segments = data.draw(reordered(talk.segments, 3))
    ticks: list[Tick] = []
    clock = -(1 << 62)
    for index, segment in enumerate(segments, 1):
        clock = max(clock, segment.ts_ns)
        if data.draw(st.booleans()):
            ticks.append((index, clock))
    calls = ticked(segments, ticks).calls
    assert calls == reassemble(segments)[0].calls[: len(calls)]


@given(captures(), st.data())
def test_both_engines_on_anything(capture: Mangled, data: st.DataObject) -> None:
    segments = capture.segments
    times = st.integers(-(1 << 40), 1 << 40) | st.sampled_from([s.ts_ns for s in segments] or [0])
    places = st.integers(0, len(segments))
    ticks = sorted(data.draw(st.lists(st.tuples(places, times), max_size=20)), key=lambda t: t[0])
    ticked(segments, ticks)
