"""The ledger's statements about rows under a lease, without a relay."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from send_world import World

from mailmill.io.journal import Left
from mailmill.io.postgres import doubts, ledger
from mailmill.io.postgres.database import Database
from mailmill.pipelines.send.orders import FIELD, LINE, Claimed, Order


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


@dataclass(frozen=True)
class Leases:
    """A worker's claims of one campaign; the token of a lease is its number."""

    world: World
    order: Order

    @classmethod
    def of(cls, world: World, campaign: int) -> Leases:
        ((tenant, transport),) = world.sql("SELECT tenant_id, transport_id FROM campaigns WHERE id = %s", campaign)
        world.sql("INSERT INTO workers (name, host, boot_id, pid) VALUES ('w', 'h', 'b', 1) ON CONFLICT DO NOTHING")
        return cls(
            world,
            Order(
                token=0, worker="w", campaign_id=campaign, tenant_id=tenant, transport_id=transport, limit=100,
                lease_s=60, give_up_after_s=3600,
            ),
        )  # fmt: skip

    def claim(self, token: int) -> Claimed:
        with self.world.database.transaction("sender") as conn:
            return ledger.claim(conn, replace(self.order, token=token))


def ids(claimed: Claimed) -> list[int]:
    return [int(row.split(FIELD, 1)[0]) for row in claimed.rows.split(LINE)]


@pytest.mark.parametrize("lost", ["machine", "power"])
def test_P09_the_policy_for_doubts_holds_also_where_no_journal_tells_of_them(world: World, lost: str) -> None:
    """A machine lost with its disk; a journal that may be incomplete."""
    campaigns = {doubt: world.campaign(4, slug=doubt, doubt=doubt) for doubt in ("hold", "resend")}
    for token, campaign in enumerate(campaigns.values(), 1):
        leases = Leases.of(world, campaign)
        rows = ids(leases.claim(token))
        with world.database.transaction("sender") as conn:
            if lost == "machine":
                assert doubts.lose(conn, token) == 4
            else:
                left = Left(Path("/nowhere"), token, answered=[], attempted=rows[:1], incomplete=True)
                assert doubts.replay(conn, left, at=datetime.now(UTC)) == doubts.Replayed(in_doubt=4)
    assert world.account(campaigns["hold"]) == {"in_doubt": 4} and world.account(campaigns["resend"]) == {"queued": 4}
    marked = "SELECT DISTINCT queued, doubted, due_at > clock_timestamp(), lease_token IS NULL FROM messages"
    assert world.sql(marked + " WHERE state = 'queued'") == [(True, True, True, True)]
    world.sql("UPDATE messages SET attempt = 7, due_at = '-infinity' WHERE queued")
    assert Leases.of(world, campaigns["resend"]).claim(9).leased == 4
    with world.database.transaction("sender") as conn:
        assert doubts.lose(conn, 9) == 4
    assert world.account(campaigns["resend"]) == {"in_doubt": 4}, "copies have a bound"
