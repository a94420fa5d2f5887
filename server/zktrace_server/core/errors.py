"""Errors that a client is told by their number (KeeperException.Code)."""

from __future__ import annotations

from typing import Final

OK: Final = 0
RUNTIME_INCONSISTENCY: Final = -2
MARSHALLING_ERROR: Final = -5
UNIMPLEMENTED: Final = -6
BAD_ARGUMENTS: Final = -8
UNKNOWN_SESSION: Final = -12
NEW_CONFIG_NO_QUORUM: Final = -13
RECONFIG_IN_PROGRESS: Final = -14
NO_NODE: Final = -101
NO_AUTH: Final = -102
BAD_VERSION: Final = -103
NO_CHILDREN_FOR_EPHEMERALS: Final = -108
NODE_EXISTS: Final = -110
NOT_EMPTY: Final = -111
SESSION_EXPIRED: Final = -112
INVALID_ACL: Final = -114
AUTH_FAILED: Final = -115
SESSION_MOVED: Final = -118
NOT_READ_ONLY: Final = -119
EPHEMERAL_ON_LOCAL_SESSION: Final = -120
NO_WATCHER: Final = -121
RECONFIG_DISABLED: Final = -123
SASL_AUTH_REQUIRED: Final = -124
QUOTA_EXCEEDED: Final = -125


class KeeperError(Exception):
    """A request is refused; `code` is what the reply says."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code
