"""F36 and P02: the same list twice, at once, or killed half-way, is the same contacts once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from mailmill.io.sources.files import CsvFiles
from mailmill.pipelines.ingest import stage

COUNT = 2_000
LIST = "email,name\n" + "".join(f"user{n}@x{n % 7}.org,Name {n}\n" for n in range(COUNT)) + "bad,row\n"


def the_contacts_are_there_once(mill) -> None:
    assert mill.rows("SELECT count(*) n, count(DISTINCT match_key) keys FROM contacts") == [{"n": COUNT, "keys": COUNT}]
    assert mill.rows("SELECT count(*) n FROM contact_sources") == [{"n": COUNT}]
    assert mill.rows("SELECT state::text, rows_accepted, rows_rejected, contacts_new FROM batches") == [
        {"state": "loaded", "rows_accepted": COUNT, "rows_rejected": 1, "contacts_new": COUNT}
    ]
    assert len(mill.rejected()) == 1


def test_F36_the_same_file_twice_adds_nothing(mill):
    source = mill.source()
    mill.read(source, LIST)
    again = mill.read(source, LIST)
    assert (again.received.known, again.loaded.counts.new) == (1, 0)
    the_contacts_are_there_once(mill)


def test_F36_the_same_file_from_many_sides_at_once_is_one_import(mill):
    source = mill.source()
    path = mill.file(LIST)
    failures: list[BaseException] = []

    def one_import() -> None:
        try:
            mill.run(source, CsvFiles(paths=[path]))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=one_import) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failures == []
    the_contacts_are_there_once(mill)


def test_two_sources_of_one_tenant_at_once_lose_nothing(mill):
    sources = [mill.source(f"list{n}") for n in range(3)]
    path = mill.file(LIST)
    threads = [threading.Thread(target=mill.run, args=(source, CsvFiles(paths=[path]))) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert mill.rows("SELECT count(*) n FROM contacts") == [{"n": COUNT}]
    assert mill.rows("SELECT count(*) n FROM contact_sources") == [{"n": 3 * COUNT}]


def test_a_file_that_grows_again_is_another_batch_and_only_adds(mill):
    source = mill.source()
    mill.read(source, LIST)
    done = mill.read(source, LIST + "late@x.org,Late\n")
    assert (done.loaded.counts.new, done.loaded.counts.duplicates_across) == (1, COUNT)


LOADER = """
import json, sys
from pathlib import Path
from mailmill.io.lake import Lake
from mailmill.io.postgres import ingest
from mailmill.io.postgres.database import Database
from mailmill.io.postgres.ingest_store import IngestStore
from mailmill.io.sources.files import CsvFiles
from mailmill.pipelines.ingest import stage
where = json.loads(sys.argv[1])
database = Database(conninfos=where["conninfos"])
store = IngestStore(database=database, lake=Lake(root=Path(where["lake"])))
with database.transaction() as conn:
    source = ingest.source(conn, "acme/list")
stage.receive(source, CsvFiles(paths=[Path(where["file"])]), store)
stage.validate(source, store)
stage.load(source, store, store)
"""


@pytest.mark.parametrize(
    "table",
    ["manifest", "batches", "sightings"],
    ids=["while its raw batch is registered", "while it is marked validated", "while its contacts are written"],
)
def test_P02_an_import_killed_half_way_leaves_no_double_and_no_gap(mill, table):
    """The import is stopped inside the transaction by a lock on what it writes next, then killed with SIGKILL."""
    source, path = mill.source(), mill.file(LIST)
    if table == "batches":
        stage.receive(source, CsvFiles(paths=[path]), mill.store)
    where = {
        "conninfos": mill.database.conninfos, "lake": str(mill.lake.root), "file": str(path),
    }  # fmt: skip
    with mill.database.connect() as blocker:
        blocker.execute(f"LOCK TABLE {table} IN SHARE MODE")
        loader = subprocess.Popen([sys.executable, "-c", LOADER, json.dumps(where)])
        try:
            deadline = time.monotonic() + 120
            while not mill.rows(
                "SELECT 1 FROM pg_locks l JOIN pg_class c ON c.oid = l.relation WHERE c.relname = %s AND NOT l.granted",
                table,
            ):
                assert loader.poll() is None and time.monotonic() < deadline
                time.sleep(0.02)
        finally:
            os.kill(loader.pid, signal.SIGKILL)
            loader.wait()
        blocker.rollback()
    deadline = time.monotonic() + 120  # the server notices that the client is gone and rolls back
    while mill.rows("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database"
                    " WHERE datname = current_database())"):  # fmt: skip
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert mill.contacts() == {}
    mill.run(source, CsvFiles(paths=[path]))
    the_contacts_are_there_once(mill)
    listed = [row["file"] for row in mill.rows("SELECT file FROM manifest")]
    mill.lake.sweep(listed, older_than_s=-1)  # what the killed one left and nobody sees
    mill.run(source, CsvFiles(paths=[path]))
    the_contacts_are_there_once(mill)
