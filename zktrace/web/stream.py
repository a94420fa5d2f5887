"""``/api/stream``: events as they are decoded, to any number of viewers.

Nothing is queued per viewer. Each keeps the number of the last event it was sent, looks a few times
a second whether the ring of the latest events has more, and takes at most :data:`BURST` of what its
filter selects, the newest; the others are counted as dropped. One that reads slowly is sent less
often, and what the ring has forgotten by then is counted, too.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any, Final

from zktrace.store.picture import Picture
from zktrace.web.views import latest_lines

if TYPE_CHECKING:
    from zktrace.analysis.filter import Filter

#: Events that a viewer is sent at once, at most.
BURST: Final = 200
_EVERY_S: Final = 0.5
#: Without events something is sent so often, so that a dead viewer is noticed.
_ALIVE_TICKS: Final = 20
#: Viewers at once.
MAX_STREAMS: Final = 256


class Streams:
    """Who follows."""

    def __init__(self) -> None:
        self.open = 0
        self.dropped = 0
        self.closing = False

    def next(
        self, picture: Picture, after: int, where: Filter | None
    ) -> tuple[list[str], int, int]:
        """Lines of events after a number, how many were left out, number of the last."""
        latest = picture.latest(after)
        if not len(latest):
            return [], 0, max(after, -1)
        # Forgotten before they could be looked at: whether the filter selects them is not known.
        dropped = max(latest.first - after - 1, 0) if after >= 0 else 0
        chosen, total = latest_lines(picture, latest, after, BURST, where)
        return chosen, dropped + total - len(chosen), latest.last

    async def events(
        self,
        picture: Picture,
        after: int | None,
        where: Filter | None,
        gone: Callable[[], Any],
    ) -> AsyncIterator[bytes]:
        """What a viewer is sent. `after` None: from now on."""
        at = picture.latest().last if after is None else after
        noted = picture.notes.count
        self.open += 1
        quiet = 0
        seen: tuple[int, str] | None = None
        try:
            yield b"retry: 2000\n\n"
            while not self.closing and not await gone():
                state = picture.version, picture.state
                if state != seen:
                    seen = state
                    made, dropped, last = await asyncio.to_thread(self.next, picture, at, where)
                    at = last
                    notes, noted = picture.notes.after(noted, where)
                    dropped += len(notes[:-BURST])
                    made += [json.dumps(note) for note in notes[-BURST:]]
                    self.dropped += dropped
                    message = {"version": state[0], "state": state[1], "dropped": dropped}
                    body = json.dumps(message)[:-1] + ', "events": [' + ",".join(made) + "]}"
                    yield f"id: {last}\nevent: events\ndata: {body}\n\n".encode()
                    quiet = 0
                elif (quiet := quiet + 1) >= _ALIVE_TICKS:
                    yield b": alive\n\n"
                    quiet = 0
                await asyncio.sleep(_EVERY_S)
        finally:
            self.open -= 1
