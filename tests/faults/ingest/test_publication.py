"""A publication of contacts that is killed: the old generation stays whole, and the next one is as if nothing was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime

import pytest

from mailmill.io.postgres import manifest
from mailmill.io.postgres.audiences import PostgresContacts
from mailmill.pipelines.ingest import stage

pytestmark = pytest.mark.faults
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
PEOPLE = """
INSERT INTO contacts (id, tenant_id, match_key, email, name, provenance) OVERRIDING SYSTEM VALUE
SELECT n * 65536, %s, 'p' || n || '@x.org', 'p' || n || '@x.org', 'old', '{}' FROM generate_series(1, 5) n
"""
PUBLISHER = """
import json, sys
from datetime import UTC, datetime
from pathlib import Path
from mailmill.io.lake import Lake
from mailmill.io.postgres import generations
from mailmill.io.postgres.database import Database
where = json.loads(sys.argv[1])
generations.publish(
    Database(conninfos=where["conninfos"]), Lake(root=Path(where["lake"])), where["tenant_id"], datetime.now(UTC))
"""
BLOCKED = "SELECT 1 FROM pg_locks l JOIN pg_class c ON c.oid = l.relation WHERE c.relname = %s AND NOT l.granted"
PUBLISHING = (
    "SELECT 1 FROM pg_locks WHERE locktype = 'advisory'"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


def wait_until(condition, process=None) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert process is None or process.poll() is None, "the publisher ended by itself"
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize(
    "table", ["engagement", "manifest"], ids=["while a bucket is read", "when its files are written and not listed"]
)
def test_P05_a_killed_publication_leaves_the_old_generation_whole(mill, table):
    tenant_id = mill.tenant()
    with mill.database.transaction() as conn:
        conn.execute(PEOPLE, (tenant_id,))
    stage.publish_contacts(tenant_id, mill.store, now=NOW)
    with mill.database.transaction() as conn:
        conn.execute("UPDATE contacts SET name = 'new'")
    where = {"conninfos": mill.database.conninfos, "lake": str(mill.lake.root), "tenant_id": tenant_id}
    with mill.database.connect() as blocker:
        # readers of the manifest pass, writers wait; nobody reads engagement
        blocker.execute(f"LOCK TABLE {table} IN {'SHARE' if table == 'manifest' else 'ACCESS EXCLUSIVE'} MODE")
        publisher = subprocess.Popen([sys.executable, "-c", PUBLISHER, json.dumps(where)])
        try:
            wait_until(lambda: mill.rows(BLOCKED, table), publisher)
        finally:
            os.kill(publisher.pid, signal.SIGKILL)
            publisher.wait()
        blocker.rollback()
    wait_until(lambda: not mill.rows(PUBLISHING))
    store = PostgresContacts(database=mill.database, lake=mill.lake)
    old = store.generation(tenant_id)
    assert old.as_of == NOW and old.contacts.collect()["name"].to_list() == ["old"] * 5
    done = stage.publish_contacts(tenant_id, mill.store, now=datetime.now(UTC))
    assert (done.rows, done.files_written) == (5, 5)
    with mill.database.transaction() as conn:
        swept = mill.lake.sweep(manifest.all_files(conn), older_than_s=-1)
    assert swept.files == (10 if table == "manifest" else 5)  # what was replaced, and what the killed one left
    assert store.generation(tenant_id).contacts.collect()["name"].to_list() == ["new"] * 5
