"""What starts a run, evaluated over a real database and an instance of Dagster's own."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
from psycopg.types.json import Jsonb

from mailmill import definitions
from mailmill.assets import partitions
from mailmill.io.postgres.database import Database
from mailmill.pipelines.ingest import addresses
from mailmill.sensors import lost_runs, schedules, sensors

REPOSITORY = definitions.defs.get_repository_def()
SETUP = """
INSERT INTO tenants (slug, name, postal_address, spec)
VALUES ('acme', 'Acme', 'Here', '{}'), ('beta', 'Beta', 'There', '{}');
INSERT INTO sources (tenant_id, slug, kind, spec)
SELECT id, 'drop', 'csv', '{"folder": "inbox"}' FROM tenants WHERE slug = 'acme';
INSERT INTO sources (tenant_id, slug, kind, spec)
SELECT id, 'crawl', 'scraper_pro', '{}' FROM tenants WHERE slug = 'beta';
INSERT INTO segments (tenant_id, slug, spec) SELECT id, 'all', '{}' FROM tenants;
INSERT INTO campaigns (tenant_id, slug, spec, state, scheduled_at)
SELECT id, 'due', '{}', 'scheduled', now() FROM tenants WHERE slug = 'acme';
INSERT INTO campaigns (tenant_id, slug, spec, state, scheduled_at)
SELECT id, 'later', '{}', 'scheduled', now() + interval '1 day' FROM tenants WHERE slug = 'acme';
INSERT INTO campaigns (tenant_id, slug, spec) SELECT id, 'draft', '{}' FROM tenants WHERE slug = 'beta';
"""


@dataclass
class World:
    """The part of an installation that sensors look at."""

    database: Database
    project: Path
    resolver: object | None = None


@pytest.fixture
def world(database: Database, tmp_path: Path) -> World:
    with database.transaction() as conn:
        conn.execute(SETUP)
    return World(database, tmp_path)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


def sense(name: str, world: World, instance: dg.DagsterInstance, cursor: str | None = None) -> dg.SensorResult:
    context = dg.build_sensor_context(instance=instance, cursor=cursor, resources={"mill": world})
    result = getattr(sensors, name)(context)
    assert isinstance(result, dg.SensorResult)
    return result


def keys(result: dg.SensorResult) -> list[str]:
    return sorted(str(request.partition_key) for request in result.run_requests or ())


def published(instance: dg.DagsterInstance, tenant: str) -> None:
    partitions.add(instance, partitions.tenants, [tenant])
    instance.report_runless_asset_event(dg.AssetMaterialization("published_contacts", partition=tenant))


def refreshed(instance: dg.DagsterInstance, cursor: str | None) -> tuple[list[str], str | None]:
    """One tick of the sensor as the code server evaluates it: the segments it asks for, and its next cursor."""
    context = dg.build_sensor_context(instance=instance, cursor=cursor, repository_def=REPOSITORY)
    tick = sensors.segments_follow_contacts.evaluate_tick(context)
    return sorted(str(request.partition_key) for request in tick.run_requests or ()), tick.cursor


def test_contacts_of_a_tenant_refresh_its_segments_and_nobody_elses(instance: dg.DagsterInstance) -> None:
    partitions.add(instance, partitions.segments, ["acme|all", "acme|press", "beta|all"])
    asked, cursor = refreshed(instance, None)
    assert asked == []  # there are no contacts
    published(instance, "acme")
    asked, cursor = refreshed(instance, cursor)
    assert asked == ["acme|all", "acme|press"]
    partitions.add(instance, partitions.sources, ["acme|drop"])
    instance.report_runless_asset_event(dg.AssetMaterialization("contacts", partition="acme|drop"))
    asked, cursor = refreshed(instance, cursor)
    assert asked == [], "an import says by itself not that contacts changed: it may have read nothing"
    published(instance, "acme")
    published(instance, "beta")
    asked, cursor = refreshed(instance, cursor)
    assert asked == ["acme|all", "acme|press", "beta|all"]
    partitions.add(instance, partitions.segments, ["beta|new"])
    assert refreshed(instance, cursor)[0] == ["beta|new"]


def test_contacts_are_reported_whenever_they_were_published_as_others(
    world: World, instance: dg.DagsterInstance
) -> None:
    """Whoever did it: a run, a verb, or the erasure of a person."""
    cursor = None
    listed = "INSERT INTO manifest (file, tenant_id, dataset, rows, bytes) SELECT %s, id, %s, 1, 1 FROM tenants"
    for statement, values, told in (
        (listed + " WHERE slug = 'acme'", ("a", "contacts"), ["acme"]),
        (listed + " WHERE slug = 'acme'", ("raw", "raw"), []),
        ("UPDATE manifest SET facts = '{\"as_of\": 1}'", None, []),  # what was looked at again and stayed as it was
        (listed + " WHERE slug = 'beta'", ("b", "contacts"), ["beta"]),
        ("UPDATE manifest SET file = 'new' WHERE file = 'a'", None, ["acme"]),
        (listed + " WHERE slug = 'beta'", ("second", "contacts"), ["beta"]),
        ("DELETE FROM manifest WHERE file = 'b'", None, ["beta"]),
    ):
        with world.database.transaction() as conn:
            conn.execute(statement, values)
        said = sense("publications", world, instance, cursor)
        events, cursor = said.asset_events or (), said.cursor
        assert [(one.asset_key.to_user_string(), one.partition) for one in events] == [
            ("published_contacts", tenant) for tenant in told
        ], statement
    assert sorted(instance.get_dynamic_partitions("tenants")) == ["acme", "beta"]


def test_contacts_that_change_while_a_segment_is_made_refresh_it_afterwards(instance: dg.DagsterInstance) -> None:
    partitions.add(instance, partitions.segments, ["acme|all"])
    published(instance, "acme")
    _, cursor = refreshed(instance, None)
    run = instance.create_run_for_job(
        job_def=definitions.defs.resolve_job_def("segment"),
        status=dg.DagsterRunStatus.STARTED,
        tags={"dagster/partition": "acme|all"},
    )
    published(instance, "acme")
    asked, cursor = refreshed(instance, cursor)
    assert asked == []
    instance.report_run_canceled(run)
    assert refreshed(instance, cursor)[0] == ["acme|all"]


def test_a_dropped_file_is_ingested_once_it_has_settled(
    world: World, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = world.project / "inbox"
    inbox.mkdir()
    (inbox / "people.csv").write_text("email\n")

    def write_on(seconds: float) -> None:
        with (inbox / "people.csv").open("a") as file:
            file.write("a@b.example\n")

    with monkeypatch.context() as patched:
        patched.setattr(sensors, "SETTLED_S", 3600.0)  # it is young, however long the look takes
        patched.setattr("mailmill.sensors.sensors.time.sleep", write_on)
        assert not keys(sense("inbox", world, instance))
    seen = sense("inbox", world, instance)  # in the same tick in which it has settled
    assert keys(seen) == ["acme|drop"]
    assert not keys(sense("inbox", world, instance, seen.cursor))

    # it was refused, say: taken away, the source corrected, the file put back as it was
    (inbox / "people.csv").rename(world.project / "people.csv")
    away = sense("inbox", world, instance, seen.cursor)
    assert not keys(away)
    (world.project / "people.csv").rename(inbox / "people.csv")
    back = sense("inbox", world, instance, away.cursor)
    (world.project / "other.csv").write_text("email\nb@b.example\n")
    about = (inbox / "people.csv").stat()
    os.utime(world.project / "other.csv", ns=(about.st_atime_ns, about.st_mtime_ns))
    (world.project / "other.csv").rename(inbox / "people.csv")
    other = sense("inbox", world, instance, back.cursor)
    runs = [one.run_key for tick in (seen, back, other) for one in tick.run_requests or ()]
    assert len(runs) == len(set(runs)) == 3, "Dagster makes no run of a key that it knows"


def test_a_folder_that_cannot_be_looked_at_holds_up_no_other_source_and_is_told_once_by_a_run(
    world: World, instance: dg.DagsterInstance
) -> None:
    inbox, away = world.project / "inbox", world.project / "away"
    inbox.mkdir()
    (inbox / "people.csv").write_text("email\n")
    with world.database.transaction() as conn:
        conn.execute(
            "INSERT INTO sources (tenant_id, slug, kind, spec)"
            " SELECT id, 'odd', 'csv', jsonb_build_object('folder', repeat('x', 300)) FROM tenants WHERE slug = 'acme'"
        )
    ticks = [sense("inbox", world, instance)]
    for before, after in ((inbox, away), (away, inbox), (inbox, away)):
        before.rename(after)
        ticks += [sense("inbox", world, instance, ticks[-1].cursor)]
        ticks += [sense("inbox", world, instance, ticks[-1].cursor)]
    assert [keys(tick) for tick in ticks] == [["acme|drop"], *[["acme|drop"], []] * 3]
    runs = [one.run_key for tick in ticks for one in tick.run_requests or ()]
    assert len(runs) == len(set(runs))


def test_a_folder_whose_import_failed_for_a_passing_reason_is_read_again_once_the_pause_is_over(
    world: World, instance: dg.DagsterInstance
) -> None:
    found = []
    for wait in ("5 minutes", "-1 second"):
        with world.database.transaction() as conn:
            conn.execute("UPDATE sources SET retry_at = now() + %s::interval", (wait,))
        found.append(keys(sense("inbox", world, instance)))
    assert found == [[], ["acme|drop"]]
    runs = [one.run_key for _ in range(2) for one in sense("inbox", world, instance).run_requests or ()]
    assert len(runs) == 2 and len(set(runs)) == 1, "one run a failure: the key stays"


def test_a_folder_is_read_again_when_its_source_was_applied_with_a_change(
    world: World, instance: dg.DagsterInstance
) -> None:
    before = sense("inbox", world, instance)
    assert not keys(before), "it has no file"
    with world.database.transaction() as conn:
        conn.execute("UPDATE sources SET applied_at = clock_timestamp() WHERE slug = 'drop'")
    after = sense("inbox", world, instance, before.cursor)
    assert keys(after) == ["acme|drop"], "what was refused or held for its columns comes in"
    assert not keys(sense("inbox", world, instance, after.cursor))


def test_what_was_applied_becomes_partitions(world: World, instance: dg.DagsterInstance) -> None:
    wanted = {
        request.partitions_def_name: sorted(request.partition_keys)
        for request in sense("configuration", world, instance).dynamic_partitions_requests or ()
    }
    assert wanted == {
        "sources": ["acme|drop", "beta|crawl"],
        "tenants": ["acme", "beta"],
        "segments": ["acme|all", "beta|all"],
        "campaigns": ["acme|due", "acme|later", "beta|draft"],
    }


def test_a_segment_is_made_anew_when_its_rule_was_edited(world: World, instance: dg.DagsterInstance) -> None:
    def asked() -> list[tuple[str | None, str | None]]:
        return [(one.partition_key, one.run_key) for one in sense("configuration", world, instance).run_requests or ()]

    assert asked() == []  # never made: the automation condition does that
    with world.database.transaction() as conn:
        conn.execute(
            "INSERT INTO manifest (file, tenant_id, dataset, part, rows, bytes, facts)"
            " SELECT 'f', tenant_id, 'segments', slug, 1, 1, spec FROM segments LIMIT 1"
        )
    assert asked() == []
    with world.database.transaction() as conn:
        conn.execute('UPDATE segments SET spec = \'{"rule": {"tag": "news"}}\', applied_at = clock_timestamp()')
    ((partition, key),) = asked()
    assert partition == "acme|all" and asked() == [(partition, key)]  # one run an edit: the key stays


def tick(name: str, world: World, instance: dg.DagsterInstance) -> list[str]:
    context = dg.build_schedule_context(
        instance=instance, scheduled_execution_time=datetime.now(UTC), resources={"mill": world}
    )
    return [str(request.partition_key) for request in getattr(schedules, name)(context)]


def skipped(name: str, world: World, instance: dg.DagsterInstance) -> str:
    """Why a tick started nothing."""
    context = dg.build_schedule_context(
        instance=instance, scheduled_execution_time=datetime.now(UTC), resources={"mill": world}
    )
    (reason,) = getattr(schedules, name)(context)
    assert isinstance(reason, dg.SkipReason)
    return str(reason.skip_message)


def test_F35_the_tick_starts_what_is_due_and_not_what_is_at_work(world: World, instance: dg.DagsterInstance) -> None:
    with world.database.transaction() as conn:
        conn.execute("UPDATE campaigns SET state = 'cancelled', scheduled_at = NULL WHERE slug = 'draft'")
    context = dg.build_schedule_context(
        instance=instance, scheduled_execution_time=datetime.now(UTC), resources={"mill": world}
    )
    first = {str(one.partition_key): one.tags.get("dagster/priority") for one in schedules.campaign_tick(context)}
    assert first == {"acme|due": "1", "beta|draft": None}, "what is to start comes before what is only to be settled"
    with world.database.transaction() as conn:
        conn.execute("UPDATE campaigns SET finished_at = now() WHERE slug = 'draft'")
    assert tick("campaign_tick", world, instance) == ["acme|due"]
    instance.add_run(
        dg.DagsterRun(job_name="campaign", status=dg.DagsterRunStatus.STARTED, tags={"mailmill/campaign": "acme|due"})
    )
    assert tick("campaign_tick", world, instance) == []


def test_the_tick_starts_no_run_for_a_campaign_that_may_not_send_now(
    world: World, instance: dg.DagsterInstance
) -> None:
    """Through the night, say: it would find the window closed each minute, or the day's limit spent."""
    week = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    far = [week[(datetime.now(UTC).weekday() + days) % 7] for days in (2, 3, 4, 5)]  # whenever midnight comes
    closed = {"days": far, "start": "00:00:00", "end": "00:00:00", "time_zone": "UTC"}
    with world.database.transaction() as conn:
        conn.execute(
            "INSERT INTO transports (tenant_id, slug, kind, spec)"
            """ SELECT id, 'relay', 'smtp', '{"per_day": 10}' FROM tenants WHERE slug = 'acme';"""
            "INSERT INTO campaigns (tenant_id, slug, spec, state, transport_id, content, first_message_id, planned)"
            " SELECT tenant_id, 'night', '{}', 'running', id, '{}', 1, 1 FROM transports;"
            "INSERT INTO messages (id, tenant_id, campaign_id, contact_id, address, address_key, domain)"
            " SELECT 1, tenant_id, id, 1, 'a@x.org', 'a@x.org', 'x.org' FROM campaigns WHERE slug = 'night'"
        )

    def due(change: str, *values: object) -> bool:
        with world.database.transaction() as conn:
            conn.execute(change, values)
        return "acme|night" in tick("campaign_tick", world, instance)

    content = "UPDATE campaigns SET content = %s WHERE slug = 'night'"
    assert due(content, Jsonb({"sandbox": False, "window": None}))
    assert not due(content, Jsonb({"sandbox": False, "window": closed}))
    assert due(content, Jsonb({"sandbox": True, "window": closed})), "to a sandbox every hour is open"
    assert due(content, Jsonb({"sandbox": False, "window": {**closed, "days": week}}))
    assert not due(
        "INSERT INTO budgets (transport_id, tenant_id, period, starts_at, used)"
        " SELECT id, tenant_id, 'day', date_trunc('day', now(), 'UTC'), 10 FROM transports"
    )
    assert due("UPDATE budgets SET starts_at = starts_at - interval '1 day'")
    assert due("UPDATE campaigns SET ends_at = now(), content = %s WHERE slug = 'night'", Jsonb({"window": closed})), (
        "what is open expires"
    )


def test_F35_a_run_that_was_lost_with_its_machine_holds_up_nothing_and_one_that_lives_goes_on(
    world: World, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost_runs, "ENDS_S", 0.0)
    found: list[list[str]] = []

    def began(run_id: str, ago_s: float) -> None:
        start = dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, "campaign")
        instance.report_dagster_event(start, run_id, timestamp=time.time() - ago_s)

    @dg.op
    def work(context, mill: dg.ResourceParam[object]) -> None:  # type: ignore[no-untyped-def]
        assert mill is world
        began(context.run_id, 1000)
        found.append(tick("campaign_tick", world, instance))
        sense("configuration", world, instance)
        found.append(tick("campaign_tick", world, instance))

    @dg.job(resource_defs={"mill": lost_runs.shown(world)})  # type: ignore[arg-type]
    def working() -> None:
        work()

    for run_id, ago_s in (("lost", 1000), ("only just begun", 1)):
        instance.add_run(dg.DagsterRun(job_name="campaign", run_id=run_id, tags={"mailmill/campaign": "acme|due"}))
        began(run_id, ago_s)
    done = working.execute_in_process(instance=instance)
    assert done.success
    states = {run.run_id: run.status.value for run in instance.get_runs()}
    assert states == {"lost": "FAILURE", "only just begun": "STARTED", done.run_id: "SUCCESS"}
    instance.delete_run("only just begun")
    assert found == [[], []] and tick("campaign_tick", world, instance) == ["acme|due"]


def test_http_sources_are_synchronized_by_the_clock_and_files_are_not(
    world: World, instance: dg.DagsterInstance
) -> None:
    assert tick("source_sync", world, instance) == ["beta|crawl"]
    for wait, asked in (("1 hour", []), ("-1 hour", ["beta|crawl"])):  # as long as the API asked to wait
        with world.database.transaction() as conn:
            conn.execute("UPDATE sources SET retry_at = now() + %s::interval", (wait,))
        assert tick("source_sync", world, instance) == asked


def test_contacts_are_validated_again_where_rules_changed_or_dns_is_asked(
    world: World, instance: dg.DagsterInstance
) -> None:
    assert skipped("revalidation", world, instance), "nobody has contacts"
    with world.database.transaction() as conn:
        conn.execute(
            "INSERT INTO contacts (tenant_id, match_key, email, provenance)"
            " SELECT id, 'a@x.org', 'a@x.org', '{}' FROM tenants WHERE slug = 'acme'"
        )
    assert tick("revalidation", world, instance) == ["acme"], "no rules have examined these"
    with world.database.transaction() as conn:
        conn.execute("UPDATE tenants SET rules_version = %s", (addresses.rules_version(),))
    assert "no DNS is asked" in skipped("revalidation", world, instance)
    world.resolver = object()
    assert tick("revalidation", world, instance) == ["acme"], "x.org was never asked for; beta has nobody"
    with world.database.transaction() as conn:
        conn.execute(
            "INSERT INTO domains (name, state, checked_at, expires_at)"
            " VALUES ('x.org', 'mx', now(), now() + interval '1 hour')"
        )
    assert "still holds" in skipped("revalidation", world, instance)
    with world.database.transaction() as conn:
        conn.execute("UPDATE domains SET expires_at = now() - interval '1 second'")
    assert tick("revalidation", world, instance) == ["acme"]
