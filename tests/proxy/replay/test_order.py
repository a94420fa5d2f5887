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
    ) -> None:
        self.number = number
        self.conn = conn
        self.reads = tuple(keys[0])
        self.writes = tuple(keys[1]) if own else ()
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
    sent: list[One] = []
    done: list[One] = []
    while waiting or order.under_way:
        while waiting and order.under_way < room:
            step = waiting.pop(0)
            order.add(step)
            queues.setdefault(step.conn, []).append(step)
        ready = [queue for queue in queues.values() if queue and not queue[0].waits]
        assert ready or sent, "a dead-lock"
        # the earliest one waits for nobody
        assert not order.first().waits
        if ready and (not sent or chance.random() < 0.5):
            sent.append(chance.choice(ready).pop(0))
            continue
        # a connection is answered in its order
        first = {step.conn: step for step in reversed(sent)}
        step = chance.choice(list(first.values()))
        sent.remove(step)
        order.finish(step)
        done.append(step)
    assert len(done) == len(drawn)
    place = {step.number: at for at, step in enumerate(done)}
    for later in done:
        for earlier in done:
            if earlier.number < later.number and _conflict(earlier, later, mode):
                assert place[earlier.number] < place[later.number]


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
    return bool(written & (other | set(two.reads)) or other & set(one.reads))


@given(_STEPS)
def test_nothing_is_kept_of_what_is_done(drawn: list[Any]) -> None:
    for mode in Mode:
        order = Order(mode)
        steps = _made(drawn)
        for step in steps:
            order.add(step)
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
