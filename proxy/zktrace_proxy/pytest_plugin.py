"""The fixture ``zktrace_proxy`` for tests, found by pytest by itself.

    def test_it(zktrace_proxy):
        p = zktrace_proxy("127.0.0.1:2181")
        client = KazooClient(p.hosts)
        p.faults.add("expire times=1")

Imports the proxy only where the fixture is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from zktrace_proxy.testing import Between


@pytest.fixture
def zktrace_proxy() -> Iterator[Callable[..., Between]]:
    """Makes proxies (:func:`zktrace_proxy.between` says what it takes) that end with the test."""
    from zktrace_proxy.testing import between

    with ExitStack() as stack:

        def make(*arguments: Any, **options: Any) -> Between:
            return stack.enter_context(between(*arguments, **options))

        yield make
