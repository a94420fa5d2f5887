"""What of the configuration decides how requests are answered. Names and defaults are Java's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from zktrace_server.core.acl import SCHEMES

DEFAULT_MAX_BUFFER: Final = 0xFFFFF


@dataclass(frozen=True, slots=True)
class Settings:
    """`schemes`: what ACLs may be of, but for world and auth. `sasl_users`: passwords by name; None
    where no login is configured. `super_users`: names that sasl proves and that may do anything.
    `enforce_schemes`: a client must be one of these before it may ask for anything.
    `extended_types`: TTL nodes (zookeeper.extendedTypesEnabled). `super_digest`: "user:hash" of
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
    # Of a member of an ensemble: whether it serves reads while it has no leader.
    read_only_enabled: bool = False
    # Whether its sessions are its own, and whether they become the ensemble's when they have to.
    local_sessions: bool = False
    local_sessions_upgrade: bool = False
    standalone_enabled: bool = True
    super_digest: str | None = None
    schemes: frozenset[str] = SCHEMES
    sasl_users: Mapping[str, str] | None = None
    sasl_super_password: str | None = None
    super_users: frozenset[str] = frozenset()
    allow_failed_sasl: bool = False
    x509_super_user: str | None = None
    enforce_schemes: frozenset[str] = frozenset()
    # Top byte of session ids. A standalone server of Java takes 1 (createSessionTrackerServerId).
    server_id: int = 1
    container_check_interval_ms: int = 60000
    container_max_per_minute: int = 10000
    container_max_never_used_ms: int = 0
