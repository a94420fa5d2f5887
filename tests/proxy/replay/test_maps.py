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
        if recorded not in names:
            continue
        path = recorded + below
        assert names.to_recorded(names.to_live(path)) == path
        assert names.to_live(path).startswith(prefix + parent)


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


def test_zxids_that_come_late_are_in_order() -> None:
    zxids = Zxids(limit=4)
    for recorded in (10, 30, 20, 40):
        zxids.learn(recorded, recorded + 1)
    zxids.learn(30, 32)
    assert zxids.recorded(31) is None
    assert [zxids.floor(at) for at in (9, 10, 25, 35, 99)] == [0, 11, 21, 32, 41]
    zxids.learn(50, 51)
    assert (zxids.floor(19), zxids.floor(20)) == (0, 21)


def test_names_have_a_limit_and_are_forgotten_in_all_directions() -> None:
    names = Names(limit=16)
    for number in range(100):
        names.learn(f"/q/n-{number:010}", f"/q/n-{number + 5:010}")
    assert len(names) <= 16
    assert names.forgotten == 100 - len(names)
    last = "/q/n-0000000099"
    assert names.data_to_live(b"n-0000000099") == b"n-0000000104"
    names.forget(last)
    assert last not in names
    assert names.to_live(last) == last
    assert names.to_recorded("/q/n-0000000104") == "/q/n-0000000104"
    assert names.data_to_live(b"n-0000000099") == b"n-0000000099"
    assert names.data_to_recorded(b"n-0000000104") == b"n-0000000104"
    for number in range(100):
        names.learn(f"/q/n-{number:010}", f"/q/n-{number:010}")
    assert names.is_identity


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
