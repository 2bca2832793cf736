"""`mailmill why`: each thing that can keep mail from going out is named, with what to do about it."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from send_fixtures import Run
from send_world import Sink, World, by_address, thread, until
from verbs import Verb

from mailmill.io.postgres import control
from mailmill.io.postgres.situation import situations
from mailmill.pipelines.send.obstacles import Obstacle, obstacles


def why(world: World, name: str = "acme/spring") -> list[Obstacle]:
    with world.database.transaction() as conn:
        (one,) = situations(conn, name)
    return obstacles(one)


def lives(world: World) -> None:
    world.sql("INSERT INTO workers (name, host, boot_id, pid) VALUES ('w', 'h', 'b', 1)")


def test_nothing_keeps_a_campaign_that_is_ready_with_a_worker_that_lives(world: World) -> None:
    world.campaign(3)
    lives(world)
    assert why(world) == []


def test_without_a_worker_that_is_said(world: World) -> None:
    world.campaign(3)
    (found,) = why(world)
    assert found.what == "no send worker runs" and "mailmill send" in found.remedy


@pytest.mark.parametrize("state", ["draft", "paused", "cancelled", "failed", "missed", "finished"])
def test_a_campaign_that_does_not_run_says_since_when_and_by_whom(world: World, state: str) -> None:
    id = world.campaign(1, state=state)
    world.sql(
        "INSERT INTO campaign_transitions (tenant_id, campaign_id, from_state, to_state, by, reason)"
        " SELECT tenant_id, id, 'running', 'paused', 'ann', 'a wrong link' FROM campaigns WHERE id = %s", id,
    )  # fmt: skip
    (found,) = why(world)
    assert "ann: a wrong link" in found.what


def test_F52_a_held_route_is_named_with_its_reason_and_how_to_release_it(world: World, run: Run) -> None:
    with Sink(by_address({"auth": "535 5.7.8 wrong"})) as sink:
        world.campaign(2, port=sink.port, transport={"username": "u", "password": "env:P"})
        run()
    lives(world)
    (found,) = why(world)
    assert "held" in found.what and "535" in found.what
    assert f"mailmill release acme/relay-{sink.port}" in found.remedy


def test_a_relay_that_is_away_is_told_by_a_worker(world: World) -> None:
    world.campaign(2, port=9)
    lives(world)
    world.sql("""UPDATE workers SET troubles = '{"acme/relay-9": "the relay does not answer"}'""")
    (found,) = why(world)
    assert "acme/relay-9: the relay does not answer" in found.what and "transport test" in found.remedy
    world.sql("UPDATE workers SET ended_at = clock_timestamp()")
    said, missing = why(world)
    assert "does not answer" in said.what and "no send worker runs" in missing.what
    world.sql("INSERT INTO workers (name, host, boot_id, pid) VALUES ('w2', 'h', 'b', 2)")
    assert why(world) == [], "who sends now has nothing to say of the relay"


def test_workers_that_were_started_for_other_campaigns_are_no_hands(world: World) -> None:
    world.campaign(3)
    world.campaign(3, slug="later")
    lives(world)
    world.sql("UPDATE workers SET campaigns = '{acme/spring}'")
    assert why(world) == []
    (found,) = why(world, "acme/later")
    assert "1 were started for other campaigns" in found.what and "mailmill send --forever" in found.remedy
    with world.database.transaction() as conn:
        assert [control.live_workers(conn, f"acme/{slug}") for slug in ("spring", "later")] == [1, 0]


def test_a_content_that_a_worker_cannot_use_is_told_by_it(world: World, run: Run, mailmill: Verb) -> None:
    world.campaign(2, dkim=[{"selector": "s", "domain": "acme.example", "key": "env:NOBODY_SET_THIS"}])
    run()  # as a run of Dagster's, which ends
    (found,) = why(world)
    assert "cannot be used" in found.what and "NOBODY_SET_THIS" in found.what
    over = threading.Event()
    with thread(lambda: run(until=over.is_set)) as result:
        (found,) = until(
            lambda: world.sql("SELECT 1 FROM workers WHERE ended_at IS NULL AND troubles <> '{}'") and why(world)
        )
        (trouble,) = json.loads(mailmill("account", "acme/spring", "--json").out)["troubles"]
        assert mailmill("campaign", "cancel", "acme/spring").code == 0
        until(lambda: not world.sql("SELECT troubles FROM workers")[0][0])  # it is nobody's trouble any more
        over.set()
        result()
    assert "cannot be used" in found.what and "NOBODY_SET_THIS" in found.what and "mailmill workers" in found.remedy
    assert "NOBODY_SET_THIS" in trouble["said"]


def test_what_is_said_of_a_transport_of_another_type_is_what_mends_it(
    world: World, run: Run, mailmill: Verb, tmp_path: Path
) -> None:
    with Sink() as sink:
        name = f"relay-{sink.port}"
        id = world.campaign(2, port=sink.port, sandbox=True)
        world.sql("UPDATE campaigns SET spec = jsonb_build_object('transport', %s::text)", name)
        with thread(lambda: run(until=lambda: world.state(id) == "finished")) as result:
            (found,) = until(lambda: world.sql("TABLE workers") and why(world))
            assert "of another type now: change that back, or cancel it" in found.what
            said = f"Apply acme/{name} with `type: sandbox` again, or `mailmill campaign cancel acme/spring`."
            assert found.remedy == said and not sink.taken
            again = tmp_path / "again.yaml"
            again.write_text(
                f"{{kind: transport, tenant: acme, slug: {name}, type: sandbox, port: {sink.port}, tls: none}}"
            )
            told = mailmill("apply", str(again))
            assert told.code == 0, told.err
            result()
        assert len(sink.taken) == 2


def test_what_waits_for_its_next_attempt_says_until_when_and_why(world: World, run: Run) -> None:
    with Sink(by_address({"rcpt": "451 4.7.1 greylisted"})) as sink:
        world.campaign(2, port=sink.port)
        run()
    for has_worker in (False, True):  # where Dagster's runs send, none lives meanwhile
        if has_worker:
            lives(world)
        (found,) = why(world)
        assert "next attempt" in found.what and found.until is not None and found.until > datetime.now(UTC)


def test_a_closed_window_and_a_spent_limit_are_both_said(world: World) -> None:
    tomorrow = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")[(datetime.now(UTC) + timedelta(days=1)).weekday()]
    window: dict[str, Any] = {"days": [tomorrow], "start": "10:00", "end": "12:00", "time_zone": "UTC"}
    world.campaign(2, port=7, transport={"per_day": 10}, window=window)
    world.sql(
        "INSERT INTO budgets (transport_id, tenant_id, period, starts_at, used)"
        " SELECT id, tenant_id, 'day', date_trunc('day', clock_timestamp(), 'UTC'), 10 FROM transports"
    )
    lives(world)
    closed, spent = why(world)
    assert "window is closed" in closed.what and closed.until is not None
    assert "limit of 10 a day" in spent.what and "per_day" in spent.remedy


def test_leases_of_a_worker_that_is_gone_are_told_apart(world: World) -> None:
    id = world.campaign(2)
    world.sql("UPDATE messages SET state = 'leased', queued = false, lease_token = 5")
    world.sql(
        "INSERT INTO leases (token, worker, campaign_id, tenant_id, first_id, last_id, until)"
        " SELECT 5, 'gone', id, tenant_id, 1, 2, now() FROM campaigns WHERE id = %s", id,
    )  # fmt: skip
    lives(world)
    (found,) = why(world)
    assert "workers that are gone" in found.what and "--declare-lost" in found.remedy
