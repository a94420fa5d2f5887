"""Keys of zoo.cfg for what stands beside the client port: admin server, metrics, the throttle of
connections.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from zktrace_server.net.throttle import Throttle

_PROMETHEUS: Final = "org.apache.zookeeper.metrics.prometheus.PrometheusMetricsProvider"
#: They serve nothing; what they count is in mntr.
_SILENT: Final = (
    "org.apache.zookeeper.metrics.impl.DefaultMetricsProvider",
    "org.apache.zookeeper.metrics.impl.NullMetricsProvider",
)
#: Words in keys whose values are not to be shown.
_SECRET: Final = ("password", "superdigest", "passwd")
HIDDEN: Final = "***"


class ExtrasError(Exception):
    """The keys ask for what cannot be had."""


class Values(Protocol):
    """The keys of a configuration, each taken once."""

    def text(self, key: str, default: str | None = None) -> str | None: ...
    def number(self, key: str, default: int) -> int: ...
    def flag(self, key: str, default: bool) -> bool: ...


@dataclass(frozen=True, slots=True)
class AdminSettings:
    """`asked`: by the file, so that a port that is taken is an error."""

    address: str
    port: int
    url: str
    asked: bool


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    address: str
    port: int


def admin_from(values: Values) -> AdminSettings | None:
    """The admin server; it is there unless admin.enableServer says otherwise."""
    enabled = values.text("admin.enableServer")
    address = values.text("admin.serverAddress") or ""
    port = values.number("admin.serverPort", -1)
    url = values.text("admin.commandURL") or "/commands"
    values.text("admin.idleTimeout")
    values.text("admin.httpVersion")
    for key in ("admin.portUnification", "admin.forceHttps", "admin.needClientAuth"):
        if values.flag(key, False):
            raise ExtrasError(f"{key} is not supported: the admin server has no TLS")
    if (enabled or "true").lower() != "true":
        return None
    if port > 0xFFFF:
        raise ExtrasError(f"admin.serverPort={port} is no port")
    if not url.startswith("/"):
        raise ExtrasError(f"admin.commandURL={url} does not begin with /")
    asked = enabled is not None or port != -1
    return AdminSettings(address, 8080 if port == -1 else port, url, asked)


def metrics_from(values: Values, warn: Callable[[str], None]) -> MetricsSettings | None:
    """Where Prometheus scrapes, if metricsProvider.className names its provider."""
    provider = values.text("metricsProvider.className")
    address = values.text("metricsProvider.httpHost") or ""
    port = values.number("metricsProvider.httpPort", 7000)
    secure = values.number("metricsProvider.httpsPort", -1)
    values.text("metricsProvider.exportJvmInfo")
    if provider is None or provider in _SILENT:
        return None
    if provider != _PROMETHEUS:
        warn(f"metricsProvider.className={provider} is not supported, {_PROMETHEUS} is")
        return None
    if secure != -1:
        raise ExtrasError("metricsProvider.httpsPort is not supported: the port has no TLS")
    if not 0 <= port <= 0xFFFF:
        raise ExtrasError(f"metricsProvider.httpPort={port} is no port")
    return MetricsSettings(address, port)


def throttle_from(values: Values) -> Throttle:
    """connection_throttle_*, with BlueThrottle's defaults."""

    def real(key: str, default: float) -> float:
        text = values.text(f"connection_throttle_{key}")
        try:
            return default if text is None else float(text)
        except ValueError:
            raise ExtrasError(f"connection_throttle_{key}={text} is no number") from None

    def number(key: str, default: int) -> int:
        return values.number(f"connection_throttle_{key}", default)

    weighted = values.flag("connection_throttle_weight_enabled", False)
    local = max(1, number("local_session_weight", 1))
    new = max(number("global_session_weight", 3), local)
    renew = max(number("renew_session_weight", 2), local)
    return Throttle(
        tokens=max(0, number("tokens", 0)),
        fill_ms=max(1, number("fill_time", 1)),
        fill_count=number("fill_count", 1),
        freeze_ms=number("freeze_time", -1),
        drop_increase=real("drop_increase", 0.02),
        drop_decrease=real("drop_decrease", 0.002),
        decrease_ratio=real("decrease_ratio", 0.0),
        new_weight=new if weighted else 1,
        renew_weight=renew if weighted else 1,
    )


def shown(given: dict[str, str]) -> dict[str, str]:
    """Keys and values, without passwords."""
    return {key: HIDDEN if _is_secret(key) else value for key, value in sorted(given.items())}


def shown_text(text: str) -> str:
    """The text of a file, without passwords."""
    lines = []
    for line in text.splitlines(keepends=True):
        key, equals, _ = line.partition("=")
        end = "\n" if line.endswith("\n") else ""
        lines.append(f"{key}={HIDDEN}{end}" if equals and _is_secret(key) else line)
    return "".join(lines)


def _is_secret(key: str) -> bool:
    lower = key.lower()
    return any(word in lower for word in _SECRET) and not lower.strip().endswith("path")
