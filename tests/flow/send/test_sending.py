"""The send loop over a real PostgreSQL and a relay that counts."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.policy import default as policy
from pathlib import Path

import psycopg
import pytest
from send_process import start
from send_world import Sink, World, thread, until

from mailmill.io.postgres import doubts, ledger
from mailmill.io.postgres.suppressions import raise_change_number, suppress
from mailmill.io.send_worker import WorkerResult

Run = Callable[..., WorkerResult]


def by_address(answers: dict[str, str]) -> Callable[[str, str], str | None]:
    """Script: `stage` or `stage name` -> what the relay says."""

    def script(stage: str, recipient: str) -> str | None:
        return answers.get(f"{stage} {recipient.split('@')[0]}") or answers.get(stage)

    return script


@pytest.mark.parametrize("pipelining", [True, False])
def test_P08_every_recipient_gets_one_copy_and_the_campaign_finishes(
    world: World, run: Run, tmp_path: Path, pipelining: bool
) -> None:
    with Sink(pipelining=pipelining, keep_bodies=True) as sink:
        campaign = world.campaign(300, port=sink.port, names=["Zoë <b>"] * 300)
        result = run()
    assert result.report.ended == "idle" and not result.report.problems
    assert world.account(campaign) == {"sent": 300}
    assert sink.copies == {f"r{n}@example.org": 1 for n in range(300)}
    assert world.state(campaign) == "finished"
    assert [event["kind"] for event in world.events()] == ["accepted"] * 300
    assert not list((tmp_path / "journal").rglob("*.j")) and not world.sql("SELECT * FROM leases")
    message = message_from_bytes(sink.taken[0].body, policy=policy)
    assert message["Subject"] == "Hi Zoë <b>"
    assert sink.most_open <= 4
    assert world.sql("SELECT count(*), count(DISTINCT message_id) FROM attempts WHERE code = 250") == [(300, 300)]


def test_P13_each_answer_has_its_end(world: World, run: Run) -> None:
    answers = {
        "rcpt gone": "550 5.1.1 no such user <gone@example.org>", "rcpt full": "552 5.2.2 mailbox full",
        "rcpt busy": "450 4.2.1 try later", "dot spam": "554 5.7.1 we take you for spam",
        "dot later": "451 4.3.0 later", "dot cut": "cut", "dot reset": "reset", "rcpt hung": "cut", "dot junk": "HTTP/1.1 400 what",
        "data no": "554 5.6.0 no",
        "rcpt bye": "421 4.3.2 going down", "dot long": "250-a\r\n250-b\r\n250 2.0.0 c",
    }  # fmt: skip
    names = ["gone", "full", "busy", "spam", "later", "cut", "reset", "hung", "junk", "no", "bye", "long", "ok"]
    with Sink(by_address(answers)) as sink:
        campaign = world.campaign(
            [f"{name}@example.org" for name in names], port=sink.port, transport={"connections": 2}
        )
        run()
        copies = sink.copies
    rows = {address.split("@")[0]: (state, reason) for address, (state, reason, _) in world.rows(campaign).items()}
    assert rows["gone"] == ("failed", "bad_mailbox") and rows["full"] == ("failed", "mailbox_full")
    assert rows["spam"] == ("failed", "policy") and rows["no"][0] == "failed"
    for name in ("busy", "later", "hung", "bye"):
        assert rows[name][0] == "deferred", name
    for name in ("cut", "reset", "junk"):  # F15: who knows
        assert rows[name][0] == "in_doubt", name
    assert rows["long"][0] == rows["ok"][0] == "sent"
    assert max(copies.values()) == 1 and {a.split("@")[0] for a in copies} == {"long", "ok"}
    kinds = sorted(event["kind"] for event in world.events())
    assert kinds == ["accepted"] * 2 + ["deferred"] * 4 + ["failed"] * 4
    assert world.state(campaign) == "running"
    ((reply,),) = world.sql("SELECT reply FROM messages WHERE address LIKE 'gone@%%'")
    assert reply == "5.1.1 no such user <g***@e***.org>"


def test_F09_a_deferred_message_is_tried_again_when_it_is_due(world: World, run: Run) -> None:
    tried: list[str] = []

    def script(stage: str, recipient: str) -> str | None:
        if stage == "rcpt":
            tried.append(recipient)
        return "450 4.2.1 later" if stage == "rcpt" and len(tried) < 3 else None

    with Sink(script) as sink:
        campaign = world.campaign(1, port=sink.port)
        for _ in range(3):
            run()
            world.due_now()
    assert world.rows(campaign)["r0@example.org"] == ("sent", "accepted", 3)
    assert [e["kind"] for e in world.events()] == ["deferred", "deferred", "accepted"]
    assert len({e["event_id"] for e in world.events()}) == 3


def test_after_the_last_attempt_and_after_too_long_it_ends(world: World, run: Run) -> None:
    with Sink(by_address({"rcpt": "450 4.2.1 later"})) as sink:
        campaign = world.campaign(2, port=sink.port, max_attempts=2)
        run()
        world.sql(
            "UPDATE attempts SET at = at - interval '10 days' WHERE message_id = (SELECT max(message_id) FROM attempts)"
        )
        world.due_now()
        run()
    assert sorted(state for state, _, _ in world.rows(campaign).values()) == ["expired", "failed"]
    assert world.state(campaign) == "finished"


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        ("banner", "554 5.7.1 go away"),
        ("ehlo", "550 no"),
        ("auth", "535 5.7.8 wrong password"),
        ("mail", "550 5.7.1 not yours"),
    ],
)
def test_F10_a_5xx_about_us_holds_the_route_and_blames_nobody(world: World, run: Run, stage: str, says: str) -> None:
    answers = {stage: says}
    with Sink(by_address(answers)) as sink:
        campaign = world.campaign(50, port=sink.port, transport={"username": "u", "password": "env:P"})
        result = run()
        states = world.account(campaign)
        assert states.keys() <= {"queued", "held"} and sum(states.values()) == 50
        ((reason,),) = world.sql("SELECT held_reason FROM transports")
        assert says[:3] in reason and "held" in str(result.report.problems)
        assert not world.events() and not world.sql("SELECT * FROM suppressions")
        assert run().report.counts["sent"] == 0  # nothing is claimed while it is held
        answers.clear()
        with world.database.transaction("owner") as conn:
            ledger.release(conn, world.sql("SELECT id FROM transports")[0][0])
        run()
    assert world.account(campaign) == {"sent": 50}


def test_P13_a_run_of_policy_refusals_holds_the_route(world: World, run: Run) -> None:
    with Sink(by_address({"dot": "550 5.7.1 policy"})) as sink:
        campaign = world.campaign(200, port=sink.port)
        run()
    states = world.account(campaign)
    assert 10 <= states["failed"] <= 20 and states["queued"] == 200 - states["failed"]


def test_P13_F13_a_stalling_relay_holds_up_its_own_connections_only(world: World, run: Run) -> None:
    with Sink(by_address({"rcpt": "stall"})) as slow, Sink() as quick:
        stuck = world.campaign(20, port=slow.port, slug="stuck", transport={"timeout_s": 1, "connections": 2})
        free = world.campaign(400, port=quick.port, slug="free")
        with thread(lambda: run(until_idle=False, max_s=3.0)) as result:
            until(lambda: len(quick.taken) == 400, 2.5)
            result()
    assert world.account(free) == {"sent": 400}
    assert "sent" not in world.account(stuck)
    assert slow.most_open <= 2


def test_F14_a_connection_that_timed_out_is_not_used_again(world: World, run: Run) -> None:
    late = {"r0@example.org": "slow:1.2"}
    with Sink(lambda stage, to: late.get(to) if stage == "rcpt" else None) as sink:
        campaign = world.campaign(2, port=sink.port, transport={"timeout_s": 0.6, "connections": 1})
        run()
        rows = world.rows(campaign)
    assert rows["r0@example.org"][:2] == ("deferred", "no_answer")
    assert rows["r1@example.org"][0] == "sent"
    assert sink.connections == 2


def test_F15_a_doubt_is_held_or_sent_again_under_the_same_message_id(world: World, run: Run) -> None:
    cut = {"first"}

    def script(stage: str, recipient: str) -> str | None:
        if stage == "dot" and recipient in cut:
            return None if recipient not in cut else (cut.discard(recipient), "taken+cut")[1]
        return None

    with Sink(script) as sink:
        held = world.campaign(["held@x.org"], port=sink.port, slug="hold")
        again = world.campaign(["again@x.org"], port=sink.port, slug="resend", doubt="resend")
        cut |= {"held@x.org", "again@x.org"}
        run()
        world.sql("UPDATE messages SET due_at = '-infinity' WHERE state = 'queued'")
        run()
    assert world.account(held) == {"in_doubt": 1} and world.state(held) == "finished"
    assert world.account(again) == {"sent": 1}
    ids = [taken.message_id for taken in sink.taken if taken.recipient == "again@x.org"]
    assert len(ids) == 2 and len(set(ids)) == 1
    assert sink.copies["held@x.org"] == 1


def test_F40_a_recipient_that_cannot_be_rendered_is_invalid_and_stops_nobody(world: World, run: Run) -> None:
    with Sink() as sink:
        campaign = world.campaign(
            ["a@x.org", "b@x.org", "ü@x.org", "c@x.org", "d@x.org\r\nRCPT TO:<e@x.org>"], port=sink.port,
            names=["Anna", "x\r\nBcc: z@z.org", "Ü", "\x02", "D"],
        )  # fmt: skip
        run()
    rows = {address: row[:2] for address, row in world.rows(campaign).items()}
    assert rows.pop("a@x.org") == ("sent", "accepted")
    assert rows.pop("ü@x.org") == ("invalid", "unsupported_address")
    assert rows.pop("d@x.org\r\nRCPT TO:<e@x.org>") == ("invalid", "unsupported_address")
    assert set(rows.values()) == {("invalid", "render_error")}
    assert sink.copies == {"a@x.org": 1} and world.state(campaign) == "finished"


def test_F12_a_relay_that_speaks_no_smtp_is_only_unavailable(world: World, run: Run) -> None:
    with Sink(by_address({"banner": "HTTP/1.1 200 OK\r\n\r\n"})) as sink:
        campaign = world.campaign(5, port=sink.port)
        result = run(patience_s=1.0)
    assert world.account(campaign).keys() <= {"queued", "held"}
    assert result.report.problems


def test_an_absent_relay_is_said_and_loses_nothing(world: World, run: Run) -> None:
    campaign = world.campaign(5, port=1)
    result = run(patience_s=1.0)
    assert world.account(campaign) == {"queued": 5}
    assert "does not answer" in result.report.problems["acme/relay-1"]


# ---------------------------------------------------------------- limits, windows, stops


def test_P11_no_limit_is_exceeded_by_any_number_of_workers(world: World, run: Run, tmp_path: Path) -> None:
    with Sink() as sink:
        campaign = world.campaign(200, port=sink.port, transport={"per_day": 60, "per_minute": 50})
        until(lambda: time.time() % 60 < 50, 15)
        workers = [start(world.database, tmp_path, worker=f"w{n}", until_idle=True, patience_s=0) for n in range(3)]
        assert [worker.wait(30) for worker in workers] == [0, 0, 0]
        for worker in workers:
            worker.communicate()
    assert len(sink.taken) == 50 == world.account(campaign)["sent"]
    assert world.account(campaign)["queued"] == 150
    assert dict(world.sql("SELECT period, used FROM budgets")) == {"minute": 50, "day": 50}
    world.sql("UPDATE budgets SET used = 0 WHERE period = 'minute'")
    with Sink(port=sink.port) as more:
        run()
    assert len(more.taken) == 10  # what the day has left


def test_P12_nothing_starts_outside_the_window_or_after_the_end(world: World, run: Run) -> None:
    today = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")[datetime.now(UTC).weekday()]
    others = [day for day in ("mon", "tue", "wed", "thu", "fri", "sat", "sun") if day != today]
    shut = {"days": others[1:5], "start": "00:00:00", "end": "00:00:00", "time_zone": "UTC"}
    ended = datetime.now(UTC) - timedelta(seconds=1)
    with Sink() as sink:
        closed = world.campaign(5, port=sink.port, slug="closed", window=shut)
        sandbox = world.campaign(
            5, port=sink.port, slug="sandbox", window=shut, sandbox=True, kind="sandbox", tenant="other"
        )
        over = world.campaign(5, port=sink.port, slug="over", ends_at=ended)
        run()
    assert world.account(closed) == {"queued": 5} and world.account(over) == {"expired": 5}
    assert world.account(sandbox) == {"sent": 5}
    assert world.state(over) == "finished"


def test_P12_the_end_stops_a_running_campaign(world: World, run: Run) -> None:
    with Sink(by_address({"dot": "slow:0.1"})) as sink:
        end = datetime.now(UTC) + timedelta(seconds=1.5)
        campaign = world.campaign(500, port=sink.port, ends_at=end)
        run()
    states = world.account(campaign)
    assert states.keys() == {"sent", "expired"}
    assert max(at for at, _ in sink.handed) < end.timestamp() + 0.05
    assert world.state(campaign) == "finished"


@pytest.mark.parametrize("stop", ["paused", "cancelled"])
def test_P12_F45_a_pause_or_cancel_stops_starts_within_a_second(world: World, run: Run, stop: str) -> None:
    with Sink(by_address({"dot": "slow:0.05"})) as sink:
        campaign = world.campaign(2000, port=sink.port)
        with thread(lambda: run(until_idle=False, max_s=4.0)) as result:
            until(lambda: len(sink.taken) > 40)
            with world.database.transaction() as conn:
                conn.execute("UPDATE campaigns SET state = %s::campaign_state WHERE id = %s", (stop, campaign))
                raise_change_number(conn)
            stopped = time.time()
            result()
        states = world.account(campaign)
        assert max(at for at, _ in sink.handed) <= stopped + 1.0
        if stop == "paused":
            assert states.keys() == {"sent", "queued"}
            world.sql("UPDATE campaigns SET state = 'running'")
            sink.script = lambda stage, to: None
            run()
            assert world.account(campaign) == {"sent": 2000}
        else:
            assert states.keys() == {"sent", "cancelled"}
    assert max(sink.copies.values()) == 1 and len(sink.copies) == world.account(campaign)["sent"]


def test_P07_F43_an_unsubscribe_reaches_a_running_worker_within_a_second(world: World, run: Run) -> None:
    with Sink(by_address({"dot": "slow:0.05"})) as sink:
        campaign = world.campaign(600, port=sink.port)
        with thread(lambda: run(until_idle=True)) as result:
            until(lambda: len(sink.taken) > 20)
            with world.database.transaction() as conn:
                keys = [f"r{n}@example.org" for n in range(100, 600)]
                suppress(conn, tenant_id=1, address_keys=keys, reason="unsubscribed")
            committed = time.time()
            result()
    late = [to for at, to in sink.handed if at > committed + 1.0 and int(to[1:].split("@")[0]) >= 100]
    assert late == []
    states = world.account(campaign)
    assert states.keys() == {"sent", "suppressed"} and states["suppressed"] > 400
    assert world.state(campaign) == "finished"


def test_P07_who_was_suppressed_since_the_planning_is_not_claimed(world: World, run: Run) -> None:
    with Sink() as sink:
        campaign = world.campaign(10, port=sink.port)
        other = world.campaign(10, port=sink.port, slug="other")
        with world.database.transaction() as conn:
            suppress(conn, tenant_id=1, address_keys=["r1@example.org"], reason="complained")
            suppress(conn, tenant_id=1, address_keys=["r2@example.org"], reason="manual", scope_campaign_id=campaign)
        run()
    assert world.rows(campaign)["r1@example.org"][:2] == ("suppressed", "complained")
    assert world.account(campaign) == {"sent": 8, "suppressed": 2} and world.account(other) == {
        "sent": 9,
        "suppressed": 1,
    }


# ---------------------------------------------------------------- leases


def test_F08_claims_of_many_workers_are_disjoint_and_complete(world: World, tmp_path: Path) -> None:
    with Sink() as sink:
        campaign = world.campaign(3000, port=sink.port, transport={"connections": 3})
        workers = [start(world.database, tmp_path, worker=f"w{n}", until_idle=True, patience_s=0) for n in range(3)]
        for worker in workers:
            assert worker.wait(40) == 0, worker.communicate()
            worker.communicate()
    assert world.account(campaign) == {"sent": 3000}
    assert len(sink.taken) == len(sink.copies) == 3000


def test_P10_F07_a_worker_that_lost_its_lease_writes_nothing(world: World, run: Run) -> None:
    with Sink(by_address({"dot": "slow:1.5"})) as sink:
        campaign = world.campaign(4, port=sink.port)
        with thread(lambda: run(until_idle=False, max_s=3.0)) as result:
            until(lambda: len(sink.taken) == 4)
            with world.database.transaction("owner") as conn:  # as if its lease had run out and a person had decided
                for (token,) in conn.execute("SELECT token FROM leases").fetchall():
                    doubts.lose(conn, token)
            report = result().report
    assert report.counts["lost_leases"] == 4
    assert world.account(campaign) == {"in_doubt": 4}
    assert not world.events() and not world.sql("SELECT * FROM attempts")


def test_a_worker_declared_lost_leaves_doubts_and_only_when_its_lease_is_over(world: World, tmp_path: Path) -> None:
    with Sink(by_address({"dot": "stall"})) as sink:
        campaign = world.campaign(10, port=sink.port, transport={"connections": 2})
        worker = start(world.database, tmp_path / "elsewhere", worker="gone", lease_s=2.0)
        until(lambda: len(sink.taken) == 2)
        worker.kill()
        worker.communicate()

        def lost() -> int:
            with world.database.transaction("sender") as conn:
                ledger.session(conn)
                return doubts.declare_lost(conn, "gone")

        with pytest.raises(Exception, match=r"may still be sending|is connected"):
            lost()
        until(lambda: world.sql("SELECT until < clock_timestamp() FROM leases")[0][0])
        assert lost() == 10
    assert world.account(campaign) == {"in_doubt": 10}


# ---------------------------------------------------------------- kills and outages


def test_P09_F03_a_kill_leaves_one_doubt_a_connection_and_sends_nothing_twice(
    world: World, run: Run, tmp_path: Path
) -> None:
    with Sink() as sink:
        campaign = world.campaign(1500, port=sink.port)
        worker = start(world.database, tmp_path, worker="w1")
        until(lambda: len(sink.taken) > 300)
        worker.kill()
        worker.communicate()
        done = run(worker="w1")
    states = world.account(campaign)
    assert states["sent"] + states.get("in_doubt", 0) == 1500
    assert done.replayed.in_doubt <= 4
    assert max(sink.copies.values()) == 1
    sent = {address for address, row in world.rows(campaign).items() if row[0] == "sent"}
    assert sent <= sink.copies.keys()
    assert world.state(campaign) == "finished"
    assert len(world.events()) == states["sent"]


def test_another_worker_of_the_machine_takes_up_what_a_dead_one_left(world: World, run: Run, tmp_path: Path) -> None:
    with Sink(by_address({"dot": "stall"})) as sink:
        campaign = world.campaign(100, port=sink.port, transport={"connections": 2})
        worker = start(world.database, tmp_path, worker="w1")
        until(lambda: len(sink.taken) == 2)
        worker.kill()
        worker.communicate()
        sink.script = lambda stage, to: None
        run(worker="w2")
    assert world.account(campaign) == {"sent": 98, "in_doubt": 2}
    assert max(sink.copies.values()) == 1


def test_F06_SIGTERM_finishes_what_is_in_flight_and_gives_the_rest_back(world: World, tmp_path: Path) -> None:
    with Sink(by_address({"dot": "slow:0.3"})) as sink:
        campaign = world.campaign(1000, port=sink.port)
        worker = start(world.database, tmp_path, worker="w1")
        until(lambda: len(sink.taken) > 8)
        worker.terminate()
        output, _ = worker.communicate(timeout=10)
    assert '"ended": "SIGTERM"' in output
    states = world.account(campaign)
    assert states.keys() == {"sent", "queued"} and states["sent"] == len(sink.taken)
    assert not world.sql("SELECT * FROM leases") and not list((tmp_path / "journal").rglob("*.j"))
    assert set(world.sql("SELECT DISTINCT attempt FROM messages WHERE state = 'queued'")) == {(0,)}


def test_F18_sessions_that_are_terminated_lose_and_double_nothing(world: World, run: Run) -> None:
    with Sink(by_address({"dot": "slow:0.02"})) as sink:
        campaign = world.campaign(800, port=sink.port)
        with thread(run) as result:
            for taken in (100, 300, 500):
                until(lambda n=taken: len(sink.taken) > n)
                with psycopg.connect(world.database.conninfo("sender"), autocommit=True) as conn:
                    conn.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                        " AND usename = current_user AND pid <> pg_backend_pid()"
                    )
            result()
    assert world.account(campaign) == {"sent": 800}
    assert len(sink.taken) == 800


def test_P14_when_results_cannot_be_written_sending_stops(world: World, run: Run) -> None:
    with Sink(by_address({"dot": "slow:0.02"})) as sink:
        campaign = world.campaign(1000, port=sink.port)
        with thread(lambda: run(until_idle=False, max_s=5.0)) as result:
            until(lambda: len(sink.taken) > 50)
            world.sql("REVOKE INSERT ON attempts FROM mailmill_sender")
            revoked = time.time()
            report = result().report
        assert report.failed and max(at for at, _ in sink.handed) < revoked + 1.0
        world.sql("GRANT INSERT ON attempts TO mailmill_sender")
        sink.script = lambda stage, to: None
        run()
    assert world.account(campaign) == {"sent": 1000}  # the journal knew every answer
    assert len(sink.taken) == 1000


def test_P15_a_campaign_with_an_open_row_does_not_finish(world: World, run: Run) -> None:
    with Sink(by_address({"rcpt r1": "450 4.2.1 later"})) as sink:
        campaign = world.campaign(3, port=sink.port)
        run()
        assert world.state(campaign) == "running"
        sink.script = lambda stage, to: None
        world.due_now()
        run()
    assert world.state(campaign) == "finished"
    assert world.sql("SELECT from_state, to_state, by FROM campaign_transitions")[0][:2] == ("running", "finished")
