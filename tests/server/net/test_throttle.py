"""The throttle of connections by a clock and a chance of the test's own."""

from __future__ import annotations

from zktrace_server.net.throttle import ConnectionThrottle, Throttle


def admitted(throttle: ConnectionThrottle, now_ms: int, count: int, *, renew: bool = False) -> int:
    return sum(throttle.admit(renew, now_ms) for _ in range(count))


def test_without_tokens_there_is_no_limit() -> None:
    assert admitted(ConnectionThrottle(Throttle(), 0, lambda: 0.0), 0, 1000) == 1000


def test_a_bucket_that_is_filled_again() -> None:
    throttle = ConnectionThrottle(Throttle(tokens=5, fill_ms=10, fill_count=2), 0, lambda: 0.0)
    assert admitted(throttle, 0, 9) == 5
    assert throttle.deficit == 5
    assert admitted(throttle, 10, 9) == 0  # Java wants more than fill_time to have passed
    assert admitted(throttle, 11, 9) == 2
    assert admitted(throttle, 1_000_000, 9) == 5


def test_weights() -> None:
    given = Throttle(tokens=2, fill_ms=1_000_000, new_weight=3, renew_weight=2)
    throttle = ConnectionThrottle(given, 0, lambda: 0.0)
    assert admitted(throttle, 0, 9, renew=True) == 3
    assert admitted(ConnectionThrottle(given, 0, lambda: 0.0), 0, 9) == 2


def test_chance_comes_when_the_bucket_stays_empty() -> None:
    given = Throttle(
        tokens=1, fill_ms=1_000_000, freeze_ms=10, drop_increase=0.4, drop_decrease=0.3
    )
    throttle = ConnectionThrottle(given, 0, lambda: 0.5)
    assert throttle.admit(False, 0)
    for at, drop in ((11, 0.4), (22, 0.8), (33, 1.0), (44, 1.0)):
        assert not throttle.admit(False, at)
        assert throttle.drop == drop
    # Full again: chance lets go, step by step.
    assert not throttle.admit(False, 2_000_000_000)
    assert throttle.drop == 0.7
    assert throttle.admit(False, 2_000_000_011)
