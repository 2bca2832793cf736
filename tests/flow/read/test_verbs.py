"""The verbs that read, over a real PostgreSQL and lake."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from made_tokens import return_path_token
from ports import free_port
from psycopg.types.json import Jsonb

from mailmill.errors import Misconfigured
from mailmill.io.lake import Lake
from mailmill.io.postgres.database import Database
from mailmill.pipelines.send.tokens import Key

SECRET = bytes(range(32))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(root=tmp_path / "lake")  # where the verbs look, MAILMILL_HOME being tmp_path


@pytest.fixture
def story(history, fill_lake, database: Database, at_now) -> dict[str, int]:
    """acme with 100 contacts and 2 campaigns; p1 has a past, p100 was suppressed before the second campaign."""
    acme = history("acme", contacts=100, campaigns=2)
    seen = int(at_now.timestamp() * 1_000_000)
    with database.transaction() as conn:
        (campaign, last, csv) = conn.execute(
            "SELECT min(c.id), max(c.id), (SELECT min(id) FROM sources) FROM campaigns c").fetchone()  # fmt: skip
        (contact, batch) = conn.execute("SELECT min(id), (SELECT min(id) FROM batches) FROM contacts").fetchone()
        conn.execute("UPDATE contacts SET provenance = %s, created_at = %s WHERE id = %s",
                     (Jsonb({"name": [5, seen, csv, batch]}), at_now - timedelta(days=1), contact))  # fmt: skip
        conn.execute("UPDATE contacts SET created_at = %s", (at_now - timedelta(days=1),))
        times = [[seen], [seen], [batch], [batch], [seen], [batch], [1]]
        conn.execute("INSERT INTO sightings VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
                     (contact >> 6, csv, acme, [contact], *times))  # fmt: skip
        (message,) = conn.execute("SELECT min(id) FROM messages").fetchone()
        conn.execute("UPDATE messages SET reason = 'bad_mailbox', reply = '5.1.1 a***@e***.org unknown' WHERE id = %s",
                     (message,))  # fmt: skip
        conn.execute("INSERT INTO attempts SELECT %s, n, %s, %s, min(id), 'w/1', 'rcpt', 400 + n, '4.2.1', 'busy', 12"
                     " FROM transports, generate_series(1, 2) n GROUP BY n", (message, acme, at_now))  # fmt: skip
        conn.execute("DELETE FROM messages WHERE contact_id = %s AND campaign_id = %s", (contact + 98, last))
        conn.execute("INSERT INTO suppressions (tenant_id, address_key, reason, created_at)"
                     " VALUES (%s, 'p99@example.org', 'complained', %s)",
                     (acme, at_now - timedelta(hours=1)))  # fmt: skip
        conn.execute("INSERT INTO signing_keys (purpose, secret) VALUES ('return_path', %s)", (SECRET,))
        (key,) = conn.execute("SELECT id FROM signing_keys").fetchone()
    fill_lake(acme)
    return {"tenant": acme, "campaign": campaign, "message": message, "contact": contact, "key": key}


def test_explain_tells_where_a_contact_came_from_and_what_happened(story, verb) -> None:
    (found,) = json.loads(verb("explain", " P1@Example.ORG ", "--json"))
    assert found["tenant"] == "acme" and found["contact"]["id"] == story["contact"]
    assert found["sources"][0]["source"] == "csv-drop" and found["sources"][0]["first_from"] == "file-1.csv"
    (value,) = [value for value in found["values"] if value["field"] == "name"]
    assert (value["value"], value["source"], value["priority"], value["origin"]) == (
        "Person 1",
        "csv-drop",
        5,
        "file-1.csv",
    )
    first, second = found["campaigns"]
    assert first["code"] == "failed" and first["why"] == "the relay refused it for good (550 bad_mailbox)"
    assert [attempt["code"] for attempt in first["attempts"]] == [401, 402]
    assert not first["mailed"] and second["code"] == "failed"


def test_explain_tells_why_a_contact_was_not_mailed(story, verb) -> None:
    (found,) = json.loads(verb("explain", "p99@example.org", "--tenant", "acme", "--json"))
    first, second = found["campaigns"]
    assert first["mailed"] and first["why"].startswith("a relay took it (250)")
    assert second["message"] is None and second["code"] == "complained"
    assert found["suppressions"][0]["reason"] == "complained"
    text = verb("explain", "p99@example.org")
    assert "was suppressed before: complained" in text and "a relay took it" in text


@pytest.mark.parametrize("form", ["<{}@bounce.example.org>", "{}@bounce.example.org", "b+{}@bounce.example.org", "{}"])
def test_explain_reads_a_message_id(story, verb, form: str) -> None:
    key = Key(story["key"], SECRET)
    token = return_path_token(key, story["tenant"], story["campaign"], story["message"])
    (found,) = json.loads(verb("explain", form.format(token), "--json"))
    assert found["contact"]["email"] == "p1@example.org"


def test_explain_of_nobody_says_so(story, verb) -> None:
    for words in (("nobody@example.org",), ("p1@example.org", "--tenant", "other"), ("+49301234567",)):
        with pytest.raises(Misconfigured, match=r"is no contact|no tenant"):
            verb("explain", *words)


def test_stats_show_tenants_campaigns_and_one_campaign(story, verb) -> None:
    assert "acme" in verb("stats") and "campaign-2" in verb("stats", "--tenant", "acme")
    (answer,) = json.loads(verb("stats", "--json"))
    assert answer["counts"]["accepted"] == 12
    assert [one["campaign"] for one in answer["newest_campaigns"]] == ["campaign-2", "campaign-1"]
    one = json.loads(verb("stats", "acme/campaign-1", "--json"))
    assert one["planned"] == 100 and one["links"][0]["clicked"] == {"messages": 3, "events": 4}
    text = verb("stats", "campaign-1", "--tenant", "acme")
    assert "opened by machines" in text and "https://example.org/0" in text
    for words in (("campaign-1",), ("acme/nothing",), ("nobody/x",)):
        with pytest.raises(Misconfigured):
            verb("stats", *words)


def test_the_warehouse_is_published_by_a_verb(story, verb, tmp_path: Path) -> None:
    published = json.loads(verb("warehouse", "publish", "--json"))
    assert [one["name"] for one in published] == ["acme", "_operator"]
    assert (tmp_path / "warehouse" / "acme.duckdb").exists()
    assert "acme.duckdb" in verb("warehouse", "publish", "--tenant", "acme")


def test_the_api_serves_until_it_is_told_to_stop(verb) -> None:
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-m", "mailmill", "api", "--port", str(port)]
    with subprocess.Popen(command, env=dict(os.environ), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 120
        while True:
            try:
                answer = httpx.get(f"http://127.0.0.1:{port}/health", timeout=60)
                break
            except httpx.ConnectError:
                assert process.poll() is None and time.monotonic() < deadline
        assert answer.json()["status"] == "ok"
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) in (0, -signal.SIGTERM)
        assert process.stderr is not None and b"Traceback" not in process.stderr.read()
