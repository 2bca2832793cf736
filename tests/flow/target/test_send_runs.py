"""What a run of Dagster's does for a campaign, and when the tick asks for one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import pytest
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from people_world import People
from send_process import end_all, start
from send_world import Sink, by_address, until

from mailmill.definitions import definitions
from mailmill.io.journal import FolderJournal
from mailmill.io.postgres import campaigns
from mailmill.pipelines.send.ports import JournalFailed
from mailmill.sensors import schedules

_PLACE = RegisteredCodeLocationOrigin("mailmill")
ORIGIN = RemoteJobOrigin(RemoteRepositoryOrigin(code_location_origin=_PLACE, repository_name="mailmill"), "ingest")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        instance.add_dynamic_partitions("campaigns", ["acme|spring"])
        yield instance


def ticked(people: People, instance: dg.DagsterInstance) -> list[str]:
    """The campaigns that the minute's tick asks a run for."""
    context = dg.build_schedule_context(
        instance=instance, scheduled_execution_time=datetime.now(UTC), resources={"mill": people.mill}
    )
    return [str(request.partition_key) for request in schedules.campaign_tick(context)]


def worked(people: People, instance: dg.DagsterInstance) -> Any:
    job = definitions(people.mill).resolve_job_def("campaign")
    return job.execute_in_process(instance=instance, partition_key="acme|spring", raise_on_error=False)


def states(people: People) -> dict[str, int]:
    return dict(people.rows("SELECT state::text, count(*) FROM messages GROUP BY 1"))


def relayed(people: People, sink: Sink) -> None:
    people.planned("acme")
    spec = '{"connections": 1, "port": ' + str(sink.port) + "}"
    people.rows("UPDATE transports SET spec = spec || %s::jsonb", spec)


def test_P08_what_a_killed_run_had_claimed_is_taken_up_though_nothing_else_waits(
    people: People, instance: dg.DagsterInstance
) -> None:
    with Sink(by_address({"dot": "wait"})) as sink:
        relayed(people, sink)
        try:
            worker = start(people.mill.database, people.mill.home, worker="killed", lease_s=2.0)
            until(lambda: sink.taken)
            worker.kill()
            worker.communicate()
        finally:
            end_all()
        assert states(people) == {"leased": 4}
        until(lambda: people.rows("SELECT 1 FROM leases WHERE until < clock_timestamp()"))
        people.rows("UPDATE workers SET seen_at = seen_at - interval '1 minute'")
        assert ticked(people, instance) == ["acme|spring"]
        sink.script = lambda stage, to: None
        assert worked(people, instance).success
    assert states(people) == {"sent": 3, "in_doubt": 1} and len(sink.taken) == 4
    assert people.rows("SELECT state::text FROM campaigns") == [("finished",)]
    assert ticked(people, instance) == []


def test_F45_P12_what_was_cancelled_or_has_ended_is_settled_without_a_worker(
    people: People, instance: dg.DagsterInstance
) -> None:
    people.planned("acme")
    with people.mill.database.transaction() as conn:  # and whoever says so is killed before it comes to the rows
        campaigns.require(conn, campaigns.find(conn, "acme/spring"), "cancel", by="test")
    assert ticked(people, instance) == ["acme|spring"] and worked(people, instance).success
    assert states(people) == {"cancelled": 4} and ticked(people, instance) == []
    assert people.rows("SELECT state::text FROM campaigns WHERE finished_at IS NOT NULL") == [("cancelled",)]
    people.rows("UPDATE messages SET state = 'held', queued = true, due_at = 'infinity'")
    people.rows("UPDATE campaigns SET state = 'paused', finished_at = NULL, ends_at = now() - interval '1 s'")
    assert ticked(people, instance) == ["acme|spring"] and worked(people, instance).success
    assert states(people) == {"expired": 4} and ticked(people, instance) == []
    assert people.rows("SELECT state::text FROM campaigns") == [("finished",)]


def test_a_run_that_only_looks_on_makes_room_for_one_that_waits(
    people: People, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailmill.assets.campaigns.WATCH_S", 0.05)
    people.planned("acme")
    people.rows("INSERT INTO workers (name, host, boot_id, pid, seen_at) VALUES ('w', 'h', 'b', 1, now() + '1 hour')")
    instance.add_run(dg.DagsterRun(job_name="ingest", status=dg.DagsterRunStatus.QUEUED, remote_job_origin=ORIGIN))
    done = worked(people, instance)
    assert done.success and states(people) == {"queued": 4}, "it is the worker's to send"
    [made] = done.asset_materializations_for_node("deliveries")
    assert made.metadata["sent_by"].value == "workers"


def test_F20_a_run_whose_journal_cannot_be_written_fails(
    people: People, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: FolderJournal, token: int, campaign_id: int = 0) -> None:
        raise JournalFailed("the journal cannot be made: no space left on device")

    monkeypatch.setattr(FolderJournal, "open", full)
    people.planned("acme")
    done = worked(people, instance)
    assert not done.success and states(people) == {"queued": 4}
    assert "no space left on device" in str(done.failure_data_for_node("deliveries"))
