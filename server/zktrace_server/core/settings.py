"""What of the configuration decides how requests are answered. Names and defaults are Java's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

DEFAULT_MAX_BUFFER: Final = 0xFFFFF


@dataclass(frozen=True, slots=True)
class Settings:
    """`extended_types`: TTL nodes (zookeeper.extendedTypesEnabled). `super_digest`: "user:hash" of
    who may do anything (zookeeper.DigestAuthenticationProvider.superDigest). Times in ms.
    """

    tick_ms: int = 3000
    min_session_timeout_ms: int = 6000
    max_session_timeout_ms: int = 60000
    max_buffer: int = DEFAULT_MAX_BUFFER
    extended_types: bool = False
    enforce_quota: bool = False
    skip_acl: bool = False
    reconfig_enabled: bool = False
    super_digest: str | None = None
    # Top byte of session ids. A standalone server of Java takes 1 (createSessionTrackerServerId).
    server_id: int = 1
    container_check_interval_ms: int = 60000
    container_max_per_minute: int = 10000
    container_max_never_used_ms: int = 0
