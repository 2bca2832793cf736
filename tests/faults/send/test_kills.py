"""Workers that are killed, asked to stop, or frozen: nothing lost, nothing twice, every doubt named."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from send_fixtures import Run
from send_oracle import judge
from send_process import start
from send_world import Sink, World, by_address, until

from mailmill.io import recovery
from mailmill.io.postgres import campaigns, doubts, ledger, suppressions
from mailmill.io.postgres.database import Database
from mailmill.io.postgres.server import EmbeddedServer

pytestmark = pytest.mark.faults

CONNECTIONS = 4
KILL, TERM = signal.SIGKILL, signal.SIGTERM


@dataclass
class Gate:
    """A sink's script: lets some messages pass a stage, then the next one meets `says`, and the test is told."""

    stage: str
    passing: int = 0
    says: str | None = "stall"
    reached: threading.Event = field(default_factory=threading.Event)
    recipient: str = ""

    def __call__(self, stage: str, recipient: str) -> str | None:
        if stage != self.stage or self.reached.is_set():
            return None
        self.passing -= 1
        if self.passing >= 0:
            return None
        self.recipient = recipient
        self.reached.set()
        return self.says


@dataclass
class Stage:
    """Somewhere to be when the signal comes."""

    world: World
    sink: Sink
    worker: subprocess.Popen[str]
    number: signal.Signals

    def strike(self) -> None:
        self.worker.send_signal(self.number)

    @contextmanager
    def locked(self, table: str, statement: str) -> Iterator[None]:
        """A table is locked; the block begins when the worker waits for it with this statement."""
        with self.world.database.transaction() as conn:
            conn.execute(f"LOCK TABLE {table} MODE")
            until(lambda: self.waits(statement), what=f"{statement} waits")
            yield

    def waits(self, statement: str) -> bool:
        with psycopg.connect(self.world.database.conninfo("sender")) as conn:
            look = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND wait_event_type = 'Lock' AND strpos(query, %s) > 0"
            )
            return bool(conn.execute(look, (statement,)).fetchone()[0])  # type: ignore[index]

    def reach(self, gate: Gate) -> str:
        assert gate.reached.wait(60), gate.stage
        return gate.recipient


def in_the_claim(at: Stage, gate: Gate) -> str:
    with at.locked("message_fields IN ACCESS EXCLUSIVE", "due AS MATERIALIZED"):
        at.strike()
    return ""


def before_the_connection(at: Stage, gate: Gate) -> str:
    at.reach(gate)
    at.strike()
    return ""


def stalled(at: Stage, gate: Gate) -> str:
    found = at.reach(gate)
    at.strike()
    return found


def after_354(at: Stage, gate: Gate) -> str:
    """The 354 is in the worker's socket, and it never came to read it."""
    found, said = at.reach(gate), threading.Event()
    at.sink.said = lambda stage, to: said.set() if (stage, to) == ("data", found) else None
    os.kill(at.worker.pid, signal.SIGSTOP)
    at.sink.go()
    assert said.wait(60)
    at.strike()
    os.kill(at.worker.pid, signal.SIGCONT)  # SIGTERM is heard then
    return found


def after_250(at: Stage, gate: Gate) -> str:
    """In the instant the 250 was written, by the relay's own hand."""
    gone: list[str] = []

    def said(stage: str, recipient: str) -> None:
        if stage == "dot" and gate.reached.is_set() and not gone:
            gone.append(recipient)
            at.strike()

    at.sink.said = said
    until(lambda: gone)
    return gone[0]


def in_the_commit(at: Stage, gate: Gate) -> str:
    with at.locked("attempts IN EXCLUSIVE", "string_to_table"):
        at.strike()
    return ""


PLACES: list[tuple[Callable[[Stage, Gate], str], Callable[[], Gate]]] = [
    (in_the_claim, lambda: Gate("never")),
    (before_the_connection, lambda: Gate("banner")),
    (stalled, lambda: Gate("mail", 5)),
    (stalled, lambda: Gate("rcpt", 9)),  # before DATA is answered
    (after_354, lambda: Gate("data", 7, "wait")),
    (stalled, lambda: Gate("dot", 12)),  # after the final dot
    (after_250, lambda: Gate("dot", 10, None)),
    (in_the_commit, lambda: Gate("never")),
]


def test_F01_F02_F03_F04_F06_signals_at_every_stage_of_one_campaign(world: World, run: Run, tmp_path: Path) -> None:
    """kill -9 and SIGTERM, each at eight known places, in one campaign; a new worker after each."""
    doubtful: list[str] = []
    sure: list[str] = []
    with Sink() as sink:
        campaign = world.campaign(2500, port=sink.port, transport={"connections": CONNECTIONS})
        named = 0
        for place, gate_of in PLACES:
            for number in (KILL, TERM):
                gate = gate_of()
                sink.script, sink.said = gate, lambda stage, to: None
                worker = start(world.database, tmp_path, worker="w1", grace_s=1.0)
                found = place(Stage(world, sink, worker, number), gate)
                output, problems = worker.communicate(timeout=120)
                assert worker.returncode == (-KILL if number == KILL else 0), problems
                if number == TERM:
                    assert json.loads(output)["ended"] == "SIGTERM"
                    assert not world.sql("SELECT token FROM leases") and not list((tmp_path / "journal").rglob("*.j"))
                if found and gate.stage in ("mail", "rcpt", "data"):
                    sure.append(found)
                elif found and gate.says == "stall":
                    doubtful.append(found)
                before, named = named, settled_doubts(world, run, sink, campaign)
                most = 0 if place is in_the_claim else CONNECTIONS  # nothing was handed over yet
                assert named - before <= most, (place.__name__, number)
        sink.script = lambda stage, to: None
        world.due_now()
        run(worker="w1")
        states = judge(world, campaign, sink, doubts=named, journal=tmp_path / "journal")
    rows = world.rows(campaign)
    assert states["sent"] + states["in_doubt"] == 2500
    assert {rows[address][0] for address in sure} == {"sent"}  # never handed over: sent, and once
    assert {rows[address][0] for address in doubtful} == {"in_doubt"}


def settled_doubts(world: World, run: Run, sink: Sink, campaign: int) -> int:
    """Have the journal of whoever went replayed, by a worker that sends nothing. Out: the doubts until now."""
    run(worker="w1", campaigns=frozenset({"nobody/nothing"}))
    states = world.account(campaign)
    assert "leased" not in states and max(sink.copies.values(), default=1) == 1
    return states.get("in_doubt", 0)


def test_P08_P09_F03_signals_at_any_moment_lose_nothing_and_double_nothing(
    world: World, run: Run, tmp_path: Path
) -> None:
    """Ten of them; in between people leave, and the campaign is paused and goes on."""
    chance = random.Random(7)
    with Sink() as sink:
        campaign = world.campaign(4000, port=sink.port, transport={"connections": 6})
        kills = 0
        for round in range(10):
            before = len(sink.taken)
            with world.database.transaction() as conn:
                leaving = [f"r{n}@example.org" for n in range(3900 + 10 * round, 3910 + 10 * round)]
                suppressions.suppress(conn, tenant_id=1, address_keys=leaving, reason="unsubscribed")
                campaigns.move(conn, campaign, "resume", by="ann")
            world.due_now()  # on a slow machine all but these may be sent by now
            worker = start(world.database, tmp_path, worker="w1", grace_s=chance.choice([0.0, 1.0]))
            until(lambda n=before: len(sink.taken) > n or world.state(campaign) == "finished")
            time.sleep(chance.uniform(0.0, 0.25))  # the moment of the kill is what is varied, nothing is waited for
            number = chance.choice([KILL, KILL, TERM])
            if round % 3 == 2:
                with world.database.transaction() as conn:
                    campaigns.move(conn, campaign, "pause", by="ann")
            worker.send_signal(number)
            if number == TERM:
                time.sleep(chance.uniform(0.0, 0.1))
                worker.kill()  # the grace was too short
            worker.communicate()
            kills += 1
        with world.database.transaction() as conn:
            campaigns.move(conn, campaign, "resume", by="ann")
        run(worker="w1")
        world.due_now()
        run(worker="w1")
        states = judge(world, campaign, sink, doubts=6 * kills, journal=tmp_path / "journal")
    assert states.keys() <= {"sent", "in_doubt", "suppressed"} and max(sink.copies.values()) == 1


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
        states = judge(world, campaign, sink, doubts=4, journal=tmp_path / "journal")
    assert states["sent"] == done.replayed.recorded


def test_F07_a_worker_stopped_past_its_lease_writes_nothing_and_starts_nothing(
    world: World, run: Run, tmp_path: Path
) -> None:
    """Declared lost while it was stopped, its rows sent again by another: what it says on waking is refused."""
    with Sink(by_address({"dot": "wait"})) as sink:
        campaign = world.campaign(40, port=sink.port, transport={"connections": 2})
        zombie = start(
            world.database,
            tmp_path / "elsewhere",
            worker="w1",
            lease_s=3.0,
            margin_s=0.5,
            until_idle=True,
            patience_s=0,
        )
        until(lambda: len(sink.taken) >= 2)
        os.kill(zombie.pid, signal.SIGSTOP)
        until(lambda: world.sql("SELECT bool_and(until < clock_timestamp()) FROM leases")[0][0])
        with world.database.transaction("sender") as conn:
            ledger.session(conn)
            lost = doubts.declare_lost(conn, "w1")
        assert world.account(campaign)["in_doubt"] == lost > 30
        sink.script = lambda stage, to: None
        with world.database.transaction() as conn:  # a person has them sent again
            conn.execute(ledger.SQL["resolve_resend"], {"campaign_id": campaign, "ids": None})
            campaigns.move(conn, campaign, "reopen", by="test")
        run(worker="w2")
        again = len(sink.handed)
        assert world.account(campaign) == {"sent": 40}
        sink.go()  # the answers that it waited for
        os.kill(zombie.pid, signal.SIGCONT)
        output, _ = zombie.communicate(timeout=120)
        assert json.loads(output)["counts"].get("lost_leases", 0) >= 1
        assert len(sink.handed) == again  # nothing of what it held was started
        judge(world, campaign, sink, doubts=0, named=lost)
    assert sum(sink.copies.values()) <= 40 + 2


def test_P09_a_worker_declared_lost_leaves_doubts_and_only_when_its_lease_is_over(world: World, tmp_path: Path) -> None:
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
        assert judge(world, campaign, sink, finished=False) == {"in_doubt": 10}


def test_P08_P09_a_lease_that_runs_out_after_its_worker_came_back_without_its_journal_is_in_doubt(
    world: World, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container that starts again at once, with the name it had and an empty disk."""
    monkeypatch.setattr(recovery, "RESCUE_EVERY_S", 0.0)
    with Sink(by_address({"dot": "stall"})) as sink:
        campaign = world.campaign(10, port=sink.port, transport={"connections": 2})
        worker = start(world.database, tmp_path, worker="w1", lease_s=3600.0)
        until(lambda: len(sink.taken) == 2)
        worker.kill()
        worker.communicate()
        shutil.rmtree(tmp_path / "journal")
        old = (
            "INSERT INTO workers (name, host, boot_id, pid, seen_at) VALUES ('old', '', '', 1, now() - interval '8 d')"
        )
        world.sql(old)

        def settled() -> bool:
            world.sql("UPDATE leases SET until = clock_timestamp() - interval '1 s'")
            return world.state(campaign) == "finished"

        run(worker="w1", until=settled)
    assert world.account(campaign) == {"in_doubt": 10} and len(sink.taken) == 2
    assert not world.sql("SELECT 1 FROM workers"), "nor is a worker shown for ever that was killed long ago"


@pytest.mark.parametrize(
    ("doubt", "ends"), [("hold", {"sent": 98, "in_doubt": 2}), ("resend", {"sent": 100})], ids=["held", "sent again"]
)
def test_P09_F03_another_worker_of_the_machine_takes_up_what_a_dead_one_left_and_doubts_as_the_campaign_says(
    world: World, run: Run, tmp_path: Path, doubt: str, ends: dict[str, int]
) -> None:
    with Sink(by_address({"dot": "stall"})) as sink:
        campaign = world.campaign(100, port=sink.port, transport={"connections": 2}, doubt=doubt)
        worker = start(world.database, tmp_path, worker="w1")
        until(lambda: len(sink.taken) == 2)
        worker.kill()
        worker.communicate()
        sink.script = lambda stage, to: None
        done = run(worker="w2")
        assert done.replayed.in_doubt == 2
        world.sql("UPDATE messages SET due_at = '-infinity' WHERE state = 'queued'")
        run(worker="w2")
        assert judge(world, campaign, sink, doubts=2, named=2, journal=tmp_path / "journal") == ends
    assert len(sink.taken) == 100 + (2 if doubt == "resend" else 0)  # under the Message-ID they had, as the judge asks


def test_P09_a_worker_that_came_by_the_owners_url_can_be_declared_lost(world: World, server: EmbeddedServer) -> None:
    """As a run of Dagster's does in production, which is frozen with its machine: its session is the owner's."""
    grant = "{} mailmill_sender {} mailmill_owner"  # as deploy/postgres/roles.sh does
    with psycopg.connect(server.conninfo("postgres", "postgres"), autocommit=True) as conn:
        conn.execute(grant.format("GRANT", "TO"))
        try:
            database = Database(
                conninfos={"sender": make_conninfo(world.database.conninfo("owner"), options="-c role=mailmill_sender")}
            )
            world.sql("INSERT INTO workers (name, host, boot_id, pid) VALUES ('gone', '', '', 1)")
            with database.connect("sender", autocommit=True) as frozen:
                assert doubts.own_name(frozen, "gone")
                with database.transaction("sender") as conn:
                    ledger.session(conn)
                    assert doubts.declare_lost(conn, "gone") == 0
                    assert conn.execute("SELECT current_user").fetchone() == ("mailmill_sender",)
                with pytest.raises(psycopg.OperationalError):
                    frozen.execute("SELECT 1")
        finally:
            with psycopg.connect(server.conninfo("postgres", "postgres"), autocommit=True) as conn:
                conn.execute(grant.format("REVOKE", "FROM"))
