"""What users write after --listen and --upstream."""

from __future__ import annotations

import pytest

from zktrace_proxy.addresses import listeners, resolve
from zktrace_proxy.plane import PlaneError


def test_addresses_are_resolved() -> None:
    assert resolve("127.0.0.1:2181") == ("127.0.0.1:2181",)
    assert resolve("[::1]:2181") == ("[::1]:2181",)
    assert "127.0.0.1:2181" in resolve("localhost:2181")
    assert resolve(":2181", listening=True) == ("0.0.0.0:2181",)


def test_listeners_have_their_own_servers_or_the_common_ones() -> None:
    made = listeners(["127.0.0.1:1", "127.0.0.1:2=127.0.0.1:3"], "127.0.0.1:4,127.0.0.1:5")
    assert [(one.address, tuple(to.address for to in one.upstreams)) for one in made] == [
        ("127.0.0.1:1", ("127.0.0.1:4", "127.0.0.1:5")),
        ("127.0.0.1:2", ("127.0.0.1:3",)),
    ]


@pytest.mark.parametrize(
    ("listen", "upstream", "words"),
    [
        ([], "127.0.0.1:1", "nothing to listen on"),
        (["127.0.0.1:1"], None, "nothing behind 127.0.0.1:1"),
        (["127.0.0.1"], "127.0.0.1:1", "'127.0.0.1' is not HOST:PORT"),
        (["127.0.0.1:1"], "127.0.0.1:99999", "is not HOST:PORT"),
        (["127.0.0.1:1"], "127.0.0.1:x", "is not HOST:PORT"),
        (["127.0.0.1:1"], ":2181", "names no host"),
        (["127.0.0.1:1"], "127.0.0.1:2181/chroot", "chroot"),
        (["127.0.0.1:1"], "127.0.0.1:2,127.0.0.1:1", "to itself"),
        (["127.0.0.1:1"], "no..such:1", "no..such"),
    ],
)
def test_what_is_wrong_is_told(listen: list[str], upstream: str | None, words: str) -> None:
    with pytest.raises(PlaneError) as told:
        listeners(listen, upstream)
    assert words in str(told.value)
    assert "\n" not in str(told.value)
