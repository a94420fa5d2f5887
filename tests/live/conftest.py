"""Namespaces for the tests that capture."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.live.netns import Namespace, namespaces, need_live


@pytest.fixture(scope="session")
def live() -> None:
    """Capturing works here."""
    need_live()


@pytest.fixture
def alone(live: None) -> Iterator[Namespace]:
    """A namespace with nothing but loopback."""
    with namespaces(1) as made:
        yield made[0]


@pytest.fixture
def pair(live: None) -> Iterator[tuple[Namespace, Namespace]]:
    """Two namespaces and a link between: `near` and `far`."""
    with namespaces(2) as (one, other):
        one.ip(
            *("link", "add", "near", "type", "veth"),
            *("peer", "name", "far", "netns", str(other.pid)),
        )
        one.ip("link", "set", "near", "up")
        other.ip("link", "set", "far", "up")
        yield one, other
