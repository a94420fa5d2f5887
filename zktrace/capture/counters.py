"""What the capture layer saw and what it could not use. Plain numbers, no logic but adding up."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class CaptureCounters:
    """Coverage of the capture layer.

    Every packet ends as one of `tcp_segments`, `other_packets` (fine, but not TCP),
    `undecoded_packets` (a link type not known here), `malformed_packets`, a fragment (held, or
    counted in `fragments_dropped`), or headers cut by the snap length (`truncated` alone).
    """

    packets: int = 0
    bytes: int = 0
    """Sum of the lengths on the wire."""
    first_ts_ns: int | None = None
    last_ts_ns: int | None = None
    """Smallest and greatest time seen, not first and last in file order."""
    tcp_segments: int = 0
    other_packets: int = 0
    undecoded_packets: int = 0
    undecoded_linktypes: dict[int, int] = field(default_factory=dict)
    malformed_packets: int = 0
    truncated: int = 0
    """Packets cut by the snap length, records and compressed streams cut by the end of a file."""
    fragments_dropped: int = 0
    damaged_bytes: int = 0
    damaged_places: int = 0
    filtered: int = 0
    """Sections of files that hold only what a filter let through: nothing tells what it did not."""
    kernel_drops: int | None = None
    """Packets the capturing system lost; None when the capture does not say."""
