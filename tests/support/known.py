"""Findings that are not mended yet, by what shows them. A test that passes again needs no entry."""

from __future__ import annotations

from typing import Final

_SERVER_FIRST = (
    "joined where the server's data comes first: its side starts first, so that its replies are "
    "given out before the requests that were held as long"
)
_KEEPER = "joined: a request's xid from 12 to 41 is taken for a version of ClickHouse Keeper's"

KNOWN: Final[dict[str, str]] = {
    "tcp_joined_event": _SERVER_FIRST,
    "tcp_joined_by_server": _SERVER_FIRST,
    "tcp_joined_like_keeper": _KEEPER,
    "joined_anywhere": f"{_SERVER_FIRST}; {_KEEPER}",
}
