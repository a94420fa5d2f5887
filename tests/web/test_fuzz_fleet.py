"""The routes of a fleet against requests made of their own description, as ``test_fuzz``: those of
all agents, and those of one ensemble.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

schemathesis = pytest.importorskip("schemathesis")

from hypothesis import HealthCheck, settings  # noqa: E402
from schemathesis.specs.openapi import checks  # noqa: E402

from tests.fleet.test_message import MESSAGES  # noqa: E402
from zktrace.fleet.feed import FleetFeed  # noqa: E402
from zktrace.fleet.spool import Spool  # noqa: E402
from zktrace.fleet.way import Notice, Publisher, Reader  # noqa: E402
from zktrace.web import fleet  # noqa: E402
from zktrace.web.app import create_app  # noqa: E402

_NOT_HELD = [checks.positive_data_acceptance]


class _Nowhere:
    """A bus that carries what a test puts on it."""

    bus = "NATS"
    shown = "127.0.0.1:4222"
    take: Callable[[bytes], None]

    def publisher(self, spool: Spool, ensemble: str, notice: Notice) -> Publisher:
        raise NotImplementedError

    def reader(self, take: Callable[[bytes], None], notice: Notice) -> Reader:
        self.take = take
        return Reader(self.bus, self.shown, take, notice)


_WAY = _Nowhere()
_FEED = FleetFeed(_WAY)
for message in MESSAGES:
    _WAY.take(message)
_APP = create_app(_FEED.picture)
fleet.add(_APP, _FEED, 0)
_WHERE = schemathesis.openapi.from_asgi
# A stream does not end.
whole = _WHERE("/openapi.json", _APP).exclude(path="/api/stream")
one = _WHERE("/ensembles/prod/openapi.json", _APP).exclude(path="/api/stream")
_SETTINGS = settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))


def test_there_is_something_to_ask_for() -> None:
    assert _FEED.ensembles() == ["prod"]
    assert _FEED.state()["agents"]
    paths = {operation.ok().path for operation in whole.get_all_operations()}
    assert {"/api/fleet", "/api/ops", "/api/findings"} <= paths
    assert len([*one.get_all_operations()]) == len(paths) - 1


@whole.parametrize()  # type: ignore[untyped-decorator]
@_SETTINGS
def test_answers_of_all_agents_are_as_described(case: object) -> None:
    case.call_and_validate(excluded_checks=_NOT_HELD)  # type: ignore[attr-defined]


@one.parametrize()  # type: ignore[untyped-decorator]
@_SETTINGS
def test_answers_of_an_ensemble_are_as_described(case: object) -> None:
    case.call_and_validate(excluded_checks=_NOT_HELD)  # type: ignore[attr-defined]
