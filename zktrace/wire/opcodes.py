"""The opcode table (ZooDefs.OpCode): number, name, what it does, records of request and reply.

One line per opcode, and the only place where an opcode is written down: the engines, the command
line, docs and tests read this table. Adding an opcode is one more line (and its records, if new).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from zktrace.wire import records as r
from zktrace.wire.codec import Record

# r: read, answered from a server's memory (sync too: it makes no txn); w: becomes a txn, by way of
# the leader; l: concerns only the server that gets it; "-": never a client's request.
Effect = Literal["r", "w", "l", "-"]

# A multi's body is a sequence that its own headers delimit; see `multi`.
MULTI: Final = "multi"
MULTI_RESULT: Final = "multiresult"
Body = type[Record] | Literal["multi", "multiresult"]


@dataclass(frozen=True, slots=True)
class Op:
    """`since`: first release that has it ("keeper": ClickHouse Keeper only)."""

    number: int
    name: str
    effect: Effect
    request: Body
    reply: Body
    since: str


OPS: Final[tuple[Op, ...]] = (
    Op(-11, "closeSession", "w", r.Empty, r.Empty, "3.0"),
    # Not sent by clients: the type of a session's first txn. A ConnectRequest is shown under this
    # number.
    Op(-10, "createSession", "-", r.Empty, r.Empty, "3.0"),
    # Only a result's or a txn's type.
    Op(-1, "error", "-", r.Empty, r.ErrorResponse, "3.0"),
    Op(0, "notification", "-", r.Empty, r.Empty, "3.0"),
    Op(1, "create", "w", r.CreateRequest, r.CreateResponse, "3.0"),
    Op(2, "delete", "w", r.PathVersionRequest, r.Empty, "3.0"),
    Op(3, "exists", "r", r.PathWatchRequest, r.StatResponse, "3.0"),
    Op(4, "getData", "r", r.PathWatchRequest, r.GetDataResponse, "3.0"),
    Op(5, "setData", "w", r.SetDataRequest, r.StatResponse, "3.0"),
    Op(6, "getACL", "r", r.PathRequest, r.GetACLResponse, "3.0"),
    Op(7, "setACL", "w", r.SetACLRequest, r.StatResponse, "3.0"),
    Op(8, "getChildren", "r", r.PathWatchRequest, r.GetChildrenResponse, "3.0"),
    Op(9, "sync", "r", r.PathRequest, r.SyncResponse, "3.0"),
    Op(11, "ping", "l", r.Empty, r.Empty, "3.0"),
    Op(12, "getChildren2", "r", r.PathWatchRequest, r.GetChildren2Response, "3.3"),
    Op(13, "check", "w", r.PathVersionRequest, r.Empty, "3.4"),
    Op(14, "multi", "w", MULTI, MULTI_RESULT, "3.4"),
    Op(15, "create2", "w", r.CreateRequest, r.Create2Response, "3.5"),
    Op(16, "reconfig", "w", r.ReconfigRequest, r.GetDataResponse, "3.5"),
    Op(17, "checkWatches", "r", r.WatchTypeRequest, r.Empty, "3.5"),
    Op(18, "removeWatches", "l", r.WatchTypeRequest, r.Empty, "3.5"),
    Op(19, "createContainer", "w", r.CreateRequest, r.Create2Response, "3.5"),
    # The leader's own, to reap containers; clients are refused.
    Op(20, "deleteContainer", "w", r.PathRequest, r.Empty, "3.5"),
    Op(21, "createTTL", "w", r.CreateTTLRequest, r.Create2Response, "3.5"),
    Op(22, "multiRead", "r", MULTI, MULTI_RESULT, "3.6"),
    Op(100, "auth", "l", r.AuthPacket, r.Empty, "3.0"),
    Op(101, "setWatches", "l", r.SetWatches, r.Empty, "3.2"),
    Op(102, "sasl", "l", r.SaslToken, r.SaslToken, "3.4"),
    Op(103, "getEphemerals", "r", r.GetEphemeralsRequest, r.GetChildrenResponse, "3.6"),
    Op(104, "getAllChildrenNumber", "r", r.PathRequest, r.GetAllChildrenNumberResponse, "3.6"),
    Op(105, "setWatches2", "l", r.SetWatches2, r.Empty, "3.6"),
    Op(106, "addWatch", "l", r.AddWatchRequest, r.ErrorResponse, "3.6"),
    Op(107, "whoAmI", "r", r.Empty, r.WhoAmIResponse, "3.7"),
    Op(500, "filteredList", "r", r.FilteredListRequest, r.GetChildren2Response, "keeper"),
    Op(501, "checkNotExists", "w", r.PathVersionRequest, r.Empty, "keeper"),
    Op(502, "createIfNotExists", "w", r.CreateRequest, r.CreateResponse, "keeper"),
    Op(503, "removeRecursive", "w", r.RemoveRecursiveRequest, r.Empty, "keeper"),
    Op(504, "checkStat", "w", r.CheckStatRequest, r.Empty, "keeper"),
    Op(505, "tryRemove", "w", r.PathVersionRequest, r.Empty, "keeper"),
    Op(
        506,
        "filteredListWithStatsAndData",
        "r",
        r.FilteredListWithStatsAndDataRequest,
        r.FilteredListWithStatsAndDataResponse,
        "keeper",
    ),
    Op(507, "listRecursive", "r", r.ListRecursiveRequest, r.GetChildrenResponse, "keeper"),
)

BY_NUMBER: Final[dict[int, Op]] = {op.number: op for op in OPS}
BY_NAME: Final[dict[str, Op]] = {op.name: op for op in OPS}

ERROR: Final = -1
CREATE_SESSION: Final = -10
CLOSE_SESSION: Final = -11
PING: Final = 11
AUTH: Final = 100
SET_WATCHES: Final = 101

# Special xids (ClientCnxn): what they say holds whatever the opcode.
WATCH_XID: Final = -1
PING_XID: Final = -2
AUTH_XID: Final = -4
SET_WATCHES_XID: Final = -8


def op_name(number: int) -> str:
    """Upstream's name; "op<n>" for a number nobody knows."""
    op = BY_NUMBER.get(number)
    return op.name if op else f"op{number}"
