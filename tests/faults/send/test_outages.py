"""Kills, outages and many workers: nothing lost, nothing twice, every doubt named."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

import psycopg
import pytest
from send_fixtures import Run
from send_process import start
from send_world import Sink, World, by_address, thread, until

from mailmill.io.postgres import doubts, ledger, schema
from mailmill.io.postgres.server import EmbeddedServer
from mailmill.io.send_worker import run_worker

pytestmark = pytest.mark.faults


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


def test_F08_claims_of_many_workers_are_disjoint_and_complete(world: World, tmp_path: Path) -> None:
    with Sink() as sink:
        campaign = world.campaign(3000, port=sink.port, transport={"connections": 3})
        workers = [start(world.database, tmp_path, worker=f"w{n}", until_idle=True, patience_s=0) for n in range(3)]
        for worker in workers:
            assert worker.wait(40) == 0, worker.communicate()
            worker.communicate()
    assert world.account(campaign) == {"sent": 3000}
    assert len(sink.taken) == len(sink.copies) == 3000


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


def alive(world: World) -> int:
    return int(world.sql("SELECT count(*) FROM leases")[0][0])


def test_P08_P09_kills_at_any_moment_lose_nothing_and_double_nothing(world: World, run: Run, tmp_path: Path) -> None:
    chance = random.Random(7)
    with Sink() as sink:
        campaign = world.campaign(6000, port=sink.port, transport={"connections": 6})
        kills = 0
        while kills < 8:
            before = len(sink.taken)
            worker = start(world.database, tmp_path, worker="w1")
            until(lambda n=before: len(sink.taken) > n or len(sink.taken) == 6000, 20)
            time.sleep(chance.uniform(0.0, 0.25))  # the moment of the kill is what is varied, nothing is waited for
            worker.kill()
            worker.communicate()
            kills += 1
        run(worker="w1")
    states = world.account(campaign)
    doubts_named = states.get("in_doubt", 0)
    assert states["sent"] + doubts_named == 6000 and doubts_named <= 6 * kills
    assert max(sink.copies.values()) == 1
    rows = world.rows(campaign)
    assert {address for address, row in rows.items() if row[0] == "sent"} <= sink.copies.keys()
    assert sink.copies.keys() <= {address for address, row in rows.items() if row[0] in ("sent", "in_doubt")}
    assert len(world.events()) == states["sent"] and world.state(campaign) == "finished"
    offsets = world.sql("SELECT part, count(*), max(off) + 1 FROM log GROUP BY part")
    assert all(n == end for _, n, end in offsets)


@pytest.mark.parametrize("stage", ["banner", "mail", "rcpt", "data", "dot"])
def test_F01_F02_F03_a_kill_at_each_stage(world: World, run: Run, tmp_path: Path, stage: str) -> None:
    with Sink(by_address({stage: "stall"})) as sink:
        campaign = world.campaign(8, port=sink.port, transport={"connections": 2})
        worker = start(world.database, tmp_path, worker="w1")
        until(lambda: sink.open_now >= 2 and alive(world) and (stage != "dot" or len(sink.taken) == 2))
        worker.kill()
        worker.communicate()
        sink.script = lambda stage, to: None
        done = run(worker="w1")
    expected = {"sent": 6, "in_doubt": 2} if stage == "dot" else {"sent": 8}
    assert world.account(campaign) == expected
    assert set(sink.copies.values()) == {1} and len(sink.copies) == 8
    assert (done.replayed.in_doubt, done.replayed.released) == ((2, 6) if stage == "dot" else (0, 8))


def test_F04_an_answer_that_was_read_is_recorded_after_the_kill(world: World, run: Run, tmp_path: Path) -> None:
    with Sink() as sink:
        campaign = world.campaign(100, port=sink.port)
        with world.database.transaction() as conn:
            conn.execute("LOCK TABLE attempts IN EXCLUSIVE MODE")  # nothing can be recorded
            worker = start(world.database, tmp_path, worker="w1")
            until(lambda: len(sink.taken) == 100)
            assert world.account(campaign) == {"leased": 100}
            worker.kill()
            worker.communicate()
        done = run(worker="w1")
    assert done.replayed.recorded + done.replayed.in_doubt == 100 and done.replayed.in_doubt <= 4
    assert world.account(campaign)["sent"] == done.replayed.recorded
    assert max(sink.copies.values()) == 1


def test_F07_a_worker_stopped_past_its_lease_writes_nothing_and_starts_nothing(world: World, tmp_path: Path) -> None:
    with Sink(by_address({"dot": "slow:1.0"})) as sink:
        campaign = world.campaign(40, port=sink.port, transport={"connections": 2})
        worker = start(world.database, tmp_path / "elsewhere", worker="w1", lease_s=3.0, margin_s=0.5, max_s=8.0)
        until(lambda: len(sink.taken) >= 2)
        os.kill(worker.pid, signal.SIGSTOP)
        before = len(sink.taken)
        until(lambda: world.sql("SELECT bool_and(until < clock_timestamp()) FROM leases")[0][0], 10)
        with world.database.transaction("sender") as conn:
            ledger.session(conn)
            lost = doubts.declare_lost(conn, "w1")
        os.kill(worker.pid, signal.SIGCONT)
        woken = time.time()
        output, _ = worker.communicate(timeout=30)
        # what it claims afresh is its own again; what it had claimed before was never started
    states = world.account(campaign)
    assert states["in_doubt"] == lost > 30
    assert json.loads(output)["counts"].get("lost_leases", 0) >= 1
    assert [to for at, to in sink.handed if at > woken] == []
    assert len(sink.taken) <= before + 2 and max(sink.copies.values()) == 1


def test_F18_a_database_killed_in_the_middle_comes_back_and_nothing_is_lost(tmp_path: Path) -> None:
    home = Path(tempfile.mkdtemp(prefix="mm"))
    server = EmbeddedServer(home=home)
    try:
        schema.migrate(server.database())
        world = World(server.database())
        with Sink(by_address({"dot": "slow:0.02"})) as sink:
            campaign = world.campaign(1500, port=sink.port)
            with thread(lambda: run_worker(server.database(), tmp_path / "journal", str, until_idle=True)) as result:
                until(lambda: len(sink.taken) > 300)
                pid = server.pid()
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
                result(60)
        assert world.account(campaign) == {"sent": 1500} and len(sink.taken) == 1500
        assert world.state(campaign) == "finished"
    finally:
        server.stop()
        shutil.rmtree(server.base, ignore_errors=True)
        shutil.rmtree(home, ignore_errors=True)


def test_F20_a_journal_on_a_full_disk_stops_sending_and_loses_nothing(world: World, run: Run, tmp_path: Path) -> None:
    with Sink() as sink:
        campaign = world.campaign(3000, port=sink.port)
        worker = start(world.database, tmp_path, worker="w1", file_limit=20_000)
        output, _ = worker.communicate(timeout=30)
        assert json.loads(output)["ended"] == "failed" and "journal" in json.loads(output)["problems"]["worker"]
        taken = len(sink.taken)
        states = world.account(campaign)
        assert taken < 3000 and states["sent"] == taken and states["sent"] + states["queued"] == 3000
        run(worker="w1")
    assert world.account(campaign) == {"sent": 3000} and len(sink.taken) == 3000
