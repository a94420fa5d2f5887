"""An application over a capture of 45 clients that watch a znode."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.javazk import free_ports
from tests.web.conftest import picture_of
from zktrace.web.app import create_app


@pytest.fixture(scope="module")
def api() -> Any:
    return create_app(picture_of("57_v39_herd.pcap"))


@pytest.fixture(scope="module")
def of_users() -> Any:
    """Of a client that authenticates, which none of the others do."""
    return create_app(picture_of("30_sasl_digest_md5.pcap"))


@pytest.fixture
def unused_port() -> int:
    return free_ports(1)[0]
