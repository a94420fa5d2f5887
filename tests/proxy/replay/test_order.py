"""The order graph: no cycle, no two that conflict at once, everything comes to its end."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from zktrace_proxy.replay.order import Mode, Order


class One:
    """A step as the order sees it."""

    def __init__(
        self,
        number: int,
        conn: int,
        keys: tuple[list[str], list[str]],
        own: bool,
        wide: bool,
        makes: tuple[str, ...],
        adds: bool = False,
    ) -> None:
        self.number = number
        self.conn = conn
        self.reads = tuple(keys[0])
        self.writes = tuple(keys[1]) if own else ()
        self.adds = tuple(key for key in self.writes if adds and key[0] == "c")
        self.groups: list[Any] = []
        self.writes_zxid = own
        self.wide = wide
        self.makes = makes
        self.waits = 0
        self.dependents: list[Any] = []
        self.done = False


_KEYS = st.lists(
    st.sampled_from(["na", "ca", "nb", "cb", "n/q/x-0000000001"]), max_size=3, unique=True
)
_STEPS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.tuples(_KEYS, _KEYS),
        st.booleans(),
        st.booleans(),
        st.sampled_from([(), (), ("/q/x-0000000001",)]),
        st.booleans(),
    ),
    max_size=40,
)


def _made(drawn: list[Any]) -> list[One]:
    return [One(number, *one) for number, one in enumerate(drawn)]


@given(_STEPS, st.sampled_from(list(Mode)), st.randoms(use_true_random=False), st.integers(1, 10))
def test_whoever_is_ready_goes_in_any_order_and_all_come_to_an_end(
    drawn: list[Any], mode: Mode, chance: Any, room: int
) -> None:
    order = Order(mode)
    waiting = _made(drawn)
    queues: dict[int, list[One]] = {}
    #: by connection, in its order: sent; handled by the server, but not answered
    sent: dict[int, list[One]] = {}
    handled: dict[int, list[One]] = {}
    done: list[One] = []
    while waiting or order.under_way:
        while waiting and order.under_way < room:
            step = waiting.pop(0)
            order.add(step)
            assert all(not one.waits for one in order.freed())
            queues.setdefault(step.conn, []).append(step)
        ready = [queue for queue in queues.values() if queue and not queue[0].waits]
        busy = [conn for conn in range(4) if sent.get(conn)]
        answered = [conn for conn in range(4) if handled.get(conn)]
        assert ready or busy or answered, "a dead-lock"
        # the earliest one waits for nobody
        assert not order.first().waits
        what = chance.choice([one for one in (ready, busy, answered) if one])
        if what is ready:
            step = chance.choice(ready).pop(0)
            sent.setdefault(step.conn, []).append(step)
        elif what is busy:
            step = sent[chance.choice(busy)].pop(0)
            handled.setdefault(step.conn, []).append(step)
            done.append(step)
        else:
            assert all(
                not one.waits for one in order.finish(handled[chance.choice(answered)].pop(0))
            )
    assert len(done) == len(drawn)
    place = {step.number: at for at, step in enumerate(done)}
    for later in done:
        for earlier in done:
            if earlier.number < later.number and _conflict(earlier, later, mode):
                assert place[earlier.number] < place[later.number]
    if mode is Mode.conflict:
        assert _added_last(sorted(done, key=lambda one: one.number)) == _added_last(done)


def _added_last(them: list[One]) -> dict[tuple[int, str], int | None]:
    """Whose addition is the last one that a step finds where it looks at a list."""
    last: dict[str, int] = {}
    found = {}
    for one in them:
        alone = [key for key in one.writes if key not in one.adds]
        for key in (*one.reads, *alone):
            found[one.number, key] = last.get(key)
        for key in one.adds:
            last[key] = one.number
    return found


def _conflict(one: One, two: One, mode: Mode) -> bool:
    if one.conn == two.conn:
        return True
    if mode is Mode.strict:
        return one.writes_zxid or two.writes_zxid
    if mode is not Mode.conflict:
        return False
    if (one.wide and two.writes_zxid) or (two.wide and one.writes_zxid):
        return True
    written, other = set(one.writes), set(two.writes)
    together = set(one.adds) & set(two.adds)
    return bool((written & (other | set(two.reads)) - together) or other & set(one.reads))


@given(_STEPS)
def test_nothing_is_kept_of_what_is_done(drawn: list[Any]) -> None:
    for mode in Mode:
        order = Order(mode)
        steps = _made(drawn)
        for step in steps:
            order.add(step)
        order.freed()
        for step in steps:
            assert step.waits == 0, "those before it are done"
            order.finish(step)
        kept = [value for name, value in vars(order).items() if name != "mode" and value]
        assert kept == []


def test_a_name_is_waited_for_on_its_own_connection_too() -> None:
    for mode in Mode:
        order = Order(mode)
        maker = One(0, 1, ([], ["n/q/x-0000000001"]), True, False, ("/q/x-0000000001",))
        user = One(1, 1, (["n/q/x-0000000001/below"], []), False, False, ())
        order.add(maker)
        order.add(user)
        assert user.waits == 1
        assert order.finish(maker) == [user]


def test_children_come_and_go_at_once_and_the_last_one_closes_the_list() -> None:
    order = Order(Mode.conflict)
    adds = [One(n, n, ([], [f"n/q/{n}", "c/q"]), True, False, (), True) for n in range(4)]
    for number, one in enumerate(adds):
        order.add(one)
        freed = order.freed()
        # the last one waits for the others, until it is the last no more
        assert freed == ([adds[number - 1]] if number > 1 else [])
    assert [one.waits for one in adds] == [0, 0, 0, 1]
    looks = One(4, 5, (["c/q"], []), False, False, ())
    after = One(5, 6, ([], ["n/q/6", "c/q"]), True, False, (), True)
    more = One(6, 7, ([], ["n/q/7", "c/q"]), True, False, (), True)
    for one in (looks, after, more):
        order.add(one)
    assert order.freed() == []
    assert [one.waits for one in (looks, after, more)] == [1, 2, 2]
    assert order.finish(adds[2]) == order.finish(adds[0]) == []
    assert order.finish(adds[1]) == [adds[3]]
    assert order.finish(adds[3]) == [looks]
    assert order.finish(looks) == [after]
    assert order.finish(after) == [more]
    assert order.finish(more) == []
