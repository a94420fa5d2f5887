"""Every capture against its ground truth, with both engines."""

from __future__ import annotations

import pytest

from tests.support import compare
from tests.support.cases import everything
from tests.support.decoded import decode
from tests.truth.check import judge


@pytest.mark.parametrize("name", sorted(everything()))
def test_decode_agrees_with_the_truth(name: str, engine: str) -> None:
    """Each request and reply once, with op, xid, path, error, zxid, time and latency; none
    invented.
    """
    sample = everything()[name]
    found = judge(sample, decode(*sample.files, engine=engine))
    assert not found, compare.report(found)
