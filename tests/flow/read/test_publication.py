"""P18, the reader's side: who reads while files are published sees one generation, whole, and no error."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import duckdb
import polars as pl

from mailmill.io.lake import Lake
from mailmill.io.postgres import manifest
from mailmill.io.postgres.database import Database
from mailmill.io.warehouse import Warehouse
from mailmill.pipelines.ingest.generations import CONTACTS_SCHEMA

PUBLICATIONS = 20
# a process of its own, because DuckDB shares an open file within one; it ends when its input does
READER = """
import select, sys, duckdb
seen = []
while not select.select([sys.stdin], [], [], 0)[0]:
    with duckdb.connect(sys.argv[1], read_only=True) as store:
        contacts, generations, generation = store.execute(
            "SELECT count(*), count(DISTINCT name), any_value(name) FROM contacts").fetchone()
        members = store.execute("SELECT count(*) FROM segment_members").fetchone()[0]
        listed = store.execute("SELECT contacts FROM segments").fetchone()[0]
        repeats = store.execute("SELECT count(*) - count(DISTINCT event_id) FROM events").fetchone()[0]
    n = int(generation)
    assert generations == 1 and (contacts, members, listed, repeats) == (1000 + n, n, n, 0), (n, contacts, members)
    if n not in seen:
        print(n, flush=True)
    seen.append(n)
assert seen == sorted(seen)
"""


def publish_generation(database: Database, lake: Lake, tenant_id: int, n: int) -> None:
    """Generation n: 1000 + n contacts in two files, n of them in the segment."""
    size = 1000 + n
    contacts = pl.DataFrame({"contact_id": range(size), "name": [str(n)] * size}).match_to_schema(
        CONTACTS_SCHEMA, missing_columns="insert"
    )
    halves = [lake.write(half, tenant_id=tenant_id, dataset="contacts") for half in (contacts[:500], contacts[500:])]
    members = lake.write(contacts.select("contact_id")[:n], tenant_id=tenant_id, dataset="segments")
    with database.transaction() as conn:
        manifest.replace(conn, halves, tenant_id=tenant_id, dataset="contacts")
        manifest.replace(conn, [members], tenant_id=tenant_id, dataset="segments", part="newsletter")


@contextmanager
def reading(path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", READER, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        yield process


def test_P18_a_reader_during_twenty_publications_sees_one_generation_each_time(
    history, fill_lake, lake: Lake, tmp_path: Path, database: Database, at_now
) -> None:
    acme = history("acme", contacts=20)
    fill_lake(acme)  # its events lie in the lake twice
    warehouse = Warehouse(folder=tmp_path / "warehouse", lake=lake)
    publish_generation(database, lake, acme, 1)
    warehouse.publish(database, now=at_now, tenant="acme")
    with reading(warehouse.path("acme")) as reader:
        assert reader.stdout is not None
        for n in range(2, PUBLICATIONS + 2):
            said = reader.stdout.readline()  # it reads on and on, and has come as far
            assert said == f"{n - 1}\n", said or reader.communicate()
            publish_generation(database, lake, acme, n)
            now = at_now + timedelta(minutes=n)
            warehouse.publish(database, now=now, tenant="acme")
            with database.transaction() as conn:
                listed = {file for (file,) in conn.execute("SELECT file FROM manifest")}
            lake.sweep(listed | warehouse.pinned(now), older_than_s=-1)  # harder than any sweeper does it
        _, errors = reader.communicate("\n", timeout=120)
        assert reader.returncode == 0, errors


def test_P18_who_has_the_old_file_open_keeps_it(
    history, lake: Lake, tmp_path: Path, database: Database, at_now
) -> None:
    acme = history("acme")
    warehouse = Warehouse(folder=tmp_path / "warehouse", lake=lake)
    publish_generation(database, lake, acme, 1)
    warehouse.publish(database, now=at_now)
    with duckdb.connect(str(warehouse.path("acme")), read_only=True) as store:
        publish_generation(database, lake, acme, 2)
        warehouse.publish(database, now=at_now + timedelta(hours=1))
        assert store.execute("SELECT count(*) FROM contacts").fetchone() == (1001,)
    with duckdb.connect(str(warehouse.path("acme")), read_only=True) as store:
        assert store.execute("SELECT count(*) FROM contacts").fetchone() == (1002,)


def test_P18_duckdb_counts_what_postgresql_counts(
    history, fill_lake, lake, tmp_path, database: Database, at_now
) -> None:
    """Distinct events by kind, read back from the views, against the ledger's facts."""
    fill_lake(history("acme", contacts=80, campaigns=3), events_files=3)
    warehouse = Warehouse(folder=tmp_path / "warehouse", lake=lake)
    warehouse.publish(database, now=at_now)
    with database.transaction() as conn, duckdb.connect(str(warehouse.path("acme")), read_only=True) as store:
        ledger = conn.execute(
            "SELECT count(at_accepted), count(at_delivered), count(at_opened) FROM messages"
        ).fetchone()
        kinds = dict(store.execute("SELECT kind, count(DISTINCT message_id) FROM events GROUP BY 1").fetchall())
        assert (kinds["accepted"], kinds["delivered"], kinds["opened"]) == ledger
        facts = "SELECT count(accepted_at), count(delivered_at), count(opened_at) FROM messages"
        assert store.execute(facts).fetchone() == ledger


def test_publishers_at_once_take_turns(
    history, fill_lake, lake: Lake, tmp_path: Path, database: Database, at_now
) -> None:
    fill_lake(history("acme", contacts=50, campaigns=3))
    warehouse = Warehouse(folder=tmp_path / "warehouse", lake=lake)
    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(warehouse.publish, database, now=at_now + timedelta(seconds=n)) for n in range(4)]
        assert all(future.result() for future in done)
    with database.transaction() as conn:
        files = conn.execute("SELECT part, count(*) FROM manifest WHERE dataset = 'messages' GROUP BY 1").fetchall()
    assert sorted(files) == [(f"campaign-{n}", 1) for n in (1, 2, 3)]
