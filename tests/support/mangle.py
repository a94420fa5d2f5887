"""Other captures of the same traffic: what a capture point may do to segments, on raw records.

Works on plain Ethernet captures whose connections are not damaged. Everything is a function of its
arguments (a `random.Random` among them), so that a seed gives the same capture again. Knows nothing
of ZooKeeper.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import count

from tests.support import net
from tests.support.net import FIN, PSH, RST, SYN, Address, Seg
from tests.support.pcapio import Record

Records = list[Record]

#: How late a packet may be captured: queues of a capture point differ by this much, not by more.
_LATE_NS = 50_000_000

#: The largest payload of a merged segment (its IP total length fits 16 bits).
_MERGED = 60_000


def split(records: Sequence[Record], size: int) -> Records:
    """Payloads cut into segments of at most `size` bytes; times and acknowledgements stay as they
    are.

    Since every byte keeps its time, even latencies stay.
    """
    out: Records = []
    for record in records:
        seg = net.segment(record)
        if seg is None or len(seg.payload) <= size or seg.cut:
            out.append(record)
            continue
        syn = seg.flags & SYN
        for at in range(0, len(seg.payload), size):
            last = at + size >= len(seg.payload)
            flags = seg.flags if last else seg.flags & ~(FIN | PSH)
            out.append(
                net.record(
                    seg.but(
                        seq=seg.seq + at + (1 if syn and at else 0),
                        flags=flags if at == 0 else flags & ~SYN,
                        payload=seg.payload[at : at + size],
                    )
                )
            )
    return out


def merge(records: Sequence[Record]) -> Records:
    """What one end sends in a row becomes one segment (as offload makes it), at the time of its
    last part.

    Acknowledgements of parts are left out, as they would be.
    """
    out: list[Record | None] = []
    open_at: dict[tuple[Address, Address], tuple[int, Seg]] = {}

    def end(src: Address, dst: Address) -> None:
        open_at.pop((src, dst), None)

    for record in records:
        seg = net.segment(record)
        if seg is None:
            out.append(record)
            continue
        here, back = (seg.src, seg.dst), (seg.dst, seg.src)
        plain = not seg.flags & (SYN | FIN | RST) and not seg.cut
        if plain and seg.payload:
            end(*back)
            if here in open_at:
                at, before = open_at[here]
                follows = (before.seq + len(before.payload)) & 0xFFFFFFFF == seg.seq
                if follows and len(before.payload) + len(seg.payload) <= _MERGED:
                    seg = seg.but(seq=before.seq, payload=before.payload + seg.payload)
                    out[at] = None
            open_at[here] = (len(out), seg)
            out.append(net.record(seg))
        elif plain and back in open_at:
            continue  # a bare acknowledgement of a part
        else:
            end(*here)
            end(*back)
            out.append(record)
    return [record for record in out if record is not None]


def duplicate(records: Sequence[Record], rng: random.Random, share: float = 0.1) -> Records:
    """Some packets come again, at once or up to five packets later."""
    out: list[tuple[float, int, Record]] = []
    number = count()
    for at, record in enumerate(records):
        out.append((at, next(number), record))
        if rng.random() < share:
            out.append((at + rng.randrange(6) + 0.5, next(number), record))
    out.sort(key=lambda item: item[:2])
    records = [item[2] for item in out]
    # The copies are not older than what they follow.
    latest = 0
    again: Records = []
    for record in records:
        latest = max(latest, record.ts_ns)
        again.append(record.at(latest))
    return again


def shuffle(
    records: Sequence[Record],
    rng: random.Random,
    *,
    distance: int = 8,
    share: float = 0.2,
    times_travel: bool = True,
) -> Records:
    """Some packets are captured up to `distance` places late; SYN, FIN and RST keep their place in
    their connection.

    ``times_travel``: a packet keeps its time, so that the file is not in time order. Otherwise the
    times are dealt out again in order.
    """
    order: list[tuple[float, int]] = []
    pinned: dict[frozenset[Address], float] = {}
    held: dict[frozenset[Address], float] = {}
    copies: dict[tuple[Address, Address, int], float] = {}
    for at, record in enumerate(records):
        seg = net.segment(record)
        place = float(at)
        if rng.random() < share:
            most = distance
            while (
                most and records[min(at + most, len(records) - 1)].ts_ns > record.ts_ns + _LATE_NS
            ):
                most -= 1
            place += rng.uniform(0, most)
        if seg is not None:
            key = frozenset((seg.src, seg.dst))
            if seg.flags & (SYN | FIN | RST):
                # Nothing of the connection passes over it: it comes after all before it.
                place = max(place, held.get(key, 0.0) + 1e-6)
                pinned[key] = place
            place = max(place, pinned.get(key, 0.0) + 1e-6)
            held[key] = max(held.get(key, 0.0), place)
            if seg.payload:  # of a retransmission the first copy stays the first
                place = max(place, copies.get((seg.src, seg.dst, seg.seq), 0.0) + 1e-6)
                copies[seg.src, seg.dst, seg.seq] = place
        order.append((place, at))
    moved = [records[at] for _, at in sorted(order)]
    if times_travel:
        return moved
    times = sorted(record.ts_ns for record in records)
    return [record.at(ts) for record, ts in zip(moved, times, strict=True)]


def drop(records: Sequence[Record], rng: random.Random, share: float = 0.01) -> Records:
    """Some packets were not captured."""
    return [record for record in records if rng.random() >= share]


def snap(records: Sequence[Record], length: int) -> Records:
    """Packets cut by a snap length."""
    return [Record(r.ts_ns, r.data[:length], r.length) for r in records]


def damage(data: bytes, rng: random.Random, *, spare: int = 24, hits: int = 10) -> bytes:
    """Bytes of a file changed, removed, repeated or put in; the first `spare` ones stay."""
    out = bytearray(data)
    for _ in range(rng.randrange(1, hits + 1)):
        if len(out) <= spare:
            break
        at = rng.randrange(spare, len(out))
        what = rng.randrange(8)
        if what < 4:
            out[at] = rng.randrange(256)
        elif what == 4:
            out[at] ^= 1 << rng.randrange(8)
        elif what == 5:
            del out[at : at + rng.randrange(1, 64)]
        elif what == 6:
            out[at:at] = rng.randbytes(rng.randrange(1, 64))
        else:
            out[at : at + 4] = rng.choice(
                (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\1")
            )
    return bytes(out)


def damage_payloads(records: Sequence[Record], rng: random.Random, hits: int = 10) -> Records:
    """Bytes of TCP payloads changed, so that the damage gets past the lower layers."""
    out = list(records)
    full = [i for i, r in enumerate(records) if (s := net.segment(r)) is not None and s.payload]
    for _ in range(rng.randrange(1, hits + 1) if full else 0):
        index = rng.choice(full)
        record = out[index]
        seg = net.segment(record)
        if seg is None or not seg.payload:
            continue
        payload = bytearray(seg.payload)
        at = rng.randrange(len(payload))
        if rng.randrange(3):
            payload[at] = rng.randrange(256)
        else:
            at &= ~3
            size = len(payload[at : at + 4])
            value = rng.choice((0, 1, -1, 2**31 - 1, -(2**31), 5, 16, 1000))
            payload[at : at + 4] = value.to_bytes(4, "big", signed=True)[:size]
        out[index] = net.record(seg.but(payload=bytes(payload)))
    return out


def late_join(records: Sequence[Record], share: float) -> Records:
    """The capture began when that share of the packets had passed."""
    return list(records[int(len(records) * share) :])


#: Manglings that keep every byte, by name: what must decode to the same exchanges. True: so do
#: their times. None: so do they, but a latency may be unknown, since a packet that comes later in
#: the file could be one that was lost.
HARMLESS: dict[str, tuple[Callable[[Sequence[Record], random.Random], Records], bool | None]] = {
    "one_byte": (lambda records, _: split(records, 1), True),
    "seven_bytes": (lambda records, _: split(records, 7), True),
    "merged": (lambda records, _: merge(records), False),
    "duplicated": (lambda records, rng: duplicate(records, rng), True),
    "shuffled": (lambda records, rng: shuffle(records, rng), None),
    "shuffled_in_time": (lambda records, rng: shuffle(records, rng, times_travel=False), False),
    "shuffled_hard": (lambda records, rng: shuffle(records, rng, share=0.8), None),
    "split_and_shuffled": (lambda records, rng: shuffle(split(records, 16), rng), None),
    "all": (
        lambda records, rng: shuffle(duplicate(split(merge(records), 23), rng), rng),
        False,
    ),
}
