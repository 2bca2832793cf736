"""Clocks that are wrong or turn: what is due, a lease and a limit go by the database's."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.utils import parsedate_to_datetime
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from send_oracle import judge
from send_process import start
from send_world import Sink, World, by_address, until

from mailmill.io.postgres import campaigns
from mailmill.io.postgres.server import EmbeddedServer

pytestmark = pytest.mark.faults

JUMP_S = 7200.0


def test_F33_a_worker_whose_clock_jumps_goes_by_the_databases(world: World, tmp_path: Path) -> None:
    """Two of them, and two hours, one in each direction and in the middle of a campaign."""
    clocks = [tmp_path / "ahead", tmp_path / "behind"]
    for clock in clocks:
        clock.write_text("0")
    began = datetime.now(UTC)
    hour, week = timedelta(hours=1), ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
    open_now = {
        "days": week, "time_zone": "UTC", "start": (began - hour).time().isoformat("seconds"),
        "end": (began + hour).time().isoformat("seconds"),
    }  # fmt: skip
    people = [f"w{n}@example.org" for n in range(60)]
    with Sink(by_address({"rcpt r0": "450 4.2.0 later", "dot": "slow:0.05"}), keep_bodies=True) as sink:
        campaign = world.campaign(200, port=sink.port, ends_at=began + hour)
        windowed = world.campaign(people, port=sink.port, slug="windowed", window=open_now, state="paused")
        over = world.campaign(["late@example.org"], port=sink.port, slug="over", ends_at=began)
        workers = [start(world.database, tmp_path, clock=clock, worker=clock.name, lease_s=60.0) for clock in clocks]
        until(lambda: len(sink.taken) > 20)
        for clock, jump in zip(clocks, (JUMP_S, -JUMP_S), strict=True):
            clock.write_text(str(jump))
        with world.database.transaction() as conn:
            campaigns.move(conn, windowed, "resume", by="ann")
        lasts = world.sql("SELECT extract(epoch FROM until - clock_timestamp())::float8 FROM leases")
        assert all(0 < left <= 60.0 for (left,) in lasts)
        until(
            lambda: (
                (world.account(campaign), world.account(windowed), world.account(over))
                == ({"sent": 199, "deferred": 1}, {"sent": 60}, {"expired": 1})
            )
        )
        end(workers)
        late = datetime.now(UTC)
        judge(world, [campaign, windowed, over], sink, doubts=0, finished=False, journal=tmp_path / "journal")
    assert world.rows(campaign)["r0@example.org"] == ("deferred", "mailbox_busy", 1), "not tried again before it is due"
    ((due_s,),) = world.sql(
        "SELECT extract(epoch FROM due_at - %s)::float8 FROM messages WHERE state = 'deferred'", late
    )
    assert 0 < due_s <= 400
    second = timedelta(seconds=1)
    told = [at for (at,) in world.sql("SELECT at FROM attempts")]
    told += [parsedate_to_datetime(message_from_bytes(one.body)["Date"]) for one in sink.taken]
    told += [datetime.fromtimestamp(event["at"] / 1000, UTC) for event in world.events()]
    assert began - second < min(told) and max(told) < late + second


def end(workers: Sequence[subprocess.Popen[str]]) -> None:
    for worker in workers:
        worker.send_signal(signal.SIGTERM)
    for worker in workers:
        _, problems = worker.communicate(timeout=60)
        assert worker.returncode == 0, problems


# ---------------------------------------------------------------- the database's own


@contextmanager
def senders_day(server: EmbeddedServer, world: World) -> Iterator[Callable[[str], float]]:
    """Lets the sender's sessions see another time of day. Yields what sets it, and says what is added to the time."""
    name = sql.Identifier(str(psycopg.conninfo.conninfo_to_dict(world.database.conninfo("sender"))["dbname"]))
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).date()
    alter = sql.SQL("ALTER ROLE mailmill_sender IN DATABASE {} ").format(name)
    world.sql(
        "CREATE SCHEMA clock; GRANT USAGE ON SCHEMA clock TO mailmill_sender;"
        "CREATE TABLE clock.added (s float8); INSERT INTO clock.added VALUES (0);"
        "GRANT SELECT ON clock.added TO mailmill_sender;"
        "CREATE FUNCTION clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS"
        " 'SELECT pg_catalog.clock_timestamp() + make_interval(secs => s) FROM clock.added';"
        "CREATE FUNCTION clock.now() RETURNS timestamptz LANGUAGE sql STABLE AS"
        " 'SELECT pg_catalog.now() + make_interval(secs => s) FROM clock.added'"
    )
    with psycopg.connect(server.conninfo("postgres", "postgres"), autocommit=True) as conn:
        conn.execute(alter + sql.SQL("SET search_path = clock, public, pg_catalog"))

        def show(time_of_day: str) -> float:
            added = datetime.fromisoformat(f"{tomorrow}T{time_of_day}Z").timestamp() - time.time()
            world.sql("UPDATE clock.added SET s = %s", added)
            return added

        try:
            yield show
        finally:
            conn.execute(alter + sql.SQL("RESET search_path"))


def test_F51_P11_a_days_limit_holds_over_a_kill_a_restart_and_midnight(
    world: World, server: EmbeddedServer, tmp_path: Path
) -> None:
    """Two workers. One is killed at noon; both reserve what the day has left, and are at work on it at midnight."""
    cap, connections = 60, 2

    def begin() -> None:
        world.sql("DELETE FROM workers")
        workers[:] = [start(world.database, tmp_path, worker=name, grace_s=5.0) for name in ("w1", "w2")]
        until(lambda: world.sql("SELECT count(*) FROM workers") == [(2,)])

    def used() -> list[int]:
        """By day."""
        return [n for (n,) in world.sql("SELECT used FROM budgets ORDER BY starts_at")]

    def move(step: str) -> None:
        with world.database.transaction() as conn:
            assert campaigns.move(conn, campaign, step, by="ann")  # type: ignore[arg-type]

    workers: list[subprocess.Popen[str]] = []
    slow = by_address({"dot": "slow:0.3"})
    with Sink(slow) as sink, senders_day(server, world) as show:
        campaign = world.campaign(300, port=sink.port, transport={"connections": connections, "per_day": cap})
        show("12:00:00")
        begin()
        until(lambda: len(sink.taken) > 10)
        workers[0].kill()
        workers[1].send_signal(signal.SIGTERM)
        for worker in workers:
            worker.communicate(timeout=60)
        move("pause")
        begin()
        until(lambda: not world.sql("SELECT 1 FROM leases"))  # what was left behind is settled
        states = world.account(campaign)
        assert used() == [300 - states["queued"]] and used()[0] < cap, "what nobody had begun counts no more"
        added = show("23:59:58")
        move("resume")
        until(lambda: time.time() + added > midnight(added))
        sink.script = lambda stage, to: None
        until(lambda: len(used()) == 2 and used()[1] == cap and not world.sql("SELECT 1 FROM leases"))
        end(workers)
        states = judge(world, campaign, sink, doubts=connections, finished=False, journal=tmp_path / "journal")
    assert used()[0] <= cap and sum(used()) == states["sent"] + states["in_doubt"]
    later = [at for at, _ in sink.handed if at + added > midnight(added)]
    assert len(later) <= cap + 2 * connections, "what was on its way to the relay at midnight is the day's before"


def midnight(added: float) -> float:
    """The end of the day that is shown, epoch seconds."""
    shown = datetime.now(UTC) + timedelta(seconds=added)
    return datetime.combine(shown + timedelta(hours=12), datetime.min.time(), UTC).timestamp()
