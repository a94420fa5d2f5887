"""The capture layer of each engine in turn."""

from __future__ import annotations

import pytest

from tests.capture.build import HAVE_NATIVE, Reader, read_native, read_python

_native = pytest.param(
    read_native,
    id="native",
    marks=pytest.mark.skipif(not HAVE_NATIVE, reason="native engine not built"),
)


@pytest.fixture(params=[pytest.param(read_python, id="python"), _native])
def read(request: pytest.FixtureRequest) -> Reader:
    reader: Reader = request.param
    return reader
