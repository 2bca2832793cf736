"""A planner that is killed: whoever comes next takes the campaign up, with no gap and nobody twice."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

from mailmill.io.postgres import campaigns
from mailmill.io.postgres.database import ROLES

pytestmark = pytest.mark.faults

ROWS = 20_000
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

WAITS = "SELECT 1 FROM pg_locks l JOIN pg_class c ON c.oid = l.relation WHERE c.relname = %s AND NOT l.granted"
FREE = (
    "SELECT count(*) = 0 FROM pg_locks WHERE locktype = 'advisory'"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


def start_planner(world) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", PLANNER], stdin=subprocess.PIPE)
    conninfos = {role: world.database.conninfo(role) for role in ROLES}
    assert process.stdin is not None
    process.stdin.write(json.dumps({"conninfos": conninfos, "lake": str(world.lake.root)}).encode())
    process.stdin.close()
    return process


def wait_for(condition, planner: subprocess.Popen[bytes] | None = None) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert planner is None or planner.poll() is None, "the planner was through"
        assert time.monotonic() < end
        time.sleep(0.01)


def everybody_is_in_the_ledger_once(world) -> None:
    first, planned = world.rows("SELECT first_message_id, planned FROM campaigns")[0]
    found = world.rows("SELECT count(*), count(DISTINCT contact_id), min(id), max(id) FROM messages")[0]
    assert found == (ROWS, ROWS, first, first + planned - 1)
    assert planned == ROWS
    assert world.value("SELECT count(*) FROM message_fields") == ROWS
    assert world.value("SELECT rows FROM manifest WHERE dataset = 'audiences'") == ROWS
    assert world.value("SELECT count(*) FROM links") == 2
    assert world.state() == "running"


@pytest.mark.parametrize("table", ["messages", "message_fields", "links", "manifest"])
def test_F05_a_planner_killed_leaves_no_gap_and_nobody_twice(world, frame, table):
    """Whoever holds the table that it writes next keeps it there until it is killed."""
    world.publish(frame([{"email": f"p{n}@x{n % 50}.example", "name": f"P{n}"} for n in range(ROWS)]))
    with world.database.transaction() as conn:
        campaigns.schedule(conn, campaigns.find(conn, "acme/spring"), None, by="test")
    with world.database.connect() as holder:
        holder.execute(f"LOCK TABLE {table} IN SHARE MODE")
        planner = start_planner(world)
        wait_for(lambda: world.rows(WAITS, table), planner)
        planner.kill()
        assert planner.wait(60) == -signal.SIGKILL
        holder.rollback()
    wait_for(lambda: world.value(FREE))  # its backend rolls back when it finds that nobody is there any more
    assert (world.state(), world.value("SELECT count(*) FROM messages")) == ("planning", 0)
    world.tick()
    everybody_is_in_the_ledger_once(world)
    assert world.tick() == []
    everybody_is_in_the_ledger_once(world)


def test_F05_two_planners_at_once_and_one_of_them_killed(world, frame):
    world.publish(frame([{"email": f"p{n}@x.example", "name": "P"} for n in range(ROWS)]))
    with world.database.transaction() as conn:
        campaigns.schedule(conn, campaigns.find(conn, "acme/spring"), None, by="test")
    victims = [start_planner(world), start_planner(world)]
    wait_for(lambda: world.state() != "scheduled")
    victims[0].kill()
    for victim in victims:
        victim.wait(120)
    end = time.monotonic() + 120
    while world.state() != "running":
        world.tick()
        assert time.monotonic() < end
    everybody_is_in_the_ledger_once(world)
