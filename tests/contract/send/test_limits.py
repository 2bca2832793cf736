"""What a transport's limits count: a message, in the window in which it is handed over."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from send_fixtures import Run
from send_oracle import judge
from send_world import Sink, World, thread, until

from mailmill.io.postgres import ledger
from mailmill.pipelines.send.orders import FIELD, LINE, Claimed, Order


def ids(claimed: Claimed) -> list[int]:
    return [int(row.split(FIELD, 1)[0]) for row in claimed.rows.split(LINE)]


def windows(world: World, monkeypatch: pytest.MonkeyPatch, period: str) -> None:
    """Let per_minute count in windows of another length; an hour has a minute left at least."""
    until(lambda: period != "hour" or time.time() % 3600 < 3540)
    monkeypatch.setattr(ledger, "PERIODS", (period, "day"))
    world.sql("ALTER TABLE budgets DROP CONSTRAINT budgets_period_check")


def test_P11_what_was_reserved_before_a_window_turned_makes_no_room_after_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows(world, monkeypatch, "hour")  # a minute turns by itself
    campaign = world.campaign(100, transport={"per_minute": 10, "per_day": 45})
    ((tenant, transport),) = world.sql("SELECT tenant_id, id FROM transports")
    world.sql("INSERT INTO workers (name, host, boot_id, pid) VALUES ('w', 'h', 'b', 1)")

    def order(token: int) -> Order:
        return Order(
            token=token, worker="w", campaign_id=campaign, tenant_id=tenant, transport_id=transport, limit=30,
            lease_s=60, give_up_after_s=60, per_minute=10, per_day=45,
        )  # fmt: skip

    def claim(token: int) -> Claimed:
        with world.database.transaction("sender") as conn:
            return ledger.claim(conn, order(token))

    before = claim(1)
    # the hour turns, the day does not
    world.sql("UPDATE budgets SET starts_at = starts_at - interval '1 hour' WHERE period = 'hour'")
    day, hour = sorted(before.reserved)
    earlier = hour._replace(starts_at=hour.starts_at - timedelta(hours=1))
    now = claim(2)
    assert (before.leased, now.leased, now.reserved) == (10, 10, [hour, day])
    with world.database.transaction("sender") as conn:
        assert ledger.give_back(conn, order(1), ids(before)[:4], [earlier, day]) == 4
        assert ledger.give_back(conn, order(1), ids(before)[:4], [earlier, day]) == 0, "said twice, given back once"
    used = "SELECT period, used FROM budgets ORDER BY period, starts_at"
    assert world.sql(used) == [("day", 16), ("hour", 6), ("hour", 10)]
    spent = claim(3)
    assert (spent.leased, world.sql(used)) == (0, [("day", 16), ("hour", 6), ("hour", 10)])
    assert spent.retry_s is not None and 0 < spent.retry_s <= 3600


def test_a_limit_by_the_minute_is_a_pace_and_ends_no_worker_that_was_to_send_what_there_is(
    world: World, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as it lasts for less than twice the worker's patience: half a minute, and a minute."""
    windows(world, monkeypatch, "hour")  # a minute turns by itself
    ((left_s,),) = world.sql("SELECT extract(epoch FROM date_trunc('hour', now()) + interval '1 hour' - now())::float8")
    with Sink() as sink:
        campaign = world.campaign(3, port=sink.port, transport={"per_minute": 2})
        with thread(lambda: run(patience_s=0.75 * left_s)) as result:
            until(lambda: world.account(campaign).get("sent") == 2)
            until(lambda: world.sql("SELECT 1 FROM workers WHERE doing ->> 'bound_by' = 'limit'"))
            world.sql("UPDATE budgets SET used = 0")
            result()
    assert world.account(campaign) == {"sent": 3}


def test_P11_what_is_begun_as_a_window_ends_counts_for_the_next(
    world: World, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The relay lets us wait for 354 until the window has turned."""
    windows(world, monkeypatch, "second")  # a minute is long
    begun: list[str] = []

    def script(stage: str, to: str) -> str | None:
        if stage == "data":
            begun.append(to)
        return "wait" if stage == "data" and waits else None

    waits = True
    with Sink(script) as sink:
        campaign = world.campaign(4, port=sink.port, transport={"connections": 3, "per_minute": 3})
        with thread(lambda: run(patience_s=5.0)) as result:
            until(lambda: begun)
            early, seen = begun[0], time.time()
            until(lambda: time.time() > seen + 1.1)
            assert not sink.handed
            waits = False
            sink.go()
            result()
        assert judge(world, campaign, sink, doubts=0) == {"sent": 4}
    assert begun.count(early) > 1, "handed over when its window was over"
    assert {row[2] for row in world.rows(campaign).values()} == {1}
    used = [n for (n,) in world.sql("SELECT used FROM budgets WHERE period = 'second'")]
    assert sum(used) == 4 and max(used) <= 3
