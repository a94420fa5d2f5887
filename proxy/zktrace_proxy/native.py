"""The native data plane."""

from __future__ import annotations

from zktrace_proxy.plane import Config, PlaneError


def _ms(seconds: float) -> int:
    return max(round(seconds * 1000), 1)


class NativePlane:
    """See :class:`zktrace_proxy.plane.Plane`."""

    def __init__(self, config: Config) -> None:
        try:
            from zktrace._native import Relay
        except ImportError as error:
            raise PlaneError(
                f"the proxy needs zktrace's native engine, which was not built here ({error})"
            ) from None
        record = config.record
        try:
            self._relay = Relay(
                [(listener.address, list(listener.upstreams)) for listener in config.listeners],
                spill_limit=config.spill_limit,
                slow_reader_ms=None if config.slow_reader_s is None else _ms(config.slow_reader_s),
                connect_timeout_ms=_ms(config.connect_timeout_s),
                max_connections=config.max_connections,
                tap_limit=config.tap_limit,
                lossless=config.lossless,
                tap=config.tap,
                record=None
                if record is None
                else (
                    record.path,
                    record.rotate_bytes,
                    None if record.rotate_s is None else _ms(record.rotate_s),
                    record.keep,
                    record.redact,
                ),
            )
        except OSError as error:
            raise PlaneError(error.strerror or str(error)) from None
        except ValueError as error:
            raise PlaneError(str(error)) from None

    def addresses(self) -> list[str]:
        return self._relay.addresses()

    def next(self, timeout_s: float) -> bytes | None:
        return self._relay.next(_ms(timeout_s))

    def ended(self) -> bool:
        return self._relay.ended()

    def counters(self) -> dict[str, int]:
        return self._relay.counters()

    def recorded(self) -> tuple[int, int, str | None]:
        return self._relay.recorded()

    def stop(self) -> None:
        self._relay.stop()
