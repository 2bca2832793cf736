"""The verbs `listen` and `dead-letters`, as programs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

import pytest
from event_world import a_ledger, a_story, state, truth, values
from psycopg.conninfo import conninfo_to_dict

from mailmill.io.event_log.postgres import PostgresEventLog
from mailmill.io.lake import Lake
from mailmill.io.listener import Listener
from mailmill.io.postgres.database import Database
from mailmill.io.postgres.server import EmbeddedServer


@pytest.fixture
def environment(server: EmbeddedServer, database: Database, tmp_path: Path) -> dict[str, str]:
    """Of an installation on the test's database, reached as in production: one URL, roles taken by name."""
    parts = conninfo_to_dict(server.conninfo("postgres", str(conninfo_to_dict(database.conninfo("owner"))["dbname"])))
    url = f"postgresql://postgres:{parts['password']}@/{parts['dbname']}?host={quote(str(parts['host']), safe='')}"
    return {**os.environ, "MAILMILL_DATABASE_URL": url, "MAILMILL_HOME": str(tmp_path / "home")}


def mailmill(environment: dict[str, str], *verb: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "mailmill", *verb, "--json"], env=environment, stdout=subprocess.PIPE, text=True
    )


def test_P19_dead_letters_are_shown_and_replayed_once(
    database: Database, lake: Lake, log: PostgresEventLog, environment: dict[str, str]
) -> None:
    ledger = a_ledger(database, 40)
    story = a_story(ledger, 200)
    late = sum(event["message"] > 20 for event in story)
    log.append([*values(story), (1, b"{")])
    with database.transaction() as conn:
        conn.execute("UPDATE messages SET id = id + 1000 WHERE id > 20")
    report = Listener(database=database, lake=lake).run(until_idle=True)
    assert (report.events, report.poison) == (200 - late, late + 1)
    with database.transaction() as conn:  # what the letters spoke of is put right
        conn.execute("UPDATE messages SET id = id - 1000 WHERE id > 1000")
    with mailmill(environment, "dead-letters", "--replay") as process:
        answer = json.loads(process.communicate(timeout=120)[0])
    assert answer["replayed"] == late + 1
    assert {one["reason"]: one["waiting"] for one in answer["reasons"]} == {"not_json": 0, "unknown_message": 0}
    report = Listener(database=database, lake=lake).run(until_idle=True)
    assert (report.events, report.poison) == (late, 1)
    assert state(database) == truth(ledger, story)


def test_a_running_listener_folds_what_arrives_and_ends_in_order_when_told(
    database: Database, log: PostgresEventLog, environment: dict[str, str]
) -> None:
    ledger = a_ledger(database, 20)
    story = a_story(ledger, 300)
    with mailmill(environment, "listen") as process:
        for start in (0, 150):
            log.append(values(story[start : start + 150]))
            deadline, expected = time.monotonic() + 120, truth(ledger, story[: start + 150])
            while state(database) != expected:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0
    report = json.loads(output)
    assert (report["events"], report["outages"]) == (300, 0)
