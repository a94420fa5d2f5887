"""Reassembly, case by case."""

from __future__ import annotations

import pytest

from tests.flow.model import CLIENT, MS, SERVER, Recorder, Talk, reassemble
from zktrace.capture.segment import ACK, FIN, RST, SYN, Segment
from zktrace.flow import Limits, Reassembler


def talked() -> Talk:
    return Talk().handshake().send(0, b"request").send(1, b"reply!")


def test_conversation() -> None:
    talk = talked().close()
    recorder, counters = reassemble(talk.segments)
    t = [s.ts_ns for s in talk.segments]
    assert recorder.calls == [
        ("open", 0, t[0], CLIENT, SERVER, True),
        ("data", 0, 0, t[3], 0, b"request", False),
        ("data", 0, 1, t[4], 7, b"reply!", False),
        ("end", 0, t[6], "closed"),
    ]
    assert counters.connections == 1
    assert counters.joined_connections == 0


def test_need_does_not_count_the_fin() -> None:
    talk = Talk().handshake().send(0, b"request").fin(0).send(1, b"reply!")
    recorder, _ = reassemble(talk.segments)
    assert recorder.named("data")[1][4] == 7


@pytest.mark.parametrize("isn", [2**32 - 1, 2**32 - 2, 2**32 - 8, 0, 2**31 - 5])
def test_wrap(isn: int) -> None:
    talk = Talk(isn=(isn, isn)).handshake()
    for _ in range(4):
        talk.send(0, b"request").send(1, b"reply!")
    recorder, counters = reassemble(talk.close().segments)
    assert recorder.stream(0) == b"request" * 4
    assert recorder.stream(1) == b"reply!" * 4
    assert [c[4] for c in recorder.named("data")] == [0, 7, 6, 14, 12, 21, 18, 28]
    assert counters.retransmitted_segments == 0


def test_swapped_neighbours() -> None:
    talk = talked().send(0, b"abc").send(0, b"def")
    talk.segments[-1], talk.segments[-2] = talk.segments[-2], talk.segments[-1]
    recorder, counters = reassemble(talk.segments)
    assert recorder.stream(0) == b"requestabcdef"
    data = recorder.named("data")
    assert (data[2][3], data[3][3]) == (talk.segments[-1].ts_ns, talk.segments[-2].ts_ns)
    assert counters.out_of_order_segments == 1


def test_reply_before_its_request_says_what_it_needs() -> None:
    talk = talked()
    talk.segments[3], talk.segments[4] = talk.segments[4], talk.segments[3]
    recorder, counters = reassemble(talk.segments)
    assert [c[2:6] for c in recorder.named("data")] == [
        (1, talk.segments[3].ts_ns, 7, b"reply!"),
        (0, talk.segments[4].ts_ns, 0, b"request"),
    ]
    assert counters.gaps == 0


def test_syn_ack_before_syn() -> None:
    talk = talked()
    talk.segments[0], talk.segments[1] = talk.segments[1], talk.segments[0]
    recorder, _ = reassemble(talk.segments)
    assert recorder.opens() == [(CLIENT, SERVER, True)]
    assert recorder.stream(0) == b"request"


def test_data_before_syn() -> None:
    talk = talked()
    talk.segments.insert(0, talk.segments.pop(3))
    recorder, _ = reassemble(talk.segments)
    assert recorder.opens() == [(CLIENT, SERVER, False)]
    assert recorder.stream(0) == b"request"
    assert recorder.stream(1) == b"reply!"


def test_everything_twice() -> None:
    talk = talked().close()
    recorder, counters = reassemble([s for s in talk.segments for _ in (0, 1)])
    assert recorder.stream(0) == b"request"
    assert recorder.stream(1) == b"reply!"
    assert counters.connections == 1
    assert (counters.duplicate_packets, counters.retransmitted_segments) == (2, 0)


def test_first_copy_wins() -> None:
    talk = talked()
    talk.raw(0, 9, b"CD")
    talk.raw(0, 7, b"abcdef")
    talk.raw(0, 10, b"xyz")
    recorder, counters = reassemble(talk.segments)
    assert recorder.stream(0) == b"requestabCDef"
    assert counters.retransmitted_segments == 1


def test_partial_retransmission() -> None:
    talk = talked()
    talk.raw(0, 3, b"uestmore")
    recorder, _ = reassemble(talk.segments)
    assert recorder.stream(0) == b"requestmore"


@pytest.mark.parametrize("payload", [b"", b"\0"])
def test_keep_alive(payload: bytes) -> None:
    talk = talked()
    talk.raw(0, 6, payload)
    recorder, counters = reassemble(talk.send(0, b"x").segments)
    assert recorder.stream(0) == b"requestx"
    assert (counters.keepalives, counters.retransmitted_segments) == (1, 0)


def test_zero_window_probe() -> None:
    talk = talked()
    talk.raw(0, 7, b"a")
    recorder, _ = reassemble(talk.send(0, b"abc").segments)
    assert recorder.stream(0) == b"requestabc"


def test_syn_with_data_and_its_retransmission() -> None:
    talk = Talk()
    talk.raw(0, -1, b"early", flags=SYN)
    talk.raw(0, -1, b"early", flags=SYN)
    talk.raw(1, -1, flags=SYN | ACK, ack=5)
    talk.raw(0, 5, b"late", ack=0)
    recorder, counters = reassemble(talk.segments)
    assert recorder.stream(0) == b"earlylate"
    assert counters.connections == 1


def test_gap_after_64_packets() -> None:
    talk = talked().send(0, b"lost").lose().send(0, b"there").ack(1, 63)
    reassembler = Reassembler(recorder := Recorder())
    for segment in talk.segments:
        reassembler.segment(segment)
    assert not recorder.named("gap")
    reassembler.segment(talk.ack(1).segments[-1])
    assert recorder.named("gap") == [("gap", 0, 0, talk.segments[5].ts_ns, 4)]
    assert recorder.stream(0) == b"request" + bytes(4) + b"there"
    assert reassembler.counters.gap_bytes == 4


def test_gap_after_a_second_and_4_packets() -> None:
    talk = talked().send(0, b"lost").lose().send(0, b"there").ack(1, 3)
    talk.ts += 2000 * MS
    talk.ack(1)
    reassembler = Reassembler(recorder := Recorder())
    for segment in talk.segments[:-1]:
        reassembler.segment(segment)
    assert not recorder.named("gap")
    reassembler.segment(talk.segments[-1])
    assert len(recorder.named("gap")) == 1


def test_not_acknowledged_is_not_lost() -> None:
    talk = talked().send(0, b"late")
    late = talk.segments.pop()
    talk.send(0, b"there")
    for _ in range(100):
        talk.ts += 100 * MS
        talk.raw(1, 6, ack=7)
    talk.segments.append(late)
    recorder, counters = reassemble(talk.segments)
    assert recorder.stream(0) == b"requestlatethere"
    assert counters.gaps == 0


def test_gap_by_acknowledgement_alone() -> None:
    talk = talked().send(0, b"lost").lose().ack(1, 65)
    recorder, counters = reassemble(talk.send(0, b"x").segments)
    assert [c[4] for c in recorder.named("gap")] == [4]
    assert recorder.stream(0) == b"request" + bytes(4) + b"x"
    assert counters.gaps == 1


def test_fin_that_was_not_captured_is_no_gap() -> None:
    talk = talked().fin(0).lose().ack(1, 200).send(1, b"bye")
    recorder, counters = reassemble(talk.segments)
    assert counters.gaps == 0
    assert recorder.stream(1) == b"reply!bye"


def test_absurd_acknowledgement() -> None:
    talk = talked()
    talk.raw(1, 6, ack=1 << 27)
    for _ in range(200):
        talk.ack(1)
    recorder, counters = reassemble(talk.segments)
    assert counters.gaps == 0
    assert recorder.stream(0) == b"request"


def test_acknowledgement_that_goes_backwards() -> None:
    talk = talked().send(0, b"lost").lose().ack(1)
    for _ in range(70):
        talk.raw(1, 6, ack=0)
    recorder, _ = reassemble(talk.segments)
    assert [c[4] for c in recorder.named("gap")] == [4]


def test_gap_before_fin_at_the_end() -> None:
    talk = talked().send(0, b"lost").lose().fin(0)
    recorder, _ = reassemble(talk.segments)
    assert [c[4] for c in recorder.named("gap")] == [4]


def test_one_direction_only() -> None:
    talk = Talk().handshake()
    for i in range(100):
        talk.send(0, b"%02d" % i)
        talk.ts += 40 * MS
    segments = [s for s in talk.segments if s.src == CLIENT[0]]
    del segments[12]
    recorder, counters = reassemble(segments)
    assert counters.gaps == 1
    want = b"".join(b"%02d" % i for i in range(100))
    assert recorder.stream(0) == want[:20] + bytes(2) + want[22:]
    # declared while packets were coming, not at the end
    assert recorder.calls.index(recorder.named("gap")[0]) < len(recorder.calls) - 3


def test_cut_by_snap_length() -> None:
    talk = talked().send(0, b"abcdef", captured=2).send(0, b"ghi", captured=0).send(0, b"jk")
    recorder, counters = reassemble(talk.segments)
    assert recorder.stream(0) == b"requestab" + bytes(4) + bytes(3) + b"jk"
    assert counters.gaps == 2


def test_cut_is_filled_by_another_copy() -> None:
    talk = talked().send(0, b"first").send(0, b"abcdef", captured=2)
    first = talk.segments.pop(-2)
    talk.raw(0, 12, b"abcdef")
    talk.segments.append(first)
    recorder, counters = reassemble(talk.segments)
    assert recorder.stream(0) == b"requestfirstabcdef"
    assert counters.gaps == 0


def test_joined_mid_stream_and_reordered() -> None:
    talk = Talk(sent=[1000, 2000])
    for text in (b"one", b"two", b"three"):
        talk.send(0, text).send(1, text.upper())
    s = talk.segments
    recorder, counters = reassemble([s[2], s[0], s[1], s[5], s[4], s[3]])
    assert recorder.opens() == [(CLIENT, SERVER, False)]
    assert recorder.stream(0) == b"onetwothree"
    assert recorder.stream(1) == b"ONETWOTHREE"
    assert (counters.joined_connections, counters.gaps) == (1, 0)
    assert [c[4] for c in recorder.named("data") if c[2] == 1] == [3, 6, 11]


def test_joined_starts_after_16_packets() -> None:
    talk = Talk().send(0, b"x").ack(1, 15)
    reassembler = Reassembler(recorder := Recorder())
    for segment in talk.segments:
        reassembler.segment(segment)
    assert not recorder.named("data")
    reassembler.segment(talk.ack(1).segments[-1])
    assert recorder.stream(0) == b"x"


def test_joined_starts_after_a_second() -> None:
    talk = Talk(step=600 * MS).send(0, b"x").ack(1)
    reassembler = Reassembler(recorder := Recorder())
    for segment in talk.segments:
        reassembler.segment(segment)
    assert not recorder.named("data")
    reassembler.segment(talk.ack(1).segments[-1])
    assert recorder.stream(0) == b"x"


def test_syn_ack_lost_and_first_reply_too() -> None:
    talk = Talk().handshake()
    del talk.segments[1]
    talk.send(0, b"q").send(1, b"lost").lose().send(1, b"there")
    recorder, _ = reassemble(talk.segments)
    assert recorder.stream(1) == bytes(4) + b"there"


def test_port_reuse() -> None:
    first = talked()
    second = Talk(isn=(70_000, 90_000), ts=first.ts)
    second.handshake().send(0, b"again")
    recorder, _ = reassemble(first.segments + second.close().segments)
    assert recorder.ended == {0: "reused", 1: "closed"}
    assert recorder.stream(0, 1) == b"again"


def test_port_reuse_with_lost_syn() -> None:
    first = talked()
    second = Talk(isn=(1 << 30, 1 << 29), ts=first.ts).send(0, b"again").send(1, b"yes")
    recorder, _ = reassemble(first.segments + second.segments)
    assert recorder.ended[0] == "reused"
    assert [o[2] for o in recorder.opens()] == [True, False]
    assert (recorder.stream(0, 1), recorder.stream(1, 1)) == (b"again", b"yes")


def test_roles_swap_on_the_same_ports() -> None:
    first = talked()
    second = Talk(SERVER, CLIENT, isn=(5, 6), ts=first.ts).handshake().send(0, b"back")
    recorder, _ = reassemble(first.segments + second.segments)
    assert [o[:2] for o in recorder.opens()] == [(CLIENT, SERVER), (SERVER, CLIENT)]
    assert recorder.stream(0, 1) == b"back"


def test_half_close() -> None:
    talk = Talk().handshake().send(0, b"ruok").fin(0).ack(1)
    talk.ts += 5000 * MS
    recorder, _ = reassemble(talk.send(1, b"imok").fin(1).ack(0).segments)
    assert recorder.stream(1) == b"imok"
    assert recorder.ended == {0: "closed"}


def test_reset_and_its_text() -> None:
    recorder, counters = reassemble(talked().rst(1, b"no such process").segments)
    assert recorder.ended == {0: "reset"}
    assert recorder.stream(1) == b"reply!"
    assert counters.gaps == 0


def test_refused() -> None:
    talk = Talk()
    talk.raw(0, -1, flags=SYN)
    talk.isn = (1_000, -1)
    talk.raw(1, 0, flags=RST | ACK)
    recorder, _ = reassemble(talk.segments)
    assert recorder.ended == {0: "reset"}


def test_forged_reset() -> None:
    talk = talked()
    talk.raw(1, 1 << 30, flags=RST)
    recorder, counters = reassemble(talk.send(1, b"x").segments)
    assert recorder.ended == {0: "eof"}
    assert counters.stray_segments == 1


def test_data_swapped_with_both_fins() -> None:
    talk = talked().send(0, b"last")
    last = talk.segments.pop()
    talk.close()
    recorder, counters = reassemble([*talk.segments, last])
    assert recorder.stream(0) == b"requestlast"
    assert recorder.ended == {0: "closed"}
    assert counters.gaps == 0


def test_closed_ends_after_a_second_and_late_packets_are_strays() -> None:
    talk = talked().close()
    other = Talk(client=(CLIENT[0], 5), ts=talk.ts + 999 * MS).handshake()
    reassembler = Reassembler(recorder := Recorder())
    for segment in talk.segments + other.segments:
        reassembler.segment(segment)
    assert recorder.ended == {0: "closed"}
    reassembler.segment(talk.segments[3])
    reassembler.segment(talk.segments[0])
    reassembler.segment(talk.segments[1])
    reassembler.segment(talk.segments[2])
    assert reassembler.counters.connections == 2
    assert reassembler.counters.stray_segments == 4


def test_reset_that_was_not_accepted() -> None:
    talk = talked().rst(0)
    for i in range(200):
        talk.send(0, b"%03d" % i)
    recorder, counters = reassemble(talk.segments)
    assert counters.connections == 2
    assert counters.stray_segments == 64
    assert recorder.stream(0, 1).endswith(b"197198199")


def test_strays() -> None:
    talk = Talk()
    talk.raw(0, 0)
    talk.raw(0, 0, flags=FIN | ACK)
    talk.raw(0, 0, b"text", flags=RST)
    recorder, counters = reassemble(talk.segments)
    assert not recorder.calls
    assert counters.stray_segments == 3


def test_eviction_takes_the_longest_silent() -> None:
    talks = [Talk(client=(CLIENT[0], port)).handshake() for port in range(4)]
    segments = [s for t in talks[:3] for s in t.segments]
    segments += [*talks[0].ack(0).segments[-1:], *talks[3].segments]
    recorder, counters = reassemble(segments, Limits(connections=3))
    assert recorder.ended[1] == "evicted"
    assert counters.evicted_connections == 1
    assert [c[1] for c in recorder.named("end")] == [1, 0, 2, 3]


def test_side_buffer_limit() -> None:
    talk = talked().send(0, b"lost").lose()
    for _ in range(20):
        talk.send(0, bytes(range(1, 201)))
    recorder, counters = reassemble(talk.segments, Limits(side_buffer=1000))
    assert counters.buffer_limit_hits == 1
    assert recorder.stream(0) == b"request" + bytes(4) + bytes(range(1, 201)) * 20


def test_total_buffer_limit() -> None:
    segments: list[Segment] = []
    for port in range(10):
        talk = Talk(client=(CLIENT[0], port)).handshake().send(0, b"lost").lose()
        segments += talk.send(0, b"0123456789" * 10).segments
    _, counters = reassemble(segments, Limits(total_buffer=1000))
    assert counters.buffer_limit_hits == 6


def test_ipv6_and_same_ports() -> None:
    a, b = (bytes(15) + b"\1", 2888), (bytes(15) + b"\2", 2888)
    talk = Talk(b, a).handshake().send(0, b"up").send(1, b"down")
    recorder, _ = reassemble(talk.segments)
    assert recorder.opens() == [(b, a, True)]
    assert (recorder.stream(0), recorder.stream(1)) == (b"up", b"down")


def late(segments: list[Segment]) -> list[bytes]:
    """What was delivered as perhaps sent before."""
    return [call[5] for call in reassemble(segments)[0].named("data") if call[6]]


def numbered(talk: Talk, lost: int = -1) -> list[Segment]:
    """The packets of a talk with a count per sender, as Linux', without one of them."""
    count = {CLIENT: 500, SERVER: 40_000}
    out = []
    for at, segment in enumerate(talk.segments):
        sender = segment.src, segment.sport
        count[sender] += 1
        if at != lost:
            out.append(segment._replace(ident=count[sender]))
    return out


def test_a_hole_filled_behind_later_data_is_late() -> None:
    talk = talked().send(0, b"lost").lose().send(0, b"next")
    talk.raw(0, 7, b"lost")
    assert late(talk.segments) == [b"lost"]


def test_a_hole_filled_behind_its_acknowledgement_is_late() -> None:
    talk = talked().send(0, b"lost").lose().ack(1)
    talk.raw(0, 7, b"lost")
    assert late(talk.segments) == [b"lost"]


def test_a_hole_filled_behind_an_empty_acknowledgement_of_its_sender_is_late() -> None:
    talk = talked().send(0, b"lost").lose().ack(0)
    talk.raw(0, 7, b"lost")
    assert late(talk.segments) == [b"lost"]


def test_swapped_packets_with_their_times_are_not_late() -> None:
    talk = talked().send(0, b"one").send(0, b"two").ack(1)
    segments = talk.segments
    assert late([*segments[:5], segments[7], segments[6], segments[5]]) == []


def test_joined_behind_an_acknowledgement_is_late() -> None:
    talk = talked()
    del talk.segments[:4]
    talk.raw(0, 0, b"request")
    talk.send(0, b"more")
    assert late(talk.segments) == [b"request"]


def test_a_tail_loss_probe_whose_original_is_missing_by_number_is_late() -> None:
    """Nobody has spoken in between: only the number tells."""
    talk = talked().send(0, b"last")
    talk.ts += 210 * MS
    talk.raw(0, 7, b"last")
    talk.send(0, b"more")
    assert late(numbered(talk)) == []
    assert late(numbered(talk, lost=5)) == [b"last"]
    assert late([s._replace(ident=0) for s in numbered(talk, lost=5)]) == []


def test_a_missing_number_right_before_is_no_retransmission() -> None:
    talk = Talk(step=MS // 4).handshake().send(0, b"one").ack(0).send(0, b"two")
    assert late(numbered(talk, lost=4)) == []


def test_a_segment_that_was_alone_on_its_way_is_not_sent_again_soon() -> None:
    """But where one before it is not acknowledged, a probe comes after two round trips."""
    talk = talked().ack(0)
    talk.ts += 20 * MS
    talk.send(0, b"next")
    assert late(numbered(talk, lost=5)) == []
    talk = talked().send(0, b"first").send(0, b"last")
    talk.ts += 20 * MS
    talk.raw(0, 12, b"last")
    assert late(numbered(talk, lost=6)) == [b"last"]


def test_a_missing_number_that_an_owed_acknowledgement_explains() -> None:
    """The reply was acknowledged long before the next request."""
    talk = talked().ack(0)
    talk.ts += 600 * MS
    talk.send(0, b"next")
    assert late(numbered(talk, lost=5)) == []
    talk = talked().ack(0)
    talk.ts += 300 * MS
    talk.send(0, b"next")
    assert late(numbered(talk, lost=5)) == [b"next"]


def test_a_missing_number_that_a_hole_explains() -> None:
    talk = talked().send(0, b"lost")
    talk.ts += 300 * MS
    talk.send(0, b"next").send(0, b"more")
    assert late(numbered(talk, lost=5)) == []


def test_a_missing_number_that_an_empty_acknowledgement_settles() -> None:
    talk = talked().ack(0)
    talk.ts += 300 * MS
    talk.ack(0).send(0, b"next")
    assert late(numbered(talk, lost=5)) == []


def test_reordered_by_the_network_is_told_by_the_number() -> None:
    talk = talked().send(0, b"one").send(0, b"two").send(0, b"more")
    segments = numbered(talk)
    one, two = segments[5:7]
    segments[5:7] = [two._replace(ts_ns=one.ts_ns), one._replace(ts_ns=two.ts_ns)]
    assert late(segments) == []
    assert late([s._replace(ident=0) for s in segments]) == [b"one"]


@pytest.mark.parametrize("step", [7, 977])
def test_numbers_of_a_host_that_does_not_count_per_connection(step: int) -> None:
    """A few are believed, then none."""
    talk = Talk(step=5 * MS).handshake()
    for n in range(100):
        talk.send(0, b"%03d" % n).send(1, b"yes")
    segments = [s._replace(ident=n * step % 65_535 + 1) for n, s in enumerate(talk.segments)]
    assert len(late(segments)) < 30


def test_one_number_for_all() -> None:
    talk = Talk(step=5 * MS).handshake()
    for n in range(10):
        talk.send(0, b"%03d" % n).send(1, b"yes")
    talk.raw(0, 0, b"000")
    segments = [s._replace(ident=1) for s in talk.segments]
    _, counters = reassemble(segments)
    assert (counters.late_segments, counters.retransmitted_segments) == (0, 1)


def test_captured_twice_or_sent_twice() -> None:
    talk = talked()
    first = numbered(talk)
    again = first[3]._replace(ts_ns=talk.ts)
    _, counters = reassemble([*first, again])
    assert (counters.duplicate_packets, counters.retransmitted_segments) == (1, 0)
    _, counters = reassemble([*first, again._replace(ident=again.ident + 1)])
    assert (counters.duplicate_packets, counters.retransmitted_segments) == (0, 1)


def test_the_earliest_of_copies_that_wait_counts() -> None:
    talk = talked().send(0, b"hole").send(0, b"wait")
    *rest, hole, waits = talk.segments
    earlier = waits._replace(ts_ns=waits.ts_ns - 5)
    recorder, _ = reassemble([*rest, waits, earlier, hole])
    assert [(c[3], c[5], c[6]) for c in recorder.named("data")][-1] == (
        earlier.ts_ns,
        b"wait",
        False,
    )
