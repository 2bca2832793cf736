"""Kills, outages and many workers: nothing lost, nothing twice, every doubt named."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from send_process import start
from send_world import Sink, World, by_address, thread, until

from mailmill.io.postgres import doubts, ledger
from mailmill.io.send_worker import WorkerResult

pytestmark = pytest.mark.faults
Run = Callable[..., WorkerResult]


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
