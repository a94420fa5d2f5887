"""Error codes (KeeperException.Code), watch event types (Watcher.Event.EventType) and session
states (Watcher.Event.KeeperState), by number. Names are upstream's, without Java's upper case."""

from __future__ import annotations

from typing import Final

ERRORS: Final[dict[int, str]] = {
    0: "OK",
    -1: "SystemError",
    -2: "RuntimeInconsistency",
    -3: "DataInconsistency",
    -4: "ConnectionLoss",
    -5: "MarshallingError",
    -6: "Unimplemented",
    -7: "OperationTimeout",
    -8: "BadArguments",
    -12: "UnknownSession",
    -13: "NewConfigNoQuorum",
    -14: "ReconfigInProgress",
    -100: "APIError",
    -101: "NoNode",
    -102: "NoAuth",
    -103: "BadVersion",
    -108: "NoChildrenForEphemerals",
    -110: "NodeExists",
    -111: "NotEmpty",
    -112: "SessionExpired",
    -113: "InvalidCallback",
    -114: "InvalidACL",
    -115: "AuthFailed",
    -118: "SessionMoved",
    -119: "NotReadOnly",
    -120: "EphemeralOnLocalSession",
    -121: "NoWatcher",
    -122: "RequestTimeout",
    -123: "ReconfigDisabled",
    -124: "SessionClosedRequireSaslAuth",
    -125: "QuotaExceeded",
    -127: "ThrottledOp",
}

# 5 to 7 are made by clients for themselves; a server does not send them.
EVENT_TYPES: Final[dict[int, str]] = {
    -1: "None",
    1: "NodeCreated",
    2: "NodeDeleted",
    3: "NodeDataChanged",
    4: "NodeChildrenChanged",
    5: "DataWatchRemoved",
    6: "ChildWatchRemoved",
    7: "PersistentWatchRemoved",
}

KEEPER_STATES: Final[dict[int, str]] = {
    -112: "Expired",
    -1: "Unknown",
    0: "Disconnected",
    1: "NoSyncConnected",
    3: "SyncConnected",
    4: "AuthFailed",
    5: "ConnectedReadOnly",
    6: "SaslAuthenticated",
    7: "Closed",
}

# Errors a reader of results meets by number.
OK: Final = 0
RUNTIME_INCONSISTENCY: Final = -2
MARSHALLING_ERROR: Final = -5
UNIMPLEMENTED: Final = -6
SESSION_EXPIRED: Final = -112
NOT_READ_ONLY: Final = -119


def error_name(code: int) -> str:
    """The name of an error code; a code nobody knows is shown as its number."""
    return ERRORS.get(code, str(code))
