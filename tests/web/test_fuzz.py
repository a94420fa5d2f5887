"""The API against requests made of its own description: nothing but what it says may come back."""

from __future__ import annotations

import pytest

schemathesis = pytest.importorskip("schemathesis")

from hypothesis import HealthCheck, settings  # noqa: E402
from schemathesis.specs.openapi import checks  # noqa: E402

from tests.web.conftest import picture_of  # noqa: E402
from zktrace.web.app import create_app  # noqa: E402

_NOT_HELD = [checks.positive_data_acceptance]
_APP = create_app(picture_of("02_basic_ops.pcap"))
# A stream does not end.
schema = schemathesis.openapi.from_asgi("/openapi.json", _APP).exclude(path="/api/stream")


@schema.parametrize()  # type: ignore[untyped-decorator]
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_answers_are_as_described(case: object) -> None:
    # That a filter is an expression its description cannot say.
    case.call_and_validate(excluded_checks=_NOT_HELD)  # type: ignore[attr-defined]
