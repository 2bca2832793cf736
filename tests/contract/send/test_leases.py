"""The ledger's statements about rows under a lease, without a relay."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from send_world import World, thread, until

from mailmill.io.journal import Left
from mailmill.io.postgres import configuration, doubts, ledger
from mailmill.io.postgres.database import Database
from mailmill.io.postgres.situation import situations
from mailmill.pipelines.send.answers import Answer
from mailmill.pipelines.send.obstacles import obstacles
from mailmill.pipelines.send.orders import FIELD, LINE, Claimed, Order, Outcome


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

    def attempted(self, message: int, attempt: int) -> None:
        """A 4xx at RCPT."""
        self.world.sql(
            "INSERT INTO attempts VALUES (%s, %s, %s, clock_timestamp(), %s, 'c', 'rcpt', 450, NULL, '', 0)",
            message, attempt, self.order.tenant_id, self.order.transport_id,
        )  # fmt: skip

    def hold_back(self, conn: psycopg.Connection, token: int, rows: list[int], provider: str) -> None:
        order = replace(self.order, token=token)
        assert ledger.give_back(conn, order, rows, [], held_for=[provider] * len(rows)) == len(rows)
        ledger.end_lease(conn, token)

    def hold(self, provider: str) -> None:
        with self.world.database.transaction("sender") as conn:
            assert ledger.hold(conn, self.order.transport_id, "blocked", provider)

    def release(self) -> int:
        with self.world.database.transaction("owner") as conn:
            return ledger.release(conn, self.order.transport_id)


def ids(claimed: Claimed) -> list[int]:
    return [int(row.split(FIELD, 1)[0]) for row in claimed.rows.split(LINE)]


@pytest.mark.parametrize("lost", ["machine", "power", "links"])
def test_P09_the_policy_for_doubts_holds_however_they_are_learnt_of(world: World, lost: str) -> None:
    """A machine lost with its disk; a journal that may be incomplete; links lost behind the final dot."""
    campaigns = {doubt: world.campaign(4, slug=doubt, doubt=doubt, max_attempts=24) for doubt in ("hold", "resend")}
    for token, campaign in enumerate(campaigns.values(), 1):
        leases = Leases.of(world, campaign)
        rows = ids(leases.claim(token))
        with world.database.transaction("sender") as conn:
            if lost == "machine":
                assert doubts.lose(conn, token) == 4
            elif lost == "links":
                lines = [Outcome(id, "in_doubt", "no_answer", answer=Answer("dot", 0, "lost")).line() for id in rows]
                left = Left(Path("/nowhere"), token, answered=lines, attempted=[], incomplete=False)
                assert doubts.replay(conn, left, at=datetime.now(UTC)) == doubts.Replayed(recorded=4)
            else:
                left = Left(Path("/nowhere"), token, answered=[], attempted=rows[:1], incomplete=True)
                assert doubts.replay(conn, left, at=datetime.now(UTC)) == doubts.Replayed(in_doubt=4)
    assert world.account(campaigns["hold"]) == {"in_doubt": 4} and world.account(campaigns["resend"]) == {"queued": 4}
    marked = "SELECT DISTINCT queued, doubted, due_at > clock_timestamp(), lease_token IS NULL FROM messages"
    assert world.sql(marked + " WHERE state = 'queued'") == [(True, True, True, True)]
    world.sql("UPDATE messages SET attempt = 7, due_at = '-infinity' WHERE queued")
    leases = Leases.of(world, campaigns["resend"])
    deferred, *_ = ids(leases.claim(9))
    leases.attempted(deferred, 3)
    with world.database.transaction("sender") as conn:
        assert doubts.lose(conn, 9) == 4
    assert world.account(campaigns["resend"]) == {"queued": 1, "in_doubt": 3}, "copies have a bound"
    world.sql("UPDATE messages SET attempt = 1")
    with world.database.transaction("sender") as conn:
        lines = [Outcome(id, "in_doubt", "no_answer").line() for (id,) in world.sql("SELECT id FROM messages")]
        transport = leases.order.transport_id
        assert ledger.record(conn, token=9, transport_id=transport, lines=lines, resend_after_s=0) == 0
    assert world.account(campaigns["resend"]) == {"queued": 1, "in_doubt": 3}, "nor is it done for what was told before"


def test_claims_go_on_while_a_person_settles_doubts_or_applies(world: World) -> None:
    campaign = world.campaign(3)
    leases = Leases.of(world, campaign)
    world.sql("UPDATE messages SET state = 'in_doubt', queued = false WHERE id = 1")
    for token in (1, 2):
        with world.database.transaction() as person, world.database.transaction("sender") as worker:
            if token == 1:
                assert doubts.resolve(person, campaign, "resend", None, by="ann") == 1
            else:
                configuration.lock(person, ["acme/spring"])
            worker.execute("SET LOCAL lock_timeout = '5s'")
            assert ledger.claim(worker, replace(leases.order, token=token, limit=1)).leased == 1


WHEN = "SELECT state::text, extract(epoch FROM due_at - clock_timestamp())::float8 FROM messages ORDER BY id"


def test_what_goes_to_a_held_provider_is_not_claimed_again_before_it_is_released(world: World) -> None:
    leases = Leases.of(world, world.campaign(3))
    rows = ids(leases.claim(1))
    leases.attempted(rows[0], 1)
    world.sql("UPDATE messages SET attempt = 2 WHERE id = %s", rows[0])
    with world.database.transaction("sender") as conn:
        leases.hold_back(conn, 1, rows[:2], "google")  # before the hold itself is written
        assert ledger.give_back(conn, replace(leases.order, token=1), rows[2:], [], held_for=None) == 1
    assert [state for state, _ in world.sql(WHEN)] == ["held", "held", "queued"]
    assert all(0 < due_s <= 60 for _, due_s in world.sql(WHEN)[:2])
    leases.hold("google")
    world.sql("UPDATE messages SET due_at = '-infinity'")
    assert ids(leases.claim(2)) == rows
    with world.database.transaction("sender") as conn:
        leases.hold_back(conn, 2, rows, "google")
    assert [due_s for _, due_s in world.sql(WHEN)] == [float("inf")] * 3 and leases.claim(3).leased == 0
    with world.database.transaction("owner") as conn:
        (found,) = [one for one in obstacles(situations(conn, "acme/spring")[0]) if "worker" not in one.what][:1]
        assert "held for recipients at google" in found.what
    world.sql("UPDATE attempts SET at = at - interval '9 hours'")  # longer than it is given, but waiting is no try
    assert leases.release() == 3 and leases.claim(4).leased == 3


def test_no_release_passes_between_the_look_at_a_hold_and_what_waits_for_its_end(world: World) -> None:
    leases = Leases.of(world, world.campaign(2))
    leases.hold("google")
    first, second = ids(leases.claim(1))

    def waits() -> bool:
        asked = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        return bool(world.sql(asked))

    with world.database.transaction("sender") as conn:
        leases.hold_back(conn, 1, [first, second], "google")
        with thread(leases.release) as released:
            until(waits)
            conn.commit()
            assert released() == 2
    leases.hold("google")
    assert ids(leases.claim(2)) == [first, second]
    with world.database.transaction("owner") as releasing:
        assert ledger.release(releasing, leases.order.transport_id) == 0
        with world.database.transaction("sender") as conn:  # does not wait for it
            leases.hold_back(conn, 2, [first, second], "google")
    assert all(0 < due_s <= 60 for _, due_s in world.sql(WHEN))


def test_a_sweep_takes_so_many_at_a_time_however_many_campaigns_have_ended(world: World) -> None:
    """A worker records nothing meanwhile."""
    for slug in ("one", "two"):
        world.campaign(12_000, slug=slug, ends_at=datetime.now(UTC) - timedelta(seconds=1))
    with world.database.transaction("sender") as conn:
        ledger.session(conn)
        assert [ledger.sweep(conn), ledger.sweep(conn), ledger.sweep(conn)] == [20_000, 4_000, 0]
