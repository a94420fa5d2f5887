"""Event rows as the stream machines make them, and the sink that takes them.

The columns are those of `zktrace.analysis.tables`; the order of the tuples here is theirs. This
module must not know how rows are stored.
"""

from __future__ import annotations

from typing import Any, Protocol

#: state of an exchange
COMPLETE = "complete"
NO_REPLY = "no_reply"
NO_REQUEST = "no_request"

#: an event of a connection: its detail says as whom
AUTHENTICATED = "authenticated"

#: directions of an anomaly
TO_SERVER = "to_server"
TO_CLIENT = "to_client"

Row = tuple[Any, ...]


class EventSink(Protocol):
    """Takes rows, one call per event; rows come without `seq`, which the sink puts first."""

    def exchange(self, row: Row) -> None:
        """A request with its reply, or one of them alone."""

    def watch_event(self, row: Row) -> None:
        """A watch event that the server sent."""

    def connection(self, row: Row) -> None:
        """A connection began, authenticated or ended."""

    def four_letter(self, row: Row) -> None:
        """A four-letter word and the size of its answer."""

    def quorum(self, row: Row) -> None:
        """A packet between a learner and its leader."""

    def election(self, row: Row) -> None:
        """A message of the leader election."""

    def anomaly(self, row: Row) -> None:
        """Something that should not be: lost bytes, malformed bytes, replies without a request."""
