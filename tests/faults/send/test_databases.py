"""PostgreSQL restarted, cut off, full, read-only, or asking for a transaction again: sending waits, and adds up."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from postgres_proxy import CommitProxy, Fate
from psycopg import sql
from send_fixtures import Run
from send_oracle import judge
from send_process import start
from send_world import Sink, World, by_address, thread, until

from mailmill.io.postgres import schema
from mailmill.io.postgres.database import Database
from mailmill.io.postgres.ledger_ports import PostgresFollower, PostgresLedger
from mailmill.io.postgres.server import EmbeddedServer
from mailmill.io.send_worker import run_worker
from mailmill.pipelines.send import loop
from mailmill.pipelines.send.ports import Look

pytestmark = pytest.mark.faults


def terminate(world: World) -> None:
    """End every session of the sender."""
    with psycopg.connect(world.database.conninfo("sender"), autocommit=True) as conn:
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            " AND usename = current_user AND pid <> pg_backend_pid()"
        )


def test_F18_sessions_that_are_terminated_lose_and_double_nothing(world: World, run: Run, tmp_path: Path) -> None:
    with Sink(by_address({"dot": "slow:0.02"})) as sink:
        campaign = world.campaign(800, port=sink.port)
        with thread(run) as result:
            for taken in (100, 300, 500):
                until(lambda n=taken: len(sink.taken) > n)
                terminate(world)
            result()
        assert judge(world, campaign, sink, doubts=0, journal=tmp_path / "journal") == {"sent": 800}


def test_F18_what_a_worker_says_every_second_does_not_pile_up_while_the_database_is_slow(
    world: World, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would stand before every result once the database is back, and before a stop."""
    monkeypatch.setattr(loop, "SETTLE_EVERY_S", 0.0)
    calls: list[str] = []
    stopping, told, back = threading.Event(), threading.Event(), threading.Event()
    settle, look = PostgresLedger.settle, PostgresFollower.look

    def slow(self: PostgresLedger, worker: str) -> Sequence[str]:
        calls.append("settle")
        assert back.wait(120)
        return settle(self, worker)

    def seen(self: PostgresFollower, *, everything: bool) -> Look:
        calls.append("look")
        return look(self, everything=everything)

    def enough() -> bool:
        if stopping.is_set():
            told.set()
        return stopping.is_set()

    world.campaign(1, state="paused")
    monkeypatch.setattr(PostgresLedger, "settle", slow)
    monkeypatch.setattr(PostgresFollower, "look", seen)
    with thread(lambda: run(until=enough)) as result:
        until(lambda: "settle" in calls and calls[calls.index("settle") :].count("look") >= 8)
        stopping.set()
        assert told.wait(120)
        back.set()
        result()
    assert calls.count("settle") <= 3, "the one that waited, the last, and one that began as it was told to stop"


def test_F18_a_database_killed_and_then_restarted_in_the_middle_loses_nothing(tmp_path: Path) -> None:
    home = Path(tempfile.mkdtemp(prefix="mm"))
    server = EmbeddedServer(home=home)
    try:
        schema.migrate(server.database())
        world = World(server.database())
        with Sink(by_address({"dot": "slow:0.02"})) as sink:
            campaign = world.campaign(1200, port=sink.port)
            with thread(lambda: run_worker(server.database(), tmp_path / "journal", str, until_idle=True)) as result:
                until(lambda: len(sink.taken) > 300)
                pid = server.pid()
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
                until(lambda: len(sink.taken) > 800)
                server.stop()  # in good order; the worker's next call starts it
                result()
            assert judge(world, campaign, sink, doubts=0, journal=tmp_path / "journal") == {"sent": 1200}
    finally:
        server.stop()
        shutil.rmtree(server.base, ignore_errors=True)
        shutil.rmtree(home, ignore_errors=True)


@pytest.mark.parametrize("fate", ["lost", "unheard"])
def test_F19_a_connection_cut_in_the_commit_is_asked_what_became_of_it(
    world: World, tmp_path: Path, fate: Fate
) -> None:
    """Every second COMMIT of a claim and every third of results is cut, before or after it was done."""
    seen: Counter[str] = Counter()

    def cut(statements: list[str]) -> Fate | None:
        text = " ".join(statements)
        kind = "claim" if "due AS MATERIALIZED" in text else "record" if "string_to_table" in text else ""
        seen[kind] += 1
        return fate if kind and seen[kind] % (2 if kind == "claim" else 3) == 1 else None

    with Sink(by_address({"dot": "slow:0.01"})) as sink, CommitProxy(world.database.conninfo("sender"), cut) as proxy:
        campaign = world.campaign(1200, port=sink.port)
        behind = Database(conninfos={"sender": proxy.conninfo})
        worker = start(behind, tmp_path, worker="w1", until_idle=True, patience_s=0)
        output, problems = worker.communicate(timeout=300)
        assert json.loads(output)["ended"] == "idle", problems
        assert judge(world, campaign, sink, doubts=0, journal=tmp_path / "journal") == {"sent": 1200}
    assert proxy.cuts >= 4 and seen["claim"] >= 2 and seen["record"] >= 4
    assert json.loads(output)["counts"].get("lost_leases", 0) == 0  # what was written all the same is known as ours
    assert set(world.sql("SELECT DISTINCT attempt FROM messages")) == {(1,)}


def test_F19_F01_a_worker_killed_while_its_claim_commits_leaves_nothing_leased(
    world: World, run: Run, tmp_path: Path
) -> None:
    killed: list[int] = []

    def kill(statements: list[str]) -> Fate | None:
        if "due AS MATERIALIZED" not in " ".join(statements) or killed:
            return None
        killed.append(worker.pid)
        worker.kill()
        return "unheard"  # the server commits for a dead man

    with Sink() as sink, CommitProxy(world.database.conninfo("sender"), kill) as proxy:
        campaign = world.campaign(100, port=sink.port)
        worker = start(Database(conninfos={"sender": proxy.conninfo}), tmp_path, worker="w1")
        worker.communicate(timeout=120)
        done = run(worker="w1")
        assert (killed, done.replayed.released) == ([worker.pid], 100)
        assert judge(world, campaign, sink, doubts=0, journal=tmp_path / "journal") == {"sent": 100}
    assert set(world.sql("SELECT DISTINCT attempt FROM messages")) == {(1,)}


# ---------------------------------------------------------------- unable to record


@contextmanager
def read_only(server: EmbeddedServer, world: World) -> Iterator[None]:
    """As behind a failover to a standby: every session may look, none may write."""
    with psycopg.connect(server.conninfo("postgres", "postgres"), autocommit=True) as conn:
        name = sql.Identifier(str(psycopg.conninfo.conninfo_to_dict(world.database.conninfo("sender"))["dbname"]))
        alter = sql.SQL("ALTER ROLE mailmill_sender IN DATABASE {} ")
        conn.execute(alter.format(name) + sql.SQL("SET default_transaction_read_only = on"))
        terminate(world)
        try:
            yield
        finally:
            conn.execute(alter.format(name) + sql.SQL("RESET default_transaction_read_only"))


def test_F20_a_database_that_only_reads_stops_sending_until_it_writes_again(
    world: World, server: EmbeddedServer, run: Run, tmp_path: Path
) -> None:
    said: list[str] = []
    only_reads = "PostgreSQL only reads now: a standby, or set to read-only"
    with Sink(by_address({"dot": "slow:0.02"})) as sink:
        campaign = world.campaign(3000, port=sink.port)
        with thread(lambda: run(progress=lambda report: said.extend(report.problems.values()))) as result:
            until(lambda: len(sink.taken) > 100)
            with read_only(server, world):
                until(lambda: said.count(only_reads) >= 1, what="the worker says why")
                stopped = len(sink.handed)
                until(lambda: said.count(only_reads) >= 3, what="it goes on trying")
                assert len(sink.handed) == stopped < 3000
            sink.script = lambda stage, to: None
            terminate(world)
            report = result().report
        assert not report.failed and report.problems == {}
        assert judge(world, campaign, sink, doubts=0, journal=tmp_path / "journal") == {"sent": 3000}


# what PostgreSQL says of a transaction that may be run again, and of a server that cannot just now
TROUBLES = {
    "F20": ["53100", "53200", "58030"],  # disk full, out of memory, I/O error
    "F21": ["40001", "40P01", "57014", "55P03", "53300"],  # serialization, deadlock, statement and lock time-out, full
}


def trouble(world: World, table: str, event: str, codes: list[str]) -> None:
    """Two of three statements on a table fail, with one code after the other (a sequence is not rolled back)."""
    world.sql("CREATE SEQUENCE troubles; GRANT USAGE ON SEQUENCE troubles TO mailmill_sender")
    world.sql(
        sql.SQL(
            "CREATE FUNCTION trouble() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE n bigint := nextval('troubles');"
            " BEGIN IF mod(n, 3) <> 0 THEN"
            " RAISE EXCEPTION 'trouble' USING ERRCODE = (ARRAY[{}])[1 + mod(n, {})]; END IF;"
            " RETURN NULL; END $$"
        ).format(sql.SQL(",").join([sql.Literal(code) for code in codes]), sql.Literal(len(codes)))
    )
    world.sql(
        sql.SQL("CREATE TRIGGER trouble BEFORE {} ON {} FOR EACH STATEMENT EXECUTE FUNCTION trouble()").format(
            sql.SQL(event), sql.Identifier(table)
        )
    )


@pytest.mark.parametrize("fault", ["F20", "F21"])
@pytest.mark.parametrize(("table", "event"), [("attempts", "INSERT"), ("leases", "INSERT"), ("leases", "DELETE")])
def test_F21_F20_what_may_be_tried_again_is_tried_again(
    world: World, run: Run, tmp_path: Path, fault: str, table: str, event: str
) -> None:
    trouble(world, table, event, TROUBLES[fault])
    with Sink(by_address({"dot": "slow:0.01"})) as sink:
        campaign = world.campaign(250, port=sink.port)
        report: Any = run(patience_s=2.0).report
        assert not report.failed and report.ended == "idle", report.problems
        assert judge(world, campaign, sink, doubts=0, journal=tmp_path / "journal") == {"sent": 250}
    assert world.sql("SELECT last_value >= 3 FROM troubles") == [(True,)]


def test_F20_a_journal_on_a_full_disk_stops_sending_and_loses_nothing(world: World, run: Run, tmp_path: Path) -> None:
    with Sink() as sink:
        campaign = world.campaign(1500, port=sink.port)
        worker = start(world.database, tmp_path, worker="w1", file_limit=20_000)
        output, _ = worker.communicate(timeout=120)
        assert json.loads(output)["ended"] == "failed" and "journal" in json.loads(output)["problems"]["worker"]
        taken = len(sink.taken)
        states = world.account(campaign)
        assert taken < 1500 and states["sent"] == taken and states["sent"] + states["queued"] == 1500
        run(worker="w1")
        assert judge(world, campaign, sink, doubts=0, journal=tmp_path / "journal") == {"sent": 1500}


def test_F20_a_journal_that_turns_read_only_stops_sending_and_what_was_answered_is_recorded(
    world: World, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a file system does after an I/O error: neither is it written, nor does a file go that was recorded."""
    write, unlink = os.write, Path.unlink

    def checked(turned: bool) -> None:
        if turned and len(sink.taken) > 300:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def written(descriptor: int, data: bytes) -> int:
        checked(data[:2] in (b"H ", b"A ", b"R "))
        return write(descriptor, data)

    def removed(path: Path, missing_ok: bool = False) -> None:
        checked(path.suffix == ".j")
        unlink(path, missing_ok)

    with Sink() as sink:
        campaign = world.campaign(1500, port=sink.port)
        monkeypatch.setattr(os, "write", written)
        monkeypatch.setattr(Path, "unlink", removed)
        report = run(worker="w1", grace_s=60.0).report
        monkeypatch.undo()
        assert report.failed and "Read-only file system" in report.problems["worker"]
        assert world.account(campaign) == {"sent": len(sink.taken), "queued": 1500 - len(sink.taken)}
        run(worker="w1")
        assert judge(world, campaign, sink, doubts=0, journal=tmp_path / "journal") == {"sent": 1500}
