"""How often one caller may ask."""

from __future__ import annotations

from mailmill.api.stats.limits import RateLimit


class Watch:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_is_let_through_and_then_the_rate() -> None:
    watch = Watch()
    limit = RateLimit(per_minute=6, burst=3, monotonic=watch)
    assert [limit.take("a") for _ in range(4)] == [None, None, None, 10]
    watch.now = 9.0
    assert limit.take("a") == 1
    watch.now = 10.0
    assert limit.take("a") is None
    watch.now = 1000.0  # however long the pause, no more than a burst
    assert [limit.take("a") for _ in range(4)] == [None, None, None, 10]


def test_callers_do_not_share_and_are_forgotten_oldest_first() -> None:
    limit = RateLimit(per_minute=6, burst=1, monotonic=Watch(), callers=2)
    assert limit.take("a") is None and limit.take("b") is None
    assert limit.take("a") is not None
    assert limit.take("c") is None  # b goes
    assert limit.take("a") is not None and limit.take("b") is None
