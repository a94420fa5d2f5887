"""zoo.cfg (QuorumPeerConfig): the file that Java's server reads, with the same keys.

A key that Java knows and this server has no use for is accepted in silence where nothing is
missed; where something is, and where nobody knows the key, a warning says so. System properties
can be given as keys without their "zookeeper.", as in Java.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from zktrace_server.core.acl import SCHEMES
from zktrace_server.core.settings import DEFAULT_MAX_BUFFER, Settings
from zktrace_server.net import jaas
from zktrace_server.net.extras import (
    AdminSettings,
    ExtrasError,
    MetricsSettings,
    admin_from,
    metrics_from,
    shown,
    shown_text,
    throttle_from,
)
from zktrace_server.net.quorumkeys import QuorumConfig, QuorumError, client_port, quorum_from
from zktrace_server.net.throttle import Throttle
from zktrace_server.net.tls import Tls, TlsError
from zktrace_server.net.tls import from_values as tls_from_values


class ConfigError(Exception):
    """The file cannot be used; the text says which line or key and why."""


@dataclass(frozen=True, slots=True)
class Config:
    """Names and defaults are Java's. Times in ms, sizes in bytes. Port 0: any free one (only here;
    Java does not listen then).
    """

    data_dir: Path
    data_log_dir: Path
    #: None: there is no such port.
    client_port: int | None
    client_address: str
    secure_port: int | None
    secure_address: str
    tls: Tls | None
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
    admin: AdminSettings | None
    metrics: MetricsSettings | None
    throttle: Throttle
    fsync_warning_ms: int
    #: The file and its keys, for people; without passwords.
    text: str
    given: Mapping[str, str]
    quorum: QuorumConfig | None = None


#: Nothing is missed when these do nothing in a server that stands alone.
_ENSEMBLE: Final = frozenset(
    (
        "initLimit",
        "syncLimit",
        "connectToLearnerMasterLimit",
        "electionAlg",
        "sslQuorum",
        "quorumListenOnAllIPs",
        "peerType",
        "syncEnabled",
        # Where logs go is up to whoever starts it.
        "log.dir",
        "root.logger",
        "leaderServes",
        "cnxTimeout",
        # How Java serves connections is Java's own affair.
        "serverCnxnFactory",
    )
)
#: Known to Java, not to this server yet.
_MISSING: Final = (
    "portUnification",
    "client.portUnification",
    "client.certReload",
    "letAnySaslUserDoX",
    "kerberos.",
    "quorum.",
    "audit.",
    "multiAddress.",
    "observerMasterPort",
)
#: Classes of authProvider.*, and their schemes.
_PROVIDERS: Final = {"SASLAuthenticationProvider": "sasl", "X509AuthenticationProvider": "x509"}
_SUPER: Final = "superUser"
_JAAS: Final = "java.security.auth.login.config"
_PREFIX: Final = "zookeeper."
#: Properties of Java that have no such prefix, and are of use here.
_PROPERTIES: Final = frozenset(
    (
        _JAAS,
        "jute.maxbuffer",
        "readonlymode.enabled",
        "znode.container.checkIntervalMs",
        "znode.container.maxPerMinute",
        "znode.container.maxNeverUsedIntervalMs",
    )
)
_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,19}\Z")
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

    def text(self, key: str, default: str | None = None, *, keep: bool = False) -> str | None:
        """`keep`: somebody else takes it, too."""
        return self._values.get(key, default) if keep else self._values.pop(key, default)

    def number(self, key: str, default: int, *, keep: bool = False) -> int:
        """`keep`: somebody else takes it, too."""
        value = self._values.get(key) if keep else self._values.pop(key, None)
        if value is None:
            return default
        if not _NUMBER.match(value) or not -(1 << 31) <= int(value) < 1 << 31:
            raise ConfigError(f"{key}={value} is no number (of 32 bits)")
        return int(value)

    def flag(self, key: str, default: bool, *, keep: bool = False) -> bool:
        """`keep`: somebody else takes it, too."""
        value = self._values.get(key) if keep else self._values.pop(key, None)
        if value is None:
            return default
        lower = value.lower()
        if lower not in ("true", "false", "yes", "no"):
            raise ConfigError(f"{key}={value} is neither true nor false")
        return lower in ("true", "yes")

    def left(self) -> list[str]:
        return list(self._values)


def load(
    path: Path, warn: Callable[[str], None], properties: Mapping[str, str] | None = None
) -> Config:
    """Reads a zoo.cfg. `properties`: what Java is given by -D; the file wins, as in Java.
    ConfigError where Java would not start with it either, or where it asks for what this server
    cannot do.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"cannot read {path}: {reason}") from None
    try:
        return from_values({**_own(properties or {}), **parse(text)}, warn, text, path)
    except (ConfigError, TlsError, ExtrasError) as error:
        raise ConfigError(f"{path}: {error}") from None


def _own(properties: Mapping[str, str]) -> dict[str, str]:
    """Those of Java's properties that are ZooKeeper's, as keys of the file."""
    found = {}
    for key, value in properties.items():
        if key.startswith(_PREFIX):
            found[key.removeprefix(_PREFIX)] = value
        elif key in _PROPERTIES:
            found[key] = value
    return found


def from_values(
    given: Mapping[str, str],
    warn: Callable[[str], None],
    text: str = "",
    path: Path | None = None,
) -> Config:
    """A configuration from keys and values; `text` is that of the file at `path`."""
    values = _Values(dict(given))
    data_dir = values.text("dataDir")
    if not data_dir:
        raise ConfigError("dataDir is not set")
    plain = (_port(values, "clientPort"), values.text("clientPortAddress") or "")
    secure = (_port(values, "secureClientPort"), values.text("secureClientPortAddress") or "")
    try:
        quorum = quorum_from(values, Path(data_dir), warn, path)
        if quorum is not None:
            own = quorum.ensemble.members[quorum.sid]
            plain = client_port(plain, own.client, "clientPort")
            secure = client_port(secure, own.secure, "secureClientPort")
    except QuorumError as error:
        raise ConfigError(str(error)) from None
    (plain_port, plain_address), (secure_port, secure_address) = plain, secure
    if plain_port is None and secure_port is None:
        raise ConfigError("neither clientPort nor secureClientPort is set")
    schemes = _schemes(values, warn, secure=secure_port is not None)
    tls = tls_from_values(values, warn) if secure_port is not None else None
    config = Config(
        data_dir=Path(data_dir),
        data_log_dir=Path(values.text("dataLogDir") or data_dir),
        client_port=plain_port,
        client_address=plain_address,
        secure_port=secure_port,
        secure_address=secure_address,
        tls=tls,
        settings=_settings(values, schemes, warn),
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
        quorum=quorum,
        admin=admin_from(values),
        metrics=metrics_from(values, warn),
        throttle=throttle_from(values),
        fsync_warning_ms=values.number("fsync.warningthresholdms", 1000),
        text=shown_text(text),
        given=shown(dict(given)),
    )
    for key in values.left():
        if key in _ENSEMBLE:
            continue
        if key.startswith(_MISSING):
            warn(f"{key} is not supported yet, and has no effect")
        elif key.startswith("ssl.quorum.") and (quorum is None or quorum.tls is None):
            warn(f"{key} has no effect without sslQuorum")
        elif key.startswith("ssl."):
            warn(
                f"{key} has no effect without secureClientPort"
                if tls is None
                else f"unknown key {key}, ignored"
            )
        else:
            warn(f"unknown key {key}, ignored")
    return config


def _port(values: _Values, key: str) -> int | None:
    port = values.number(key, -1)
    if port == -1:
        return None
    if not 0 <= port <= 0xFFFF:
        raise ConfigError(f"{key}={port} is no port")
    return port


def _schemes(values: _Values, warn: Callable[[str], None], *, secure: bool) -> frozenset[str]:
    """What authProvider.* adds to those that are always there (ProviderRegistry); with a TLS port
    x509 is one of these (QuorumPeerConfig.configureSSLAuth).
    """
    schemes = set(SCHEMES)
    if secure:
        schemes.add("x509")
        provider = values.text("ssl.authProvider") or "x509"
        if provider != "x509":
            raise ConfigError(f"ssl.authProvider={provider} is not supported, x509 is")
    for key in [key for key in values.left() if key.startswith("authProvider.")]:
        name = (values.text(key) or "").removeprefix("org.apache.zookeeper.server.auth.")
        if name in _PROVIDERS:
            schemes.add(_PROVIDERS[name])
        else:
            warn(f"{key}={name} is not supported, and has no effect")
    if not values.flag("DigestAuthenticationProvider.enabled", True):
        raise ConfigError("DigestAuthenticationProvider.enabled=false is not supported")
    return frozenset(schemes)


def _logins(values: _Values, warn: Callable[[str], None]) -> dict[str, str] | None:
    """Users of SASL; None where there is no login (ServerCnxnFactory.configureSaslLogin)."""
    section = values.text("sasl.serverconfig")
    location = values.text(_JAAS)
    if not location:
        return None
    try:
        text = Path(location).read_text(encoding="utf-8")
        users = jaas.users(text, section or "Server")
    except OSError as error:
        raise ConfigError(f"{_JAAS}: cannot read {location}: {error.strerror}") from None
    except (jaas.JaasError, UnicodeDecodeError) as error:
        raise ConfigError(f"{_JAAS}={location}: {error}") from None
    if users is None and section is not None:
        raise ConfigError(f"{_JAAS}={location}: there is no section {section}")
    return users


def _enforced(values: _Values, schemes: frozenset[str]) -> frozenset[str]:
    """Of what a client must prove to be one (AuthenticationHelper)."""
    if values.flag("sessionRequireClientSASLAuth", False):
        values.flag("enforce.auth.enabled", False)
        values.text("enforce.auth.schemes")
        wanted = frozenset(("sasl",))
    elif values.flag("enforce.auth.enabled", False):
        given = (values.text("enforce.auth.schemes") or "").split(",")
        wanted = frozenset(name.strip() for name in given if name.strip())
        if not wanted:
            raise ConfigError("enforce.auth.enabled=true wants enforce.auth.schemes")
    else:
        return frozenset()
    for scheme in wanted - schemes:
        raise ConfigError(f"enforce.auth.schemes: there is no authProvider for {scheme}")
    return wanted


def _settings(values: _Values, schemes: frozenset[str], warn: Callable[[str], None]) -> Settings:
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
        read_only_enabled=values.flag("readonlymode.enabled", False),
        local_sessions=values.flag("localSessionsEnabled", False),
        local_sessions_upgrade=values.flag("localSessionsUpgradingEnabled", False),
        standalone_enabled=values.flag("standaloneEnabled", True),
        schemes=schemes,
        sasl_users=_logins(values, warn),
        sasl_super_password=values.text("SASLAuthenticationProvider.superPassword"),
        super_users=_super_users(values),
        allow_failed_sasl=values.flag("allowSaslFailedClients", False),
        x509_super_user=values.text("X509AuthenticationProvider.superUser"),
        enforce_schemes=_enforced(values, schemes),
        super_digest=values.text("DigestAuthenticationProvider.superDigest"),
        container_check_interval_ms=values.number("znode.container.checkIntervalMs", 60000),
        container_max_per_minute=max(1, values.number("znode.container.maxPerMinute", 10000)),
        container_max_never_used_ms=values.number("znode.container.maxNeverUsedIntervalMs", 0),
    )


def _super_users(values: _Values) -> frozenset[str]:
    """superUser, and superUser.* for more of them (ZooKeeperServer.isSaslSuperUser)."""
    keys = [key for key in values.left() if key == _SUPER or key.startswith(_SUPER + ".")]
    return frozenset(name for key in keys if (name := values.text(key)))
