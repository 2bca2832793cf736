"""Many workers on one campaign: no row twice, none left, no limit exceeded."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from send_fixtures import Run
from send_oracle import judge
from send_process import start
from send_world import Sink, World, by_address, until

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("workers", [2, 4, 8])
def test_F08_P11_claims_are_disjoint_and_complete_and_limits_are_kept(
    world: World, tmp_path: Path, workers: int
) -> None:
    rows = 350 * workers
    with Sink() as sink, Sink() as metered:
        campaign = world.campaign(rows, port=sink.port, transport={"connections": 3})
        people = [f"m{n}@example.org" for n in range(200)]
        limited = world.campaign(people, port=metered.port, slug="limited", transport={"per_day": 90})
        running = [
            start(world.database, tmp_path, worker=f"w{n}", until_idle=True, patience_s=0) for n in range(workers)
        ]
        # it adds up at every moment, or `account` raises
        until(lambda: world.account(campaign) and all(worker.poll() is not None for worker in running), 300)
        for worker in running:
            _, problems = worker.communicate(timeout=300)
            assert worker.returncode == 0, problems
        states = judge(world, [campaign, limited], [sink, metered], doubts=0, finished=False)
        assert world.account(campaign) == {"sent": rows} and world.state(campaign) == "finished"
    assert states == {"sent": rows + 90, "queued": 110}
    assert len(metered.taken) == 90 and sink.most_open <= 3 * workers


def test_P11_no_limit_is_exceeded_by_any_number_of_workers(world: World, run: Run, tmp_path: Path) -> None:
    with Sink() as sink:
        campaign = world.campaign(200, port=sink.port, transport={"per_day": 60, "per_minute": 50})
        until(lambda: time.time() % 60 < 25)  # a minute's budget is used up within that minute
        workers = [start(world.database, tmp_path, worker=f"w{n}", until_idle=True, patience_s=0) for n in range(3)]
        assert [worker.wait(120) for worker in workers] == [0, 0, 0]
        for worker in workers:
            worker.communicate()
    minutes = [n for (n,) in world.sql("SELECT used FROM budgets WHERE period = 'minute'")]
    sent = len(sink.taken)
    assert sent == sum(minutes) == world.account(campaign)["sent"] and max(minutes) <= 50
    assert world.account(campaign)["queued"] == 200 - sent
    assert minutes == [50] or len(minutes) > 1, "a busy machine needed more than what was left of the minute"
    assert world.sql("SELECT used FROM budgets WHERE period = 'day'") == [(sent,)]
    world.sql("UPDATE budgets SET used = 0 WHERE period = 'minute'")
    with Sink(port=sink.port) as more:
        run()
    assert len(more.taken) == 60 - sent  # what the day has left


def test_P11_what_a_killed_worker_had_not_started_counts_for_no_limit(world: World, run: Run, tmp_path: Path) -> None:
    with Sink(by_address({"dot": "stall"})) as sink:
        campaign = world.campaign(50, port=sink.port, transport={"connections": 1, "per_day": 50, "per_minute": 50})
        worker = start(world.database, tmp_path, worker="w1")
        until(lambda: sink.taken)
        worker.kill()
        worker.communicate()
        assert world.account(campaign) == {"leased": 50}
        sink.script = lambda stage, to: None
        assert run(worker="w1").replayed.released == 49
    assert world.account(campaign) == {"sent": 49, "in_doubt": 1}
    assert world.sql("SELECT max(used) <= 50, sum(used) FROM budgets WHERE period = 'day'") == [(True, 50)]
