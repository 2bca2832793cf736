"""A planner that is killed: whoever comes next takes the campaign up, with no gap and nobody twice."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import psycopg
import pytest

from mailmill.io.postgres import campaigns
from mailmill.io.postgres.database import ROLES

pytestmark = pytest.mark.faults

ROWS = 60_000
PLANNER = """
import json, sys
from pathlib import Path
from mailmill.io.lake import Lake
from mailmill.io.postgres.audiences import PostgresCampaigns, PostgresContacts
from mailmill.io.postgres.database import Database
from mailmill.pipelines.target.identities import Preflight
from mailmill.pipelines.target.ticks import tick

given = json.load(sys.stdin)
stores = {"database": Database(conninfos=given["conninfos"]), "lake": Lake(root=Path(given["lake"]))}
store = PostgresCampaigns(**stores)
tick(schedule=store, campaigns=store, contacts=PostgresContacts(**stores), by="victim",
     preflight=Preflight(None, str, ""), public_url="https://m.example")
"""


def start_planner(world) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", PLANNER], stdin=subprocess.PIPE)
    conninfos = {role: world.database.conninfo(role) for role in ROLES}
    assert process.stdin is not None
    process.stdin.write(json.dumps({"conninfos": conninfos, "lake": str(world.lake.root)}).encode())
    process.stdin.close()
    return process


def wait_for(condition, process: subprocess.Popen[bytes], deadline_s: float = 120) -> bool:
    """Whether the condition came true before the planner was through."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        if condition():
            return True
        if process.poll() is not None:
            return False
    raise AssertionError("the condition never came true")


def everybody_is_in_the_ledger_once(world) -> None:
    first, planned = world.rows("SELECT first_message_id, planned FROM campaigns")[0]
    found = world.rows("SELECT count(*), count(DISTINCT contact_id), min(id), max(id) FROM messages")[0]
    assert found == (ROWS, ROWS, first, first + planned - 1)
    assert planned == ROWS
    assert world.value("SELECT count(*) FROM message_fields") == ROWS
    assert world.value("SELECT rows FROM manifest WHERE dataset = 'audiences'") == ROWS
    assert world.value("SELECT count(*) FROM links") == 2
    assert world.state() == "running"


@pytest.mark.parametrize("moment", ["planning", "COPY messages%", "COPY message_fields%"])
def test_F05_a_planner_killed_leaves_no_gap_and_nobody_twice(world, frame, moment):
    world.publish(frame([{"email": f"p{n}@x{n % 50}.example", "name": f"P{n}"} for n in range(ROWS)]))
    with world.database.transaction() as conn:
        campaigns.schedule(conn, campaigns.find(conn, "acme/spring"), None, by="test")
    watch = world.database.connect("owner", autocommit=True)

    def reached() -> bool:
        if moment == "planning":
            query, value = "SELECT 1 FROM campaigns WHERE state = %s::campaign_state", moment
        else:
            query, value = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND query LIKE %s", moment
        return watch.execute(query, (value,)).fetchone() is not None

    planner = start_planner(world)
    try:
        caught = wait_for(reached, planner)
    finally:
        planner.send_signal(signal.SIGKILL) if planner.poll() is None else None
        planner.wait(60)
    if caught and planner.returncode == -signal.SIGKILL:
        assert_nothing_or_all(watch, world)
    # the backend of the victim may still be busy; its lock goes with it, and then the next tick plans
    end = time.monotonic() + 120
    while world.state() != "running":
        world.tick()
        assert time.monotonic() < end, "nobody could take the campaign up"
    watch.close()
    everybody_is_in_the_ledger_once(world)
    assert world.tick() == []
    everybody_is_in_the_ledger_once(world)


def assert_nothing_or_all(watch: psycopg.Connection, world) -> None:
    row = watch.execute("SELECT state::text, (SELECT count(*) FROM messages) FROM campaigns").fetchone()
    assert row in (("planning", 0), ("running", ROWS))


def test_F05_two_planners_at_once_and_one_of_them_killed(world, frame):
    world.publish(frame([{"email": f"p{n}@x.example", "name": "P"} for n in range(ROWS)]))
    with world.database.transaction() as conn:
        campaigns.schedule(conn, campaigns.find(conn, "acme/spring"), None, by="test")
    victims = [start_planner(world), start_planner(world)]
    wait_for(lambda: world.state() != "scheduled", victims[0])
    victims[0].kill()
    for victim in victims:
        victim.wait(120)
    end = time.monotonic() + 120
    while world.state() != "running":
        world.tick()
        assert time.monotonic() < end
    everybody_is_in_the_ledger_once(world)
