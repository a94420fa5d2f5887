"""A four-letter word and its answer: unframed text, then the server closes.

Protocol reference, section 9. Answers hold session ids and the server's environment: their size is
kept, never their bytes.
"""

from __future__ import annotations

from zktrace.stream.events import EventSink


class FourLetterMachine:
    """One connection that sent a four-letter word."""

    def __init__(self, sink: EventSink, who: tuple[int, str, str], word: str) -> None:
        self._sink = sink
        self._who = who
        self._word = word
        self._asked = 0
        self._ts = 0
        self._reply_bytes: int | None = 0

    def to_server(self, ts: int, data: bytes) -> None:
        """Take the client's bytes: four are the word, more (a line's end, stmk's mask) are of no
        interest.
        """
        if self._asked < 4:
            self._ts = max(self._ts, ts)
        self._asked += len(data)

    def to_client(self, ts: int, data: bytes) -> None:
        """Take the answer's bytes."""
        if self._reply_bytes is not None:
            self._reply_bytes += len(data)

    def gap(self, to_server: bool, ts: int, missing: int) -> None:
        """Bytes were not captured: the size of the answer is not known then."""
        if not to_server:
            self._reply_bytes = None

    @property
    def cost(self) -> int:
        """What it holds on behalf of the connection."""
        return 0

    def give_up(self, ts: int) -> None:
        """It holds nothing."""

    def end(self, ts: int) -> None:
        """The connection is over."""
        self._sink.four_letter((self._ts, *self._who, self._word, self._reply_bytes))
