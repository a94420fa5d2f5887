"""Random TCP conversations as hypothesis strategies, and what a capture does to them.

`Talk` writes a conversation that knows its true streams; the functions here mangle its packets the
way captures are mangled: duplicates, swaps within a window, losses, cuts, a late start.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from tests.flow.model import CLIENT, MS, SERVER, Talk
from zktrace.capture.segment import ACK, FIN, RST, SYN, Segment

ISN = st.one_of(
    st.integers(0, 2**32 - 1),
    st.integers(2**32 - 200, 2**32 - 1),
    st.integers(2**31 - 200, 2**31 + 200),
)


def text(side: int, off: int, n: int) -> bytes:
    """The true bytes of a stream: any delivered byte tells where it belongs."""
    return bytes((side * 131 + (off + i) * 7 + (off + i) // 251) % 255 + 1 for i in range(n))


@st.composite
def talks(
    draw: st.DrawFn,
    *,
    handshake: bool | None = None,
    port: int = CLIENT[1],
    ts: int = 10**18,
    closes: bool = True,
    most: int = 60,
    quick: bool = False,
) -> Talk:
    """A conversation: requests, replies, acknowledgements, probes, retransmissions, an end.
    A `quick` one has no pauses that reordering could move a packet over."""
    talk = Talk(
        client=(CLIENT[0], port),
        isn=(draw(ISN), draw(ISN)),
        ts=ts,
        step=draw(st.sampled_from([0, MS // 50, MS, 20 * MS, 400 * MS][: -1 if quick else None])),
    )
    if draw(st.booleans()) if handshake is None else handshake:
        talk.handshake()
    else:
        talk.sent[:] = [draw(st.integers(0, 5_000)), draw(st.integers(0, 5_000))]
        for side in (0, 1):
            talk.streams[side].extend(text(side, 0, talk.sent[side]))
    moves = st.tuples(
        st.integers(0, 1),
        st.sampled_from(["send"] * 8 + ["ack"] * 3 + ["alive", "again", "overlap", "both", "wait"]),
        st.integers(1, 40),
    )
    for side, move, n in draw(st.lists(moves, max_size=most)):
        sent = talk.sent[side]
        if move == "send":
            talk.send(side, text(side, sent, n))
        elif move == "both":
            # Crossing: neither side has seen the other's bytes.
            other = 1 - side
            acked = talk.sent[:]
            for who in (side, other):
                data = text(who, acked[who], n)
                talk.raw(who, acked[who], data, ack=acked[1 - who])
                talk.sent[who] += n
                talk.streams[who].extend(data)
        elif move == "ack":
            talk.ack(side)
        elif move == "alive":
            # A keep-alive may carry a wrong byte (RFC 1122, 4.2.3.6), but hours after the true one.
            talk.raw(side, sent - 1, text(side, sent - 1, n % 2) if sent else b"")
        elif move == "again":
            first = max(0, sent - n)
            talk.raw(side, first, text(side, first, sent - first))
        elif move == "overlap":
            first = max(0, sent - n)
            data = text(side, first, sent - first + n)
            talk.raw(side, first, data)
            talk.streams[side].extend(data[sent - first :])
            talk.sent[side] += n
        elif not quick:
            talk.ts += n * 100 * MS
    if closes:
        end = draw(st.sampled_from(["none", "close", "half", "reset"]))
        if end == "close":
            talk.close()
        elif end == "half":
            talk.fin(0).send(1, text(1, talk.sent[1], 9)).fin(1).ack(0)
        elif end == "reset":
            talk.rst(draw(st.integers(0, 1)))
    return talk


@st.composite
def reordered(draw: st.DrawFn, segments: list[Segment], distance: int = 6) -> list[Segment]:
    """No packet moves by more than `distance` places."""
    keys = [
        i + draw(st.integers(0, distance)) if draw(st.integers(0, 3)) == 0 else i
        for i in range(len(segments))
    ]
    return [segments[i] for i in sorted(range(len(segments)), key=lambda i: (keys[i], i))]


@st.composite
def doubled(draw: st.DrawFn, segments: list[Segment]) -> list[Segment]:
    """Some packets come again, a little later."""
    out: list[Segment] = []
    for segment in segments:
        out.append(segment)
        if draw(st.integers(0, 4)) == 0:
            out.append(segment._replace(ts_ns=segment.ts_ns + 5))
    return out


@st.composite
def lossy(draw: st.DrawFn, segments: list[Segment], *, keep: int = 0) -> list[Segment]:
    """Some packets were not captured; single ones, a run of them, or one direction."""
    kind = draw(st.sampled_from(["single", "single", "run", "direction"]))
    head, tail = segments[:keep], segments[keep:]
    if kind == "single":
        return head + [s for s in tail if draw(st.integers(0, 7)) != 0]
    if kind == "run":
        first = draw(st.integers(0, len(tail)))
        return head + tail[:first] + tail[first + draw(st.integers(0, 30)) :]
    return [s for s in segments if s.src == draw(st.sampled_from([CLIENT[0], SERVER[0]]))]


@st.composite
def cut(draw: st.DrawFn, segments: list[Segment]) -> list[Segment]:
    """A snap length."""
    snap = draw(st.sampled_from([0, 5, 20]))
    return [s._replace(payload=s.payload[:snap]) for s in segments]


@dataclass
class Mangled:
    talks: list[Talk]
    segments: list[Segment]


@st.composite
def captures(draw: st.DrawFn) -> Mangled:
    """Anything that captures do, all at once: several connections, ports that are used again."""
    ports = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    parts: list[list[Segment]] = []
    written: list[Talk] = []
    ts = 10**18
    for port in ports:
        talk = draw(talks(port=port, ts=ts, most=30))
        ts = talk.ts if draw(st.booleans()) else ts
        written.append(talk)
        parts.append(talk.segments)
    if draw(st.booleans()):
        # At the same time.
        order = [i for i, part in enumerate(parts) for _ in part]
        iterators = [iter(part) for part in parts]
        segments = [next(iterators[i]) for i in draw(st.permutations(order))]
    else:
        segments = [segment for part in parts for segment in part]
    for mangle in (doubled, reordered, lossy, cut):
        if draw(st.booleans()):
            segments = draw(mangle(segments))
    extra = draw(st.lists(st.tuples(st.integers(0, 400), garbage()), max_size=4))
    for place, segment in extra:
        segments.insert(place, segment)
    return Mangled(written, segments)


@st.composite
def garbage(draw: st.DrawFn) -> Segment:
    """A segment that nobody sent, on few endpoints, near interesting numbers."""
    number = st.one_of(
        st.sampled_from([0, 1, 100, 2**26, 2**26 + 101, 2**31, 2**32 - 2, 2**32 - 1]),
        st.integers(0, 300),
        st.integers(0, 2**32 - 1),
    )
    payload = draw(st.binary(max_size=30))
    ends = st.tuples(st.sampled_from([CLIENT[0], SERVER[0], bytes(16)]), st.integers(1, 4))
    src, dst = draw(ends), draw(ends)
    if len(src[0]) != len(dst[0]):
        dst = (src[0], dst[1])
    ts = st.one_of(
        st.integers(0, 5_000).map(lambda ms: 10**18 + ms * MS),
        st.integers(-(2**63), 2**63 - 1),
        st.sampled_from([-(2**63), 2**63 - 1]),
    )
    flags = st.one_of(st.sampled_from([ACK, SYN, SYN | ACK, FIN | ACK, RST]), st.integers(0, 255))
    return Segment(
        draw(ts) if draw(st.integers(0, 3)) == 0 else 10**18 + draw(st.integers(0, 99)) * MS,
        src[0],
        dst[0],
        src[1],
        dst[1],
        draw(number),
        draw(number),
        draw(flags),
        payload,
        len(payload) + draw(st.sampled_from([0, 0, 0, 1, 20, 2**26, 2**31])),
    )
