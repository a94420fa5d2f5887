"""Names, zxids and versions: there and back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zktrace_proxy.messages.maps import Names, Offsets, Zxids

_NUMBER = st.integers(0, 99).map(lambda n: f"{n:010d}")
_PARENT = st.sampled_from(["/q", "/locks/a", "/q/deep/er"])


@given(
    st.dictionaries(st.tuples(_PARENT, _NUMBER), _NUMBER, max_size=20),
    st.sampled_from(["", "/replay1", "/a/b"]),
    st.sampled_from(["", "/child", "/child-0000000001"]),
)
def test_a_path_goes_there_and_back(
    made: dict[tuple[str, str], str], prefix: str, below: str
) -> None:
    names = Names(prefix)
    taken: set[str] = set()
    for (parent, number), live in made.items():
        if f"{parent}/n-{live}" not in taken:
            taken.add(f"{parent}/n-{live}")
            names.learn(f"{parent}/n-{number}", f"{parent}/n-{live}")
    for (parent, number), _ in made.items():
        recorded = f"{parent}/n-{number}"
        if recorded not in {r for r, _ in _pairs(names)}:
            continue
        path = recorded + below
        assert names.to_recorded(names.to_live(path)) == path
        assert names.to_live(path).startswith(prefix + parent)


def _pairs(names: Names) -> list[tuple[str, str]]:
    return list(names._live.items())


def test_names_below_a_mapped_name_and_beside_it() -> None:
    names = Names("/p")
    names.learn("/q/n-0000000001", "/q/n-0000000009")
    names.learn("/q/n-0000000001/s-0000000000", "/q/n-0000000009/s-0000000004")
    assert names.to_live("/q/n-0000000001/x") == "/p/q/n-0000000009/x"
    assert names.to_live("/q/n-0000000001/s-0000000000/y") == "/p/q/n-0000000009/s-0000000004/y"
    assert names.to_live("/q/n-00000000011") == "/p/q/n-00000000011"
    assert names.to_live("/") == "/p"
    assert names.to_live("/zookeeper/config") == "/zookeeper/config"
    assert names.to_recorded("/p/q/n-0000000009/s-0000000004") == "/q/n-0000000001/s-0000000000"
    assert names.to_recorded("/p") == "/"


@given(st.lists(st.tuples(st.integers(1, 1000), st.integers(1, 1000)), unique_by=lambda p: p[0]))
def test_zxids_are_found_exactly_or_from_below(pairs: list[tuple[int, int]]) -> None:
    zxids = Zxids()
    for recorded, live in pairs:
        zxids.learn(recorded, live)
    known = dict(pairs)
    for at in range(1002):
        assert zxids.live(at) == known.get(at)
        before = [recorded for recorded in known if recorded <= at]
        assert zxids.floor(at) == (known[max(before)] if before else 0)


def test_zxids_have_a_limit_and_say_what_was_given_up() -> None:
    zxids = Zxids(limit=100)
    for number in range(1, 1001):
        zxids.learn(number, number + 5)
    assert len(zxids) <= 100
    assert zxids.forgotten == 1000 - len(zxids)
    assert zxids.live(1000) == 1005
    assert zxids.live(1) is None


@given(st.integers(0, 50), st.integers(0, 50), st.integers(-1, 60))
def test_an_expected_version_keeps_its_distance(recorded: int, live: int, asked: int) -> None:
    offsets = Offsets()
    offsets.learn("/a", (recorded, 0, 0), (live, 0, 0))
    mapped = offsets.version("/a", asked)
    if asked < 0:
        assert mapped == -1
    elif asked + live - recorded >= 0:
        assert (mapped == live) == (asked == recorded)
    assert offsets.version("/b", asked) == asked
