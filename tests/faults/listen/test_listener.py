"""The listener is killed, doubled, frozen and cut off; the numbers stay those of the distinct events."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from event_world import a_ledger, a_story, dead_letters, lake_counts, state, truth, values

from mailmill.errors import StoreUnavailable
from mailmill.io.event_log.postgres import PostgresEventLog
from mailmill.io.lake import Lake
from mailmill.io.listener import Listener
from mailmill.io.postgres.database import Database
from mailmill.io.postgres.server import EmbeddedServer
from mailmill.pipelines.listen.loop import Pace

pytestmark = pytest.mark.faults
LISTENER = """
import json, sys
from pathlib import Path
from mailmill.io.lake import Lake
from mailmill.io.listener import Listener
from mailmill.io.postgres.database import Database
from mailmill.pipelines.listen.loop import Pace
given = json.load(sys.stdin)
listener = Listener(database=Database(conninfos=given["conninfos"]), lake=Lake(root=Path(given["lake"])),
                    pace=Pace(batch=given["batch"]))
print(listener.run(until_idle=True).events)
"""


@contextmanager
def a_process(database: Database, lake: Lake, batch: int) -> Iterator[subprocess.Popen[str]]:
    """A listener of its own that ends when it is idle."""
    process = subprocess.Popen(
        [sys.executable, "-c", LISTENER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    json.dump({"conninfos": database.conninfos, "lake": str(lake.root), "batch": batch}, process.stdin)
    process.stdin.close()
    process.stdin = None
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def a_while(seconds: float) -> None:
    """A moment chosen by chance, or until what is on the wire has arrived; nothing to wait for."""
    threading.Event().wait(seconds)


def folded(database: Database) -> int:
    with database.transaction() as conn:
        row = conn.execute("SELECT coalesce(sum(next), 0)::bigint FROM offsets WHERE consumer = 'fold'").fetchone()
    return int(row[0]) if row else 0


def test_P18_F27_kill_9_in_the_middle_of_batches_loses_and_doubles_nothing(
    database: Database, lake: Lake, log: PostgresEventLog
) -> None:
    ledger = a_ledger(database, 300)
    story = a_story(ledger, 6000)
    dice, killed = random.Random(5), 0
    for start in range(0, 6000, 2000):
        log.append(values(story[start : start + 2000] + story[: 500 if start else 0]))
        before = folded(database)
        with a_process(database, lake, batch=40) as process:
            until(lambda before=before, process=process: folded(database) > before or process.poll() is not None)
            a_while(dice.random() * 0.1)
            process.send_signal(signal.SIGKILL)
            killed += process.wait() == -signal.SIGKILL
    assert folded(database) > 0 and killed, "each was through before its kill came"
    report = Listener(database=database, lake=lake).run(until_idle=True)
    assert report.lag == 0
    # a file that a killed one left behind, torn or whole, is not listed and so is not there
    (lake.root / "1" / "events").joinpath("torn.parquet").write_bytes(b"PAR1")
    assert lake_counts(database, lake) == {"rows": 7000, "events": 6000, "places": 7000}
    assert state(database) == truth(ledger, story)


def test_F24_two_owners_of_one_log_count_everything_once(database: Database, lake: Lake, log: PostgresEventLog) -> None:
    ledger = a_ledger(database, 200)
    story = a_story(ledger, 4000)
    log.append(values(story))
    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(Listener(database=database, lake=lake, pace=Pace(batch=40)).run, until_idle=True)
            for _ in range(2)
        ]
        reports = [run.result() for run in runs]
    assert sum(report.events for report in reports) == 4000
    assert sum(report.fenced for report in reports) > 0
    assert state(database) == truth(ledger, story)
    assert lake_counts(database, lake) == {"rows": 4000, "events": 4000, "places": 4000}


def test_F24_an_owner_frozen_in_its_transaction_is_passed_and_changes_nothing_when_it_wakes(
    server: EmbeddedServer, database: Database, lake: Lake, log: PostgresEventLog
) -> None:
    ledger = a_ledger(database, 200)
    story = a_story(ledger, 4000)
    log.append(values(story))
    name = psycopg.conninfo.conninfo_to_dict(database.conninfo("owner"))["dbname"]
    look = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND usename = 'mailmill_listener'"
        " AND state = 'idle in transaction'"
    )
    with (
        psycopg.connect(server.conninfo("postgres", "postgres"), autocommit=True) as watch,
        a_process(database, lake, batch=20) as process,
    ):

        def in_transaction() -> bool:
            return watch.execute(look, (name,)).fetchone() == (1,)

        def frozen() -> bool:
            until(in_transaction)
            process.send_signal(signal.SIGSTOP)
            a_while(0.05)
            if in_transaction():
                return True
            process.send_signal(signal.SIGCONT)
            return False

        until(frozen)
        report = Listener(database=database, lake=lake).run(until_idle=True)
        assert report.events > 0
        process.send_signal(signal.SIGCONT)
        assert process.wait(120) == 0
    assert state(database) == truth(ledger, story)
    assert lake_counts(database, lake) == {"rows": 4000, "events": 4000, "places": 4000}


def test_F19_connections_cut_at_any_moment_also_in_the_commit(
    server: EmbeddedServer, database: Database, lake: Lake, log: PostgresEventLog
) -> None:
    ledger = a_ledger(database, 200)
    story = a_story(ledger, 4000)
    log.append(values(story))
    name = psycopg.conninfo.conninfo_to_dict(database.conninfo("owner"))["dbname"]
    done = threading.Event()

    def cut() -> None:
        with psycopg.connect(server.conninfo("postgres", "postgres"), autocommit=True) as conn:
            hit = 0
            while hit < 12 and not done.is_set():
                hit += conn.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = %s AND usename = 'mailmill_listener'",
                    (name,),
                ).rowcount
                done.wait(0.1)

    with ThreadPoolExecutor(1) as pool:
        cutting = pool.submit(cut)
        report = Listener(database=database, lake=lake, pace=Pace(batch=30, give_up_s=120.0)).run(until_idle=True)
        done.set()
        cutting.result()
    assert report.outages > 0
    assert state(database) == truth(ledger, story)
    assert lake_counts(database, lake) == {"rows": 4000, "events": 4000, "places": 4000}


def test_F20_a_lake_that_cannot_be_written_stops_the_fold_and_loses_nothing(
    database: Database, tmp_path: Path, log: PostgresEventLog
) -> None:
    ledger = a_ledger(database, 20)
    story = a_story(ledger, 200)
    log.append(values(story))
    lake = Lake(root=tmp_path / "lake")
    lake.root.write_text("not a folder")
    with pytest.raises(StoreUnavailable):
        Listener(database=database, lake=lake, pace=Pace(give_up_s=0.3)).run(until_idle=True)
    assert (folded(database), dead_letters(database)) == (0, [])
    lake.root.unlink()
    assert Listener(database=database, lake=lake).run(until_idle=True).events == 200
    assert state(database) == truth(ledger, story)
