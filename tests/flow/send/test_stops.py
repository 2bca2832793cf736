"""What stops a start: windows, ends, pauses, cancels, suppressions, results that cannot be written."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from email import message_from_bytes
from email.policy import default as policy
from pathlib import Path
from typing import Any

import pytest
from send_fixtures import Run
from send_oracle import judge, nothing_later
from send_process import start
from send_world import Sink, World, by_address, thread, until

from mailmill.errors import Misconfigured, StoreUnavailable
from mailmill.io import send_worker
from mailmill.io.journal import FileBatch
from mailmill.io.postgres import campaigns, doubts
from mailmill.io.postgres.ledger_ports import PostgresFollower, PostgresLedger
from mailmill.io.postgres.suppressions import raise_change_number, suppress
from mailmill.pipelines.send.ports import Look
from mailmill.pipelines.target.lifecycle import Move

STEP: dict[str, Move] = {"paused": "pause", "cancelled": "cancel"}


def test_P12_nothing_starts_outside_the_window_or_after_the_end(world: World, run: Run) -> None:
    week = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    far = [week[(datetime.now(UTC).weekday() + days) % 7] for days in (2, 3, 4, 5)]  # whenever midnight comes
    shut = {"days": far, "start": "00:00:00", "end": "00:00:00", "time_zone": "UTC"}
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
    with Sink(by_address({"dot": "slow:0.05"})) as sink:
        campaign = world.campaign(3000, port=sink.port, ends_at=datetime.now(UTC) + timedelta(days=1))
        with thread(run) as result:
            until(lambda: len(sink.taken) > 8)
            end = end_in(world, 1.5)
            result()
    states = world.account(campaign)
    assert states.keys() == {"sent", "expired"}
    assert max(at for at, _ in sink.handed) < end + 0.05 + sink.stalled_s(end - 0.1)
    assert world.state(campaign) == "finished"


def end_in(world: World, seconds: float) -> float:
    """Have the campaigns end so soon. Out: when, as time.time()."""
    with world.database.transaction() as conn:
        end = datetime.now(UTC) + timedelta(seconds=seconds)
        conn.execute("UPDATE campaigns SET ends_at = %s", (end,))
        raise_change_number(conn)
    return end.timestamp()


@pytest.mark.parametrize("stop", ["paused", "cancelled"])
def test_P12_F45_a_pause_or_cancel_stops_starts_within_a_second(world: World, run: Run, stop: str) -> None:
    with Sink(by_address({"dot": "slow:0.2"})) as sink:  # so slow that what is claimed lasts for longer
        campaign, stopped = world.campaign(2000, port=sink.port), float("inf")
        with thread(lambda: run(until=lambda: time.time() > stopped + 1.2)) as result:
            until(lambda: len(sink.taken) > 8)
            with world.database.transaction() as conn:
                campaigns.move(conn, campaign, STEP[stop], by="ann")
            stopped = time.time()
            result()
        states = world.account(campaign)
        nothing_later(sink, stopped)
        if stop == "paused":
            assert states.keys() == {"sent", "queued"}
            with world.database.transaction() as conn:
                campaigns.move(conn, campaign, "resume", by="ann")
            sink.script = lambda stage, to: None
            run()
            assert world.account(campaign) == {"sent": 2000}
        else:
            assert states.keys() == {"sent", "cancelled"}
        judge(world, campaign, sink, doubts=0, finished=stop == "paused")


@pytest.mark.parametrize("stop", ["paused", "cancelled", "suppressed", "ended"])
def test_F43_F45_P07_P12_a_stop_reaches_a_message_whose_data_waits_for_354(world: World, run: Run, stop: str) -> None:
    with Sink(lambda stage, to: "wait" if (stage, to) == ("data", "r0@example.org") else None) as sink:
        campaign = world.campaign(5, port=sink.port, transport={"connections": 1})
        with thread(run) as result:
            until(lambda: "DATA" in sink.commands)
            ends = end_in(world, 1.5) if stop == "ended" else None
            with world.database.transaction() as conn:
                if stop == "suppressed":
                    suppress(conn, tenant_id=1, address_keys=["r0@example.org"], reason="unsubscribed")
                elif stop != "ended":
                    campaigns.move(conn, campaign, STEP[stop], by="ann")
            stopped = ends - 1.0 if ends else time.time()
            until(lambda: time.time() > stopped + 1.0)
            sink.go()
            result()
        nothing_later(sink, stopped, ["r0@example.org"])
        assert "r0@example.org" not in sink.copies
        states = judge(world, campaign, sink, doubts=0, finished=stop in ("suppressed", "ended"))
        assert states == {
            "paused": {"queued": 5}, "cancelled": {"cancelled": 5}, "suppressed": {"suppressed": 1, "sent": 4},
            "ended": {"expired": 5},
        }[stop]  # fmt: skip


def window_until(end: datetime) -> dict[str, object]:
    """Open every day until then, in a zone where it is about noon."""
    hours, days = 12 - end.hour, ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
    local = end.astimezone(timezone(timedelta(hours=hours)))
    return {"days": days, "start": "00:00:00", "end": local.time().isoformat(), "time_zone": f"Etc/GMT{-hours:+d}"}


def test_P12_F45_a_window_that_closes_stops_a_message_whose_data_waits_for_354(world: World, run: Run) -> None:
    """A window is frozen with the campaign, so a machine too slow to begin within it is given a longer one."""
    for seconds in (3.0, 10.0, 30.0):
        end = datetime.now(UTC) + timedelta(seconds=seconds)
        with Sink(lambda stage, to: "wait" if stage == "data" else None) as sink:
            people = [f"r{n}@w{seconds:.0f}.example" for n in range(5)]
            campaign = world.campaign(
                people, port=sink.port, slug=f"w{seconds:.0f}", transport={"connections": 1}, window=window_until(end)
            )
            with thread(run) as result:
                until(lambda: "DATA" in sink.commands or time.time() > end.timestamp())  # noqa: B023
                begun = "DATA" in sink.commands
                until(lambda: time.time() > end.timestamp() + 0.1)  # noqa: B023
                sink.go()
                result()
            assert not sink.handed and judge(world, campaign, sink, doubts=0, finished=False) == {"queued": 5}
        if begun:
            return
    raise AssertionError("nothing began within half a minute")


def test_P07_F43_an_unsubscribe_reaches_a_running_worker_within_a_second(world: World, run: Run) -> None:
    with Sink(by_address({"dot": "slow:0.2"})) as sink:  # so slow that what is claimed lasts for longer
        campaign = world.campaign(2000, port=sink.port)
        with thread(run) as result:
            until(lambda: len(sink.taken) > 8)
            with world.database.transaction() as conn:
                keys = [f"r{n}@example.org" for n in range(20, 2000)]
                suppress(conn, tenant_id=1, address_keys=keys, reason="unsubscribed")
            committed = time.time()
            until(lambda: time.time() > committed + 1.2)
            sink.script = lambda stage, to: None
            result()
    nothing_later(sink, committed, keys)
    states = judge(world, campaign, sink, doubts=0)
    assert states.keys() == {"sent", "suppressed"} and states["suppressed"] > 500


def test_P07_F43_a_suppression_is_asked_for_until_the_database_has_answered(
    world: World, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look-up that failed is owed: the next look, which sees nothing new, must not let the claimed rows start."""
    calls: list[str] = []

    class Shaky(PostgresFollower):
        def look(self, *, everything: bool) -> Look:
            calls.append("look")
            return super().look(everything=everything)

        def suppressed(self, campaign_id: int, ids: Sequence[int]) -> set[int]:
            calls.append("suppressed")
            if calls.count("suppressed") == 1:
                raise StoreUnavailable("PostgreSQL did not answer in time")
            return super().suppressed(campaign_id, ids)

    monkeypatch.setattr(send_worker, "PostgresFollower", Shaky)
    with Sink(by_address({"dot": "wait"}), pipelining=False) as sink:
        campaign = world.campaign(20, port=sink.port, transport={"connections": 1, "final_dot_timeout_s": 120})
        with thread(lambda: run(grace_s=60.0)) as result:
            until(lambda: len(sink.taken) == 1)
            calls.clear()
            with world.database.transaction() as conn:
                keys = [f"r{n}@example.org" for n in range(20)]
                suppress(conn, tenant_id=1, address_keys=keys, reason="unsubscribed")
            until(lambda: "suppressed" in calls and calls[calls.index("suppressed") :].count("look") >= 2)
            sink.script = lambda stage, to: None
            sink.go()
            result()
    assert judge(world, campaign, sink, doubts=0) == {"sent": 1, "suppressed": 19}


def test_P07_P12_what_a_busy_disk_held_up_does_not_start_after_a_pause(
    world: World, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal takes its time, and the campaign is paused before it is written."""
    append, stopped = FileBatch.append, []

    def slow(self: FileBatch, lines: bytes) -> None:
        append(self, lines)
        if lines.startswith(b"A ") and not stopped:
            with world.database.transaction() as conn:
                campaigns.move(conn, campaign, "pause", by="ann")
            stopped.append(time.time())
            until(lambda: time.time() > stopped[0] + 1.1)

    monkeypatch.setattr(FileBatch, "append", slow)
    with Sink() as sink:
        campaign = world.campaign(20, port=sink.port)
        run()
        nothing_later(sink, stopped[0])
        assert judge(world, campaign, sink, doubts=0, finished=False) == {"queued": 20}
        with world.database.transaction() as conn:
            campaigns.move(conn, campaign, "resume", by="ann")
        run()
        assert judge(world, campaign, sink, doubts=0) == {"sent": 20}


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


def test_P10_F07_a_worker_that_lost_its_lease_writes_nothing(world: World, run: Run) -> None:
    # without pipelining, so that each message is handed over by a connection of its own
    told = threading.Event()
    with Sink(by_address({"dot": "wait"}), pipelining=False) as sink:
        campaign = world.campaign(4, port=sink.port, transport={"final_dot_timeout_s": 120})
        with thread(lambda: run(until=told.is_set, grace_s=60.0)) as result:
            until(lambda: len(sink.taken) == 4)
            with world.database.transaction("owner") as conn:  # as if its lease had run out and a person had decided
                for (token,) in conn.execute("SELECT token FROM leases").fetchall():
                    doubts.lose(conn, token)
            sink.go()
            told.set()
            report = result().report
    assert report.counts["lost_leases"] == 4
    assert judge(world, campaign, sink, doubts=4, finished=False) == {"in_doubt": 4}
    assert not world.events() and not world.sql("SELECT * FROM attempts")


@pytest.mark.parametrize("off_s", [-7200.0, 7200.0], ids=["behind", "ahead"])
def test_P10_P12_a_worker_on_a_machine_whose_clock_is_wrong_goes_by_the_databases(
    world: World, run: Run, monkeypatch: pytest.MonkeyPatch, off_s: float
) -> None:
    now, real = datetime.now(UTC), time.time
    with Sink(keep_bodies=True) as sink:
        runs = world.campaign(20, port=sink.port, slug="runs", ends_at=now + timedelta(hours=1))
        over = world.campaign(20, port=sink.port, slug="over", ends_at=now - timedelta(hours=1))
        monkeypatch.setattr(time, "time", lambda: real() + off_s)
        run()
        monkeypatch.undo()
    assert world.account(runs) == {"sent": 20} and world.account(over) == {"expired": 20}
    times = "SELECT min(at) >= %s, max(at) <= clock_timestamp() FROM attempts"
    assert world.sql(times, now - timedelta(seconds=1)) == [(True, True)]
    date = message_from_bytes(sink.taken[0].body, policy=policy)["Date"].datetime
    assert abs(date - now) < timedelta(minutes=10)


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
    assert done.replayed.in_doubt <= 4
    states = judge(world, campaign, sink, doubts=4, journal=tmp_path / "journal")
    assert states["sent"] + states["in_doubt"] == 1500


def test_F06_SIGTERM_finishes_what_is_in_flight_and_gives_the_rest_back(world: World, tmp_path: Path) -> None:
    with Sink(by_address({"dot": "slow:0.3"})) as sink:
        campaign = world.campaign(1000, port=sink.port)
        worker = start(world.database, tmp_path, worker="w1")
        until(lambda: len(sink.taken) > 8)
        worker.terminate()
        output, _ = worker.communicate(timeout=120)
    assert '"ended": "SIGTERM"' in output
    states = world.account(campaign)
    assert states.keys() == {"sent", "queued"} and states["sent"] == len(sink.taken)
    judge(world, campaign, sink, doubts=0, finished=False, journal=tmp_path / "journal")
    assert set(world.sql("SELECT DISTINCT attempt FROM messages WHERE state = 'queued'")) == {(0,)}


@pytest.mark.parametrize("table", ["attempts", "log"])
def test_P14_when_results_cannot_be_written_sending_stops_and_nothing_of_them_is(
    world: World, run: Run, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    refused, record = list[float](), PostgresLedger.record

    def noted(*arguments: Any, **settings: Any) -> int:
        try:
            return record(*arguments, **settings)
        except Misconfigured:
            refused.append(time.time())
            raise

    monkeypatch.setattr(PostgresLedger, "record", noted)
    with Sink(by_address({"dot": "slow:0.05"})) as sink:
        campaign = world.campaign(1500, port=sink.port)
        with thread(lambda: run(until=lambda: False)) as result:
            until(lambda: len(sink.taken) > 50)
            world.sql(f"REVOKE INSERT ON {table} FROM mailmill_sender")
            report = result().report
        assert report.failed
        nothing_later(sink, refused[0])  # how soon that is depends on how busy the machine is
        recorded = world.account(campaign).get("sent", 0)
        assert len(world.events()) == world.sql("SELECT count(*) FROM attempts")[0][0] == recorded < len(sink.taken)
        world.sql(f"GRANT INSERT ON {table} TO mailmill_sender")
        sink.script = lambda stage, to: None
        run()
        assert judge(world, campaign, sink, doubts=0) == {"sent": 1500}  # the journal knew every answer


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
