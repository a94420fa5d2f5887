"""Length-prefixed frames out of one direction's bytes.

A frame on the client port is an int length and that many bytes (protocol reference, section 2). The
framer keeps the capture time of the first and of the last byte of each frame, skips what is too
large to keep, and survives losses inside a frame: as long as the loss ends before the frame does,
the next boundary is still known. What a frame means is not its business; when it cannot know where
the next frame begins it says so and stays `lost` until `restart`.
"""

from __future__ import annotations

from typing import NamedTuple

from zktrace.stream.budget import Budget, Kept

#: A frame is kept whole up to this: jute.maxbuffer's default (0xfffff) and some slack. Of larger
#: frames (a server's answers are not limited, and jute.maxbuffer can be raised) the head is decoded
#: and the rest is skipped.
HEAD_MAX = 1_048_576 + 4_096
#: No ensemble is run with a larger jute.maxbuffer; a greater length is not a length.
LENGTH_MAX = 64 * 1024 * 1024


class Frame(NamedTuple):
    """One frame: what was kept of its bytes, its true length, when its first and last byte were
    captured.
    """

    head: bytes
    length: int
    first_ts: int
    last_ts: int
    #: bytes inside it were not captured
    damaged: bool
    #: the first byte, or any, may have been sent before it was captured: the times are not certain
    first_late: bool = False
    late: bool = False


class Framer:
    """Frames of one direction.

    `feed` yields what it can; a length that cannot be one stops it: `lost` is set, `bad_length`
    says which, and the unread rest of the chunk is returned to the caller by `feed`'s second
    result.
    """

    __slots__ = (
        "_first_late",
        "_first_ts",
        "_frozen",
        "_kept",
        "_last_ts",
        "_late",
        "_length",
        "_missing",
        "_size",
        "_taken",
        "bad_length",
        "extra_once",
        "lost",
        "max_length",
        "min_length",
        "new_length",
    )

    def __init__(self, budget: Budget, min_length: int) -> None:
        self._kept = Kept(budget)
        self.min_length = min_length
        self.max_length = LENGTH_MAX
        self.lost = False
        self.bad_length = 0
        #: bytes that the next frame has beyond its length field (ClickHouse Keeper's handshake)
        self.extra_once = 0
        #: length of the frame whose length feed has read last; the caller sets it back to -1
        self.new_length = -1
        self._size = b""  # bytes of the length field
        self._length = -1  # of the frame at hand; -1 while its length is not known
        self._taken = 0  # bytes of it seen or lost
        self._frozen = False  # a byte of it was lost: what comes later is not kept
        self._missing = 0
        self._first_ts = 0
        self._last_ts = 0
        self._first_late = False
        self._late = False

    def restart(self) -> None:
        """Begin at a frame boundary."""
        self._drop()
        self.lost = False

    def stop(self) -> None:
        """Where the next frame begins is not known."""
        self._drop()
        self.extra_once = 0
        self.lost = True

    def _drop(self) -> None:
        self._kept.drop()
        self._size = b""
        self._length = -1
        self._taken = 0
        self._frozen = False
        self._missing = 0

    @property
    def pending(self) -> bool:
        """Whether part of a frame has been taken."""
        return self._length >= 0 or bool(self._size)

    @property
    def cost(self) -> int:
        """What the frame at hand holds, or will."""
        return self._kept.charged

    def cut(self) -> bool:
        """Give up the bytes of the frame at hand but for its head; whether there were more."""
        return self._kept.cut()

    def feed(self, data: bytes, pos: int, ts: int, late: bool = False) -> tuple[Frame | None, int]:
        """Take bytes from data[pos:] up to the end of one frame. `late`: `ts` is not certain.

        Returns the frame (None where it is not complete yet, or where the framer is now lost) and
        the position up to which bytes were taken.
        """
        end = len(data)
        if not self.pending and not self.extra_once and end - pos >= 4:
            # the common case: the whole frame is here, so that nothing need be reserved
            length = int.from_bytes(data[pos : pos + 4], "big", signed=True)
            stop = pos + 4 + length
            if self.min_length <= length <= self.max_length and stop <= end:
                self.new_length = length
                head = data[pos + 4 : min(stop, pos + 4 + HEAD_MAX)]
                return Frame(head, length, ts, ts, False, late, late), stop
        if self._length < 0:
            if not self._size and pos < end:
                self._first_ts = ts
                self._last_ts = ts
                self._first_late = self._late = late
            want = 4 - len(self._size)
            self._size += data[pos : pos + want]
            if end > pos:
                self._last_ts = max(self._last_ts, ts)
                self._late |= late
            pos = min(pos + want, end)
            if len(self._size) < 4:
                return None, pos
            length = int.from_bytes(self._size, "big", signed=True)
            self._size = b""
            if length < self.min_length or length > self.max_length:
                self.bad_length = length
                self.stop()
                return None, pos
            self._length = length + self.extra_once
            self.extra_once = 0
            self._taken = 0
            self._kept.begin(min(self._length, HEAD_MAX))
            self.new_length = self._length
        take = min(self._length - self._taken, end - pos)
        if take:
            self._last_ts = max(self._last_ts, ts)
            self._late |= late
            if not self._frozen:
                self._kept.add(data, pos, take)
            self._taken += take
            pos += take
        if self._taken < self._length:
            return None, pos
        return self._finish(), pos

    def _finish(self) -> Frame:
        frame = Frame(
            bytes(self._kept.buf),
            self._length,
            self._first_ts,
            self._last_ts,
            self._missing > 0,
            self._first_late,
            self._late,
        )
        self._drop()
        return frame

    def gap(self, missing: int) -> Frame | None:
        """`missing` bytes were not captured.

        Returns the frame they were lost from if that frame is over by it (its end reached or
        unknowable) and at least its length had been seen. Sets `lost` where the next boundary is
        not known.
        """
        if self.lost:
            return None
        if self._length >= 0 and missing <= self._length - self._taken:
            self._frozen = True
            self._missing += missing
            self._taken += missing
            return self._finish() if self._taken == self._length else None
        frame = None
        if self._length >= 0:
            self._missing += missing
            frame = self._finish()
        self.stop()
        return frame
