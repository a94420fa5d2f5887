"""zoo.cfg (QuorumPeerConfig): the file that Java's server reads, with the same keys.

A key that Java knows and this server has no use for is accepted in silence where nothing is
missed; where something is, and where nobody knows the key, a warning says so. System properties
can be given as keys without their "zookeeper.", as in Java.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from zktrace_server.core.settings import DEFAULT_MAX_BUFFER, Settings


class ConfigError(Exception):
    """The file cannot be used; the text says which line or key and why."""


@dataclass(frozen=True, slots=True)
class Config:
    """Names and defaults are Java's. Times in ms, sizes in bytes. Port 0: any free one (only here;
    Java does not listen then).
    """

    data_dir: Path
    data_log_dir: Path
    client_port: int
    client_address: str
    settings: Settings
    max_client_connections: int
    max_connections: int
    outstanding_limit: int
    backlog: int
    sessionless_timeout_ms: int
    words: frozenset[str]
    snap_count: int
    snap_size: int
    preallocate: int
    force_sync: bool
    trust_empty_snapshot: bool
    retain: int
    purge_interval_h: int


#: Nothing is missed when these do nothing in a server that stands alone.
_ENSEMBLE: Final = frozenset(
    (
        "initLimit",
        "syncLimit",
        "connectToLearnerMasterLimit",
        "electionAlg",
        "quorumListenOnAllIPs",
        "peerType",
        "syncEnabled",
        "standaloneEnabled",
        "localSessionsEnabled",
        "localSessionsUpgradingEnabled",
        "leaderServes",
        "cnxTimeout",
    )
)
#: Known to Java, not to this server yet.
_MISSING: Final = (
    "secureClientPort",
    "secureClientPortAddress",
    "ssl.",
    "sslQuorum",
    "portUnification",
    "client.portUnification",
    "serverCnxnFactory",
    "authProvider.",
    "quorum.",
    "metricsProvider.",
    "admin.",
    "audit.",
    "multiAddress.",
    "dynamicConfigFile",
    "observerMasterPort",
)
_SERVER: Final = re.compile(r"server\.\d+\Z")
_LINE: Final = re.compile(r"\s*((?:[^\\:=\s]|\\.)+)\s*[:=\s]\s*(.*)")
_WORDS: Final = "4lw.commands.whitelist"


def parse(text: str) -> dict[str, str]:
    """Keys and values of a properties file (java.util.Properties): # and ! begin comments, a
    backslash at the end goes on with the next line.
    """
    found: dict[str, str] = {}
    lines = iter(text.splitlines())
    for number, line in enumerate(lines, 1):
        whole = line.strip()
        if not whole or whole[0] in "#!":
            continue
        while whole.endswith("\\"):
            whole = whole[:-1] + next(lines, "").strip()
        match = _LINE.match(whole + "=") if not re.search(r"[:=\s]", whole) else _LINE.match(whole)
        if match is None:
            raise ConfigError(f"line {number} is no key=value")
        found[match[1].replace("\\", "")] = match[2].strip()
    return found


class _Values:
    """The values of a file, each taken once; what nobody takes is unknown."""

    def __init__(self, values: dict[str, str]) -> None:
        self._values = values

    def text(self, key: str, default: str | None = None) -> str | None:
        return self._values.pop(key, default)

    def number(self, key: str, default: int) -> int:
        value = self._values.pop(key, None)
        if value is None:
            return default
        try:
            return int(value)
        except ValueError:
            raise ConfigError(f"{key}={value} is no number") from None

    def flag(self, key: str, default: bool) -> bool:
        value = self._values.pop(key, None)
        if value is None:
            return default
        lower = value.lower()
        if lower not in ("true", "false", "yes", "no"):
            raise ConfigError(f"{key}={value} is neither true nor false")
        return lower in ("true", "yes")

    def left(self) -> Iterable[str]:
        return self._values


def load(path: Path, warn: Callable[[str], None]) -> Config:
    """Reads a zoo.cfg. ConfigError where Java would not start with it either, or where it asks for
    what this server cannot do.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"cannot read {path}: {reason}") from None
    try:
        return from_values(parse(text), warn)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def from_values(given: dict[str, str], warn: Callable[[str], None]) -> Config:
    """A configuration from keys and values."""
    values = _Values(given)
    _refuse_ensembles(values, warn)
    data_dir = values.text("dataDir")
    if not data_dir:
        raise ConfigError("dataDir is not set")
    port = values.number("clientPort", -1)
    if port == -1:
        raise ConfigError("clientPort is not set, and there is no other port yet")
    if not 0 <= port <= 0xFFFF:
        raise ConfigError(f"clientPort={port} is no port")
    config = Config(
        data_dir=Path(data_dir),
        data_log_dir=Path(values.text("dataLogDir") or data_dir),
        client_port=port,
        client_address=values.text("clientPortAddress") or "",
        settings=_settings(values),
        max_client_connections=values.number("maxClientCnxns", 60),
        max_connections=values.number("maxCnxns", 0),
        outstanding_limit=values.number("globalOutstandingLimit", 1000),
        backlog=values.number("clientPortListenBacklog", -1),
        sessionless_timeout_ms=values.number("nio.sessionlessCnxnTimeout", 10000),
        words=frozenset(w.strip() for w in (values.text(_WORDS) or "srvr").split(",")),
        snap_count=max(2, values.number("snapCount", 100000)),
        snap_size=values.number("snapSizeLimitInKb", 4194304) << 10,
        preallocate=values.number("preAllocSize", 65536) << 10,
        force_sync=values.flag("forceSync", True),
        trust_empty_snapshot=values.flag("snapshot.trust.empty", False),
        retain=values.number("autopurge.snapRetainCount", 3),
        purge_interval_h=values.number("autopurge.purgeInterval", 0),
    )
    for key in values.left():
        if key in _ENSEMBLE:
            continue
        if key.startswith(_MISSING):
            warn(f"{key} is not supported yet, and has no effect")
        else:
            warn(f"unknown key {key}, ignored")
    return config


def _refuse_ensembles(values: _Values, warn: Callable[[str], None]) -> None:
    servers = [key for key in values.left() if _SERVER.match(key)]
    if len(servers) > 1:
        raise ConfigError(
            f"it describes an ensemble of {len(servers)} servers; this server stands alone so far"
        )
    for key in servers:
        # As Java does (QuorumPeerConfig.parseDynamicConfig).
        values.text(key)
        warn(f"{key} is the only server: it stands alone")


def _settings(values: _Values) -> Settings:
    tick_ms = values.number("tickTime", 3000)
    if tick_ms <= 0:
        raise ConfigError(f"tickTime={tick_ms} is no time")
    shortest = values.number("minSessionTimeout", -1)
    longest = values.number("maxSessionTimeout", -1)
    shortest = 2 * tick_ms if shortest == -1 else shortest
    longest = 20 * tick_ms if longest == -1 else longest
    if shortest > longest:
        raise ConfigError("minSessionTimeout must not be larger than maxSessionTimeout")
    return Settings(
        tick_ms=tick_ms,
        min_session_timeout_ms=shortest,
        max_session_timeout_ms=longest,
        max_buffer=values.number("jute.maxbuffer", DEFAULT_MAX_BUFFER),
        extended_types=values.flag("extendedTypesEnabled", False),
        enforce_quota=values.flag("enforceQuota", False),
        skip_acl=values.flag("skipACL", False),
        reconfig_enabled=values.flag("reconfigEnabled", False),
        super_digest=values.text("DigestAuthenticationProvider.superDigest"),
        container_check_interval_ms=values.number("znode.container.checkIntervalMs", 60000),
        container_max_per_minute=max(1, values.number("znode.container.maxPerMinute", 10000)),
        container_max_never_used_ms=values.number("znode.container.maxNeverUsedIntervalMs", 0),
    )
