"""A step of a replay: an exchange, what it is to the order, and what became of it."""

from __future__ import annotations

from typing import Any, Final

from zktrace_proxy.messages.exchanges import Exchange

#: What is done with an exchange.
REQUEST: Final = 0
CONNECT_NEW: Final = 1
CONNECT_AGAIN: Final = 2
#: The server did not take the session.
CONNECT_REFUSED: Final = 3
END: Final = 4
#: A session that ended by itself ends here.
EXPIRE: Final = 5
AUTH_STEP: Final = 6
#: Sent nothing for it, see `Plan.skipped`.
SKIP: Final = 7
#: The server did not take the password.
CONNECT_WRONG: Final = 8
CONNECTS: Final = (CONNECT_NEW, CONNECT_AGAIN, CONNECT_REFUSED, CONNECT_WRONG)


class Step:
    """See :class:`zktrace_proxy.replay.order.Step`. Made anew of each reading of the plan."""

    __slots__ = (
        "adds",
        "conn",
        "dependents",
        "done",
        "due",
        "exchange",
        "groups",
        "kind",
        "makes",
        "number",
        "reads",
        "sent_ns",
        "session",
        "since",
        "waits",
        "wide",
        "writes",
        "writes_zxid",
    )

    def __init__(self, number: int, exchange: Exchange, notes: tuple[Any, ...]) -> None:
        self.number = number
        self.exchange = exchange
        self.conn = exchange.conn
        (self.kind, self.session, self.writes_zxid, self.reads, self.writes, self.wide,
         self.makes, self.adds) = notes  # fmt: skip
        self.waits = 0
        self.dependents: list[Step] = []
        self.groups: list[Any] = []
        self.done = False
        #: loop time before which it is not sent; None: not reckoned yet
        self.due: float | None = None
        #: loop time since which it waits for watch events
        self.since: float | None = None
        self.sent_ns = 0
