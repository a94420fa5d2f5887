"""What a replay will do, and what it cannot: data, filled by a planner (``prepare.py``)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from zktrace_proxy.messages.exchanges import Exchange
from zktrace_proxy.messages.reader import Heard
from zktrace_proxy.messages.spool import Spool
from zktrace_proxy.replay.start import StartState


@dataclass(slots=True)
class RecordedSession:
    """A session of the recording. `began`: its first connect was captured."""

    sid: int
    timeout_ms: int = 0
    began: bool = True
    closed: bool = False
    #: when its last connection ended; 0: it has one
    gone_ns: int = 0
    ephemerals: set[str] = field(default_factory=set)
    #: connection that it was on last
    conn: int = -1
    expired: bool = False
    #: None where it was taken out of the recording
    password: bytes | None = None


@dataclass(slots=True)
class Plan:
    """What a replay will do, and what it cannot."""

    spool: Spool
    heard: Heard
    start: StartState
    sessions: dict[int, RecordedSession] = field(default_factory=dict)
    #: those that have no connection now, and were not closed
    waiting: dict[int, RecordedSession] = field(default_factory=dict)
    ops: Counter[str] = field(default_factory=Counter)
    #: reason: how many exchanges it keeps from being sent
    skipped: Counter[str] = field(default_factory=Counter)
    #: scheme: auth packets with their credential, and with it taken out
    auths: Counter[str] = field(default_factory=Counter)
    auths_redacted: Counter[str] = field(default_factory=Counter)
    first_ns: int = 0
    last_ns: int = 0
    first_zxid: int = 0
    last_zxid: int = 0
    writes: int = 0
    #: zxids between the first and the last write that no recorded exchange has
    missing_zxids: int = 0
    #: of those, sessions that began or expired while it was recorded
    session_zxids: int = 0
    #: writes whose zxid another write has: several ensembles, or traffic captured twice
    twice: int = 0
    #: steps that came too late to be sorted, or whose zxid goes back on their connection
    disordered: int = 0
    no_reply: int = 0
    watch_events: int = 0
    sequential: int = 0
    expired: int = 0
    connections: int = 0
    #: zxid of the snapshot that the start state is of; None: it is what replies tell
    base_zxid: int | None = None
    #: nodes that the recording shows and the snapshot does not have
    not_in_base: int = 0

    @property
    def since_base(self) -> int:
        """Writes between the snapshot and the recording, which neither has."""
        if not self.base_zxid or not self.first_zxid or (self.base_zxid ^ self.first_zxid) >> 32:
            return 0
        return max(self.first_zxid - self.base_zxid - 1, 0)

    @property
    def unseen_writes(self) -> int:
        """Writes of others between the first and the last recorded one. A session whose client
        was last heard of so long ago that it may have ended is one that has.
        """
        ended = sum(
            (self.last_ns - one.gone_ns) * 3 >= one.timeout_ms * 2_000_000
            for one in self.waiting.values()
        )
        return max(self.missing_zxids - self.session_zxids - ended, 0)

    def close(self) -> None:
        self.spool.close()


@dataclass(frozen=True, slots=True)
class Span:
    """From where to where: zxids, or seconds since the recording's first request."""

    from_zxid: int = 0
    to_zxid: int = 0
    from_s: float = 0.0
    to_s: float = 0.0

    @classmethod
    def parse(cls, since: str | None, until: str | None) -> Span:
        """What the options say. ValueError: they do not."""
        values: dict[str, Any] = {}
        for name, text in (("from", since), ("to", until)):
            if text is None:
                continue
            try:
                if text.startswith("0x"):
                    values[f"{name}_zxid"] = int(text, 16)
                else:
                    units = {"s": 1, "m": 60, "h": 3600}
                    unit = units.get(text[-1:], 0)
                    values[f"{name}_s"] = float(text[:-1] if unit else text) * (unit or 1)
            except ValueError:
                option = "--from" if name == "from" else "--until"
                raise ValueError(f"{option}: {text!r} is neither a zxid nor a time") from None
        return cls(**values)

    def holds(self, exchange: Exchange, first_ns: int) -> bool:
        """Whether a request is within."""
        at = (exchange.sent_ns - first_ns) / 1e9
        zxid = exchange.zxid
        if at < self.from_s or (self.from_zxid and zxid and zxid < self.from_zxid):
            return False
        return not (
            (self.to_s and at > self.to_s) or (self.to_zxid and zxid and zxid > self.to_zxid)
        )
