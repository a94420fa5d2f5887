"""Sessions and when they expire (SessionTrackerImpl, ExpiryQueue).

Expiry is rounded up to a multiple of the tick, so that sessions end in batches and a touch seldom
has anything to do. Times are of a clock that only goes forward, in ms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from zktrace_server.core.errors import SESSION_EXPIRED, UNKNOWN_SESSION, KeeperError
from zktrace_server.core.node import CONTAINER_OWNER

_LONG: Final = (1 << 64) - 1


@dataclass(slots=True)
class Session:
    """`timeout_ms` is what was granted when it was made: what logs and snapshots hold."""

    id: int
    timeout_ms: int
    closing: bool = False
    bucket: int = 0


def first_session_id(server_id: int, now_ms: int) -> int:
    """Where a server begins to count: its id, then 40 bits of time, then 16 zero bits (a signed
    long).
    """
    value = (now_ms << 24 & _LONG) >> 8 | (server_id & 0xFF) << 56
    value = value - (1 << 64) if value >> 63 else value
    return value + 1 if value == CONTAINER_OWNER else value


class Sessions:
    """All sessions, and in which tick each would expire."""

    def __init__(self, tick_ms: int, server_id: int, now_ms: int) -> None:
        self._tick = tick_ms
        self._next_id = first_session_id(server_id, now_ms)
        self._by_id: dict[int, Session] = {}
        self._buckets: dict[int, dict[int, None]] = {}
        self._next_expiry = self._round(now_ms)

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, session_id: int) -> Session | None:
        return self._by_id.get(session_id)

    def timeouts(self) -> dict[int, int]:
        """What a snapshot holds of sessions: id to timeout in ms."""
        return {s.id: s.timeout_ms for s in self._by_id.values()}

    def new_id(self) -> int:
        """An id for a session that will be made."""
        self._next_id += 1
        return self._next_id - 1

    def track(self, session_id: int, timeout_ms: int, now_ms: int) -> None:
        """A session is there from now on."""
        session = self._by_id.setdefault(session_id, Session(session_id, timeout_ms))
        self._move(session, now_ms + timeout_ms)

    def touch(self, session_id: int, timeout_ms: int, now_ms: int) -> bool:
        """The client has been heard of; false if there is no such session any more."""
        session = self._by_id.get(session_id)
        if session is None or session.closing:
            return False
        # Most touches change nothing.
        if ((now_ms + timeout_ms) // self._tick + 1) * self._tick != session.bucket:
            self._move(session, now_ms + timeout_ms)
        return True

    def check(self, session_id: int) -> None:
        """Refuses a request of a session that is unknown, or being closed."""
        session = self._by_id.get(session_id)
        if session is None:
            raise KeeperError(UNKNOWN_SESSION)
        if session.closing:
            raise KeeperError(SESSION_EXPIRED)

    def check_lasting(self, session_id: int) -> None:
        """The same, for what is to go with the session."""
        self.check(session_id)

    def close(self, session_id: int) -> None:
        """From now on its requests are refused."""
        session = self._by_id.get(session_id)
        if session is not None:
            session.closing = True

    def remove(self, session_id: int) -> None:
        """It is gone."""
        session = self._by_id.pop(session_id, None)
        if session is not None:
            self._buckets.get(session.bucket, {}).pop(session_id, None)

    def expired(self, now_ms: int) -> list[int]:
        """Sessions whose time has run out since the last call; they are closing now."""
        ended: list[int] = []
        while self._next_expiry <= now_ms:
            for session_id in self._buckets.pop(self._next_expiry, ()):
                self.close(session_id)
                ended.append(session_id)
            self._next_expiry += self._tick
        return ended

    def next_expiry(self) -> int:
        """When `expired` is worth calling."""
        return self._next_expiry

    def by_expiry(self) -> dict[int, list[int]]:
        """Session ids by the time at which they would expire."""
        return {at: list(ids) for at, ids in sorted(self._buckets.items()) if ids}

    def _round(self, time_ms: int) -> int:
        return (time_ms // self._tick + 1) * self._tick

    def _move(self, session: Session, expiry_ms: int) -> None:
        bucket = self._round(expiry_ms)
        if bucket == session.bucket:
            return
        self._buckets.get(session.bucket, {}).pop(session.id, None)
        session.bucket = bucket
        self._buckets.setdefault(bucket, {})[session.id] = None
