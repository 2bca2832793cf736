"""A campaign's life by the command line and by a job: what is done, what is refused, what is written down."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from people_world import People

from mailmill.cli.runs import RunFailed, run_job
from mailmill.definitions import definitions
from mailmill.errors import Misconfigured

NAME = "acme/spring"


@pytest.fixture
def acme(people: People) -> People:
    people.tenant("acme")
    people.do("ingest", "acme/inbox")
    return people


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


def launch(people: People, instance: dg.DagsterInstance, op: str, **config: str) -> tuple[bool, str]:
    """Run the job as the launchpad does. Out: whether it went well, and what it said."""
    job = definitions(people.mill).resolve_job_def("campaign_control")
    done = job.execute_in_process(
        instance=instance,
        run_config={"ops": {"control": {"config": {"campaign": NAME, "op": op, **config}}}},
        raise_on_error=False,
    )
    for event in done.all_events:
        if event.is_step_failure:
            failure = event.step_failure_data.user_failure_data
            assert failure is not None and failure.description is not None, event.step_failure_data.error
            return False, failure.description
        if event.is_successful_output:
            return True, str(event.step_output_data.metadata["done"].value)
    raise AssertionError("no output")


def steps(people: People) -> list[tuple[str, str]]:
    return [(step["from"], step["to"]) for step in people.ask("campaign", "history", NAME)]


def state(people: People) -> str:
    return str(people.rows("SELECT state::text FROM campaigns")[0][0])


def test_the_job_takes_every_step_once_and_writes_it_down(acme: People, instance: dg.DagsterInstance) -> None:
    for op, said in (
        ("start", "running, 4 recipients"),
        ("start", "running already"),
        ("pause", "paused"),
        ("pause", "paused already"),
        ("resume", "running"),
        ("resume", "running already"),
        ("cancel", "cancelled, 4 messages"),
        ("cancel", "cancelled, 0 messages"),
    ):
        good, words = launch(acme, instance, op, reason="lunch")
        assert good and words.startswith(said), (op, words)
    assert steps(acme) == [
        ("draft", "scheduled"), ("scheduled", "planning"), ("planning", "running"), ("running", "paused"),
        ("paused", "running"), ("running", "cancelled"),
    ]  # fmt: skip
    last = acme.ask("campaign", "history", NAME)[-1]
    assert last["by"].startswith("dagster run ") and last["reason"] == "lunch"
    assert "lunch" in acme.do("campaign", "history", NAME)


def test_the_job_refuses_with_what_to_do(acme: People, instance: dg.DagsterInstance) -> None:
    for op, config, said in (
        ("pause", {"campaign": "acme/nothing"}, "there is no campaign 'acme/nothing'"),
        ("pause", {}, "is draft"),
        ("reschedule", {}, "a time is needed"),
        ("reschedule", {"at": "soon"}, "'soon' is no time"),
        ("start", {"at": "2020-01-01T09:00"}, "has passed"),
    ):
        good, words = launch(acme, instance, op, **config)
        assert not good and said in words and "\n" in words, (op, words)
    assert steps(acme) == []
    good, words = launch(acme, instance, "start", at="2031-01-01T09:00+01:00")
    assert good and words == "scheduled, starts at 2031-01-01 08:00:00 UTC"
    assert launch(acme, instance, "reschedule", at="2031-02-01T09:00+01:00")[0]
    assert acme.rows("SELECT scheduled_at FROM campaigns")[0][0] == datetime(2031, 2, 1, 8, tzinfo=UTC)


def test_a_campaign_that_nobody_would_get_is_refused_by_hand_by_the_job_and_by_the_run_of_a_tick(
    acme: People, instance: dg.DagsterInstance
) -> None:
    acme.rows("UPDATE segments SET spec = jsonb_set(spec, '{rule}', '{\"country\": \"FR\"}')")
    nobody = "nobody to mail: the segment is empty"
    with pytest.raises(Misconfigured, match=f"(?s){nobody}.*campaign recipients {NAME}"):
        acme.do("campaign", "start", NAME)
    good, words = launch(acme, instance, "start")
    assert not good and nobody in words
    acme.rows("UPDATE campaigns SET state = 'scheduled', scheduled_at = now()")
    with pytest.raises(RunFailed, match=nobody):
        run_job("campaign", "acme|spring")
    last = acme.ask("campaign", "history", NAME)[-1]
    assert (last["to"], last["reason"].partition("\n")[0]) == ("failed", nobody)
    acme.rows("UPDATE segments SET spec = jsonb_set(spec, '{rule}', '{\"all\": []}')")
    assert launch(acme, instance, "start")[1].startswith("running, 4 recipients")


def test_a_planning_that_somebody_left_is_taken_up_by_the_job(acme: People, instance: dg.DagsterInstance) -> None:
    acme.rows("UPDATE campaigns SET state = 'planning', scheduled_at = now()")
    assert launch(acme, instance, "start")[1].startswith("running, 4 recipients")


@pytest.mark.parametrize("before", ["draft", "scheduled", "missed", "failed"])
def test_a_campaign_that_has_not_begun_gets_a_new_time(acme: People, before: str) -> None:
    acme.rows("UPDATE campaigns SET state = %s::campaign_state, scheduled_at = now() - interval '1 day'", before)
    said = acme.ask("campaign", "reschedule", NAME, "2031-03-01T09:00Z")
    assert said == {"campaign": NAME, "before": before, "scheduled_at": "2031-03-01T09:00:00+00:00"}
    assert (state(acme), steps(acme)) == ("scheduled", [(before, "scheduled")])


@pytest.mark.parametrize("now", ["planning", "running", "paused", "finished", "cancelled"])
def test_a_campaign_that_has_begun_gets_no_new_time(acme: People, now: str) -> None:
    acme.rows("UPDATE campaigns SET state = %s::campaign_state", now)
    with pytest.raises(Misconfigured, match=rf"is {now}\n") as refused:
        acme.do("campaign", "reschedule", NAME, "2031-03-01T09:00Z")
    advice = {
        "paused": "audience is frozen: `mailmill campaign resume", "planning": "audience is being frozen: cancel it",
    }.get(now, "sent once: give it another `slug`")  # fmt: skip
    assert advice in str(refused.value)
    assert (state(acme), steps(acme)) == (now, [])


def test_P12_a_start_behind_the_campaigns_end_or_in_the_past_is_refused_and_leaves_all_as_it_was(acme: People) -> None:
    end = datetime.now(UTC) + timedelta(days=1)
    acme.rows("UPDATE campaigns SET spec = spec || jsonb_build_object('ends', %s::text)", end.isoformat())
    with pytest.raises(Misconfigured, match="nothing would be sent"):
        acme.do("campaign", "schedule", NAME, (end + timedelta(hours=1)).isoformat())
    with pytest.raises(Misconfigured, match=r"has passed\n.*campaign start acme/spring"):
        acme.do("campaign", "schedule", NAME, "2020-01-01T00:00Z")
    assert (state(acme), steps(acme)) == ("draft", [])


def test_P15_doubts_that_are_sent_again_reopen_a_finished_campaign_and_say_who_did(acme: People) -> None:
    acme.do("campaign", "start", NAME)
    acme.rows("UPDATE messages SET state = 'in_doubt', queued = false, done_at = clock_timestamp()")
    acme.mill.tick(by="test")
    assert state(acme) == "finished"
    assert acme.ask("doubts", NAME, "--resolve", "resend") == {"campaign": NAME, "resend": 4}
    assert state(acme) == "running"
    last = acme.ask("campaign", "history", NAME)[-1]
    assert (last["from"], last["to"], last["reason"]) == ("finished", "running", "doubts are sent again")


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ("state = 'cancelled', finished_at = clock_timestamp()", "was cancelled"),
        ("ends_at = clock_timestamp() - interval '1 s'", "has ended"),
        ("content = content || '{\"sandbox\": false}'", "was planned for a transport of another type"),
    ],
)
def test_P15_a_doubt_of_a_campaign_that_sends_no_more_stays_one(acme: People, over: str, words: str) -> None:
    acme.do("campaign", "start", NAME)
    acme.rows("UPDATE messages SET state = 'in_doubt', queued = false, done_at = clock_timestamp()")
    acme.rows("UPDATE campaigns SET " + over)
    with pytest.raises(Misconfigured, match=f"the campaign {words}.*\n.*as sent or failed"):
        acme.do("doubts", NAME, "--resolve", "resend")
    assert acme.rows("SELECT DISTINCT state FROM messages") == [("in_doubt",)]
    assert acme.ask("doubts", NAME, "--resolve", "failed") == {"campaign": NAME, "failed": 4}


def test_the_list_shows_how_far_a_campaign_is(acme: People) -> None:
    acme.do("campaign", "start", NAME)
    began = time.monotonic()
    acme.rows(
        "UPDATE messages SET state = 'sent', queued = false, done_at = clock_timestamp() - interval '10 s'"
        " WHERE id <= 2"
    )
    [row] = acme.ask("campaign", "list")
    left = datetime.fromisoformat(row["ends_about"]) - datetime.now(UTC)
    took = 10 + time.monotonic() - began  # no less than ten, and more on a machine that is busy
    assert (row["state"], row["planned"], row["done"]) == ("running", 4, 2)
    assert 2 / took - 0.05 < row["rate"] < 0.25
    assert 20 - took - 1 < left.total_seconds() < took + 1
    assert re.search(r"\b0\.\d/s", acme.do("campaign", "list"))
    acme.do("campaign", "cancel", NAME)
    [row] = acme.ask("campaign", "list")
    assert (row["done"], row["rate"], row["ends_about"]) == (None, None, None)
