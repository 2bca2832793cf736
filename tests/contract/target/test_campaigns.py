"""A campaign's states: compare-and-set, audit, change number, cancel and finish."""

from __future__ import annotations

import pytest

from mailmill.errors import Misconfigured
from mailmill.io.postgres import campaigns, doubts


def step(world, name: str, slug: str = "acme/spring") -> None:
    with world.database.transaction() as conn:
        campaigns.require(conn, campaigns.find(conn, slug), name, by="test")


def cancel(world) -> int:
    with world.database.transaction() as conn:
        campaign = campaigns.find(conn, "acme/spring")
    return campaigns.cancel(world.database, campaign, by="test")


def states(world) -> dict[str, int]:
    return dict(world.rows("SELECT state::text, count(*) FROM messages GROUP BY 1"))


def test_every_step_is_written_down_and_raises_the_change_number(world):
    world.start()
    before = world.value("SELECT n FROM change_number")
    step(world, "pause")
    step(world, "resume")
    assert world.value("SELECT n FROM change_number") == before + 2
    steps = world.rows("SELECT from_state::text, to_state::text, by FROM campaign_transitions ORDER BY id")
    assert steps == [
        ("draft", "scheduled", "test"),
        ("scheduled", "planning", "test"),
        ("planning", "running", "test"),
        ("running", "paused", "test"),
        ("paused", "running", "test"),
    ]


@pytest.mark.parametrize("name", ["pause", "resume", "finish", "run"])
def test_a_step_that_the_state_does_not_allow_is_refused_in_words(world, name):
    with pytest.raises(Misconfigured, match=r"campaign acme/spring is draft"):
        step(world, name)
    assert world.value("SELECT count(*) FROM campaign_transitions") == 0


def test_a_running_campaign_is_not_scheduled_again(world):
    world.start()
    with pytest.raises(Misconfigured, match="is running"):
        world.start()


def test_F45_cancel_ends_what_no_worker_holds_and_the_counts_add_up(world):
    world.start()
    world.run("UPDATE messages SET state = 'leased', queued = false WHERE id = 1")
    world.run("UPDATE messages SET state = 'sent', queued = false WHERE id = 2")
    world.run("UPDATE messages SET state = 'deferred' WHERE id = 3")
    world.run("UPDATE messages SET state = 'held', due_at = 'infinity' WHERE id = 4")
    before = world.value("SELECT n FROM change_number")
    assert cancel(world) == 3
    assert states(world) == {"leased": 1, "sent": 1, "cancelled": 3}
    assert world.value("SELECT n FROM change_number") == before + 1
    assert world.value("SELECT finished_at FROM campaigns") is None, "a worker still holds a row"
    # the worker comes back with a deferral: the tick ends it
    world.run("UPDATE messages SET state = 'deferred', queued = true WHERE id = 1")
    world.tick()
    assert states(world) == {"sent": 1, "cancelled": 4}
    assert world.value("SELECT finished_at FROM campaigns") is not None
    assert world.value("SELECT count(*) FROM messages WHERE state = 'cancelled' AND (queued OR done_at IS NULL)") == 0


def test_F45_cancelling_is_taken_up_where_it_was_left(world):
    world.start()
    step(world, "cancel")  # and then the process dies before it comes to the rows
    assert states(world) == {"queued": 5}
    world.tick()
    assert states(world) == {"cancelled": 5}


def test_F45_resume_leaves_only_the_rest_to_send(world):
    world.start()
    world.run("UPDATE messages SET state = 'sent', queued = false WHERE id <= 2")
    step(world, "pause")
    step(world, "resume")
    assert world.tick() == []
    assert states(world) == {"sent": 2, "queued": 3}


def test_a_campaign_that_was_never_started_is_cancelled(world):
    assert cancel(world) == 0
    assert world.state() == "cancelled"
    assert world.tick() == []


def test_P15_a_campaign_is_finished_when_the_ledger_says_so(world):
    world.start()
    for state in ("leased", "deferred", "held", "queued"):
        world.run("UPDATE messages SET state = 'sent', queued = false")
        world.run("UPDATE messages SET state = %s::message_state, queued = %s WHERE id = 3", state, state == "queued")
        world.tick()
        assert world.state() == "running", state
    world.run("UPDATE messages SET state = 'in_doubt', queued = false WHERE id = 3")
    world.tick()
    assert world.state() == "finished"
    assert world.value("SELECT finished_at FROM campaigns") is not None


def test_P15_a_paused_campaign_with_nothing_left_is_finished_too(world):
    world.start()
    step(world, "pause")
    world.run("UPDATE messages SET state = 'sent', queued = false")
    with world.database.transaction("sender") as conn:
        assert campaigns.finish_settled(conn, by="worker") == ["acme/spring"]
    assert world.state() == "finished"


def test_P12_P15_what_is_open_at_a_campaigns_end_expires_without_a_worker_too(world):
    world.start()
    world.run("UPDATE messages SET state = 'held', due_at = 'infinity'")
    world.run("UPDATE campaigns SET ends_at = now() - interval '1 s'")
    world.tick()
    assert states(world) == {"expired": 5} and world.state() == "finished"


def test_P15_doubts_that_are_being_sent_again_keep_their_campaign_from_finishing(world):
    world.start()
    world.run(
        "UPDATE messages SET state = CASE id WHEN 3 THEN 'in_doubt' ELSE 'sent' END::message_state, queued = false"
    )
    with world.database.transaction() as conn:
        assert doubts.resolve(conn, 1, "resend", None, by="test") == 1
        with world.database.transaction("sender") as worker:
            worker.execute("SET LOCAL lock_timeout = '5s'")  # it must not wait and then go on with what it saw before
            assert campaigns.finish_settled(worker, by="worker") == []
    world.tick()
    assert world.state() == "running" and states(world) == {"queued": 1, "sent": 4}


def test_a_campaign_cancelled_while_it_is_planned_is_not_started(world):
    with world.database.transaction() as conn:
        campaigns.schedule(conn, campaigns.find(conn, "acme/spring"), None, by="test")
    with world.campaigns.planning(1, by="test") as draft:
        assert draft is not None
        cancel(world)
        from mailmill.pipelines.target import planning

        frozen = planning.decide(draft, contacts=world.contacts, public_url=world.public_url)
        assert world.campaigns.freeze(frozen, by="test") == "gone"
    assert world.state() == "cancelled"
    assert world.value("SELECT count(*) FROM messages") == 0
