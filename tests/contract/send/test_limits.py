"""What a transport's limits count: a message in the window in which it was reserved, whenever it is given back."""

from __future__ import annotations

import time
from datetime import timedelta

from send_world import World, until

from mailmill.io.postgres import ledger
from mailmill.pipelines.send.orders import FIELD, LINE, Claimed, Order


def ids(claimed: Claimed) -> list[int]:
    return [int(row.split(FIELD, 1)[0]) for row in claimed.rows.split(LINE)]


def test_P11_what_was_reserved_before_a_window_turned_makes_no_room_after_it(world: World) -> None:
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

    until(lambda: 1 < time.time() % 60 < 50)  # no minute turns by itself
    before = claim(1)
    # the minute turns, the day does not
    world.sql("UPDATE budgets SET starts_at = starts_at - interval '1 min' WHERE period = 'minute'")
    minute, day = before.reserved
    earlier = minute._replace(starts_at=minute.starts_at - timedelta(minutes=1))
    now = claim(2)
    assert (before.leased, now.leased, now.reserved) == (10, 10, [minute, day])
    with world.database.transaction("sender") as conn:
        assert ledger.give_back(conn, order(1), ids(before)[:4], [earlier, day]) == 4
        assert ledger.give_back(conn, order(1), ids(before)[:4], [earlier, day]) == 0, "said twice, given back once"
    used = "SELECT period, used FROM budgets ORDER BY period, starts_at"
    assert world.sql(used) == [("day", 16), ("minute", 6), ("minute", 10)]
    spent = claim(3)
    assert (spent.leased, world.sql(used)) == (0, [("day", 16), ("minute", 6), ("minute", 10)])
    assert spent.retry_s is not None and 0 < spent.retry_s <= 60
