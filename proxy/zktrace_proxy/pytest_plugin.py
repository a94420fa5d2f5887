"""The fixtures ``zktrace_proxy`` and ``zktrace_answers`` for tests, found by pytest by itself.

    def test_it(zktrace_proxy):
        p = zktrace_proxy("127.0.0.1:2181")
        client = KazooClient(p.hosts)
        p.faults.add("expire times=1")

    def test_that(zktrace_answers):
        server = zktrace_answers("recorded.pcapng")
        client = KazooClient(server.hosts)

Imports what they make only where they are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from zktrace_proxy.replay.standin.testing import Answering
    from zktrace_proxy.testing import Between


@pytest.fixture
def zktrace_proxy() -> Iterator[Callable[..., Between]]:
    """Makes proxies (:func:`zktrace_proxy.between` says what it takes) that end with the test."""
    from zktrace_proxy.testing import between

    with ExitStack() as stack:

        def make(*arguments: Any, **options: Any) -> Between:
            return stack.enter_context(between(*arguments, **options))

        yield make


@pytest.fixture
def zktrace_answers() -> Iterator[Callable[..., Answering]]:
    """Makes servers that answer from recordings (:func:`zktrace_proxy.answering` says what it
    takes) and end with the test.
    """
    from zktrace_proxy.replay.standin.testing import answering

    with ExitStack() as stack:

        def make(*arguments: Any, **options: Any) -> Answering:
            return stack.enter_context(answering(*arguments, **options))

        yield make
