"""The native data plane."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from zktrace.wire.layout import schema_text
from zktrace_proxy.plane import Config, Decision, PlaneError, Question, Upstream, Verdict
from zktrace_proxy.tls import NO_TLS, Identity, Tls, TlsError, key_log, read

if TYPE_CHECKING:
    from zktrace.engine.base import LiveEngine


def _ms(seconds: float) -> int:
    return max(round(seconds * 1000), 1)


class Missing(PlaneError):
    """There is no native engine."""


@cache
def _ops() -> tuple[list[int], list[int]]:
    """Opcodes whose request begins with a path; those of them where a watch flag follows it."""
    paths, watches = [], []
    for line in schema_text().splitlines():
        what, number, *rest = line.split(" ")
        if what == "op" and rest[2].startswith("ustring:path"):
            paths.append(int(number))
            if rest[2].startswith("ustring:path,bool:watch"):
                watches.append(int(number))
    return paths, watches


def _program(expression: str | None) -> tuple[str, Any] | None:
    if expression is None:
        return None
    from zktrace.analysis.filter_program import compile_program

    return expression, compile_program(expression)


def _shown(identity: Identity) -> tuple[str, bytes, bytes]:
    return identity.certificate, read(identity.certificate), read(identity.key)


def _tls(tls: Tls) -> tuple[Any, Any]:
    """What the files hold, for clients and for servers.

    :raises TlsError: one cannot be read.
    """
    clients: Any = None
    servers: Any = None
    if tls.clients is not None:
        ca = tls.clients.ca
        signers = None if ca is None else ((ca, read(ca)), tls.clients.required)
        clients = [_shown(one) for one in tls.clients.identities], signers
    if tls.servers is not None:
        given = tls.servers
        servers = (
            given.verify,
            None if given.ca is None else (given.ca, read(given.ca)),
            None if given.identity is None else _shown(given.identity),
        )
    return clients, servers


class NativePlane:
    """See :class:`zktrace_proxy.plane.Plane`."""

    def __init__(self, config: Config) -> None:
        try:
            from zktrace._native import Relay
        except ImportError as error:
            raise Missing(f"zktrace's native engine was not built here ({error})") from None
        record = config.record
        self._tls = config.tls
        paths, watches = _ops()
        try:
            if config.tls != NO_TLS:
                key_log()
            clients, servers = _tls(config.tls)
            self._relay = Relay(
                [(listener.address, list(listener.upstreams)) for listener in config.listeners],
                spill_limit=config.spill_limit,
                slow_reader_ms=None if config.slow_reader_s is None else _ms(config.slow_reader_s),
                connect_timeout_ms=_ms(config.connect_timeout_s),
                max_connections=config.max_connections,
                tap_limit=config.tap_limit,
                lossless=config.lossless,
                taps=[config.lossless] * config.taps + [False] * config.observers,
                record=None
                if record is None
                else (
                    record.path,
                    record.rotate_bytes,
                    None if record.rotate_s is None else _ms(record.rotate_s),
                    record.keep,
                    record.redact,
                    record.data_bytes,
                    _program(record.filter),
                ),
                max_frame=config.max_frame,
                when_down=config.when_down,
                paths=paths,
                watches=watches,
                rules=[rule.form(number) for number, rule in enumerate(config.rules, 1)],
                tls_clients=clients,
                tls_servers=servers,
            )
        except OSError as error:
            raise PlaneError(error.strerror or str(error)) from None
        except (TlsError, ValueError) as error:
            raise PlaneError(str(error)) from None

    def addresses(self) -> list[str]:
        return self._relay.addresses()

    def next(self, timeout_s: float, tap: int = 0) -> bytes | None:
        return self._relay.next(tap, _ms(timeout_s))

    def feed(self, engine: LiveEngine, source: int, budget_s: float, tap: int = 0) -> bool:
        from zktrace.engine.native import NativeEngine

        if not isinstance(engine, NativeEngine):
            return False
        engine.feed_from(self._relay, tap, source, _ms(budget_s))
        return True

    def ended(self, tap: int = 0) -> bool:
        return self._relay.ended(tap)

    def counters(self) -> dict[str, int]:
        return self._relay.counters()

    def recorded(self) -> tuple[int, int, str | None]:
        return self._relay.recorded()

    def add_rule(self, form: tuple[Any, ...]) -> None:
        self._relay.add_rule(form)

    def remove_rule(self, number: int) -> bool:
        return self._relay.remove_rule(number)

    def rules(self) -> list[tuple[int, int, int, bool]]:
        return self._relay.rules()

    def decisions(self) -> tuple[list[Decision], int]:
        made, forgotten = self._relay.decisions()
        return [Decision(**one) for one in made], forgotten

    def set_upstreams(self, listener: int, servers: Sequence[Upstream]) -> None:
        self._relay.set_upstreams(listener, servers)

    def reload_tls(self) -> None:
        try:
            self._relay.set_tls(*_tls(self._tls))
        except (TlsError, ValueError) as error:
            raise PlaneError(str(error)) from None

    def notices(self) -> tuple[list[str], int]:
        return self._relay.notices()

    def drain(self, over_s: float) -> int:
        return self._relay.drain(_ms(over_s))

    def question(self, timeout_s: float) -> Question | None:
        asked = self._relay.question(_ms(timeout_s))
        return None if asked is None else Question(**asked)

    def decide(self, question: Question, what: Verdict, frame: bytes | None = None) -> bool:
        return self._relay.decide(question.connection, question.ticket, what, frame)

    def inject(self, connection: int, frame: bytes) -> bool:
        return self._relay.inject(connection, frame)

    def stop(self) -> None:
        self._relay.stop()
