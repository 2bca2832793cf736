"""P02 and F36: imports killed at any moment, and two at once, leave every contact once."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time

import pytest

from mailmill.io.sources.files import CsvFiles

pytestmark = pytest.mark.faults
COUNT = 30_000
LIST = "email,name\n" + "".join(f"user{n}@x{n % 7}.org,Name {n}\n" for n in range(COUNT))
IMPORTER = """
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
    source = ingest.source(conn, where["source"])
print("ready", flush=True)
stage.receive(source, CsvFiles(paths=[Path(where["file"])]), store)
stage.validate(source, store)
stage.load(source, store, store)
"""


def importer(mill, source, path) -> subprocess.Popen:
    where = {
        "conninfos": mill.database.conninfos,
        "lake": str(mill.lake.root),
        "source": source.name,
        "file": str(path),
    }
    process = subprocess.Popen([sys.executable, "-c", IMPORTER, json.dumps(where)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as said:
        assert said.readline() == b"ready\n"
    return process


def everybody_is_there_once(mill, sources: int) -> None:
    assert mill.rows("SELECT count(*) n, count(DISTINCT match_key) keys FROM contacts") == [{"n": COUNT, "keys": COUNT}]
    (seen,) = mill.rows("SELECT count(*) n, count(DISTINCT (contact_id, source_id)) distinct_ones FROM contact_sources")
    assert seen == {"n": sources * COUNT, "distinct_ones": sources * COUNT}
    states = mill.rows("SELECT state::text, rows_accepted FROM batches")
    assert states == [{"state": "loaded", "rows_accepted": COUNT}] * sources


def entirely_or_not_at_all(mill) -> None:
    (found,) = mill.rows("SELECT count(*) n, (SELECT count(*) FROM contact_sources) seen FROM contacts")
    assert found in ({"n": 0, "seen": 0}, {"n": COUNT, "seen": COUNT})


def test_P02_an_import_killed_at_random_moments_again_and_again_ends_with_everybody_once(mill):
    source, path, chance = mill.source(), mill.file(LIST), random.Random(20261121)
    for _ in range(6):
        process = importer(mill, source, path)
        killed = time.monotonic() + chance.uniform(0.05, 1.2)  # a random moment is what is tested
        while process.poll() is None and time.monotonic() < killed:
            entirely_or_not_at_all(mill)
        process.kill()
        process.wait()
        entirely_or_not_at_all(mill)
    mill.run(source, CsvFiles(paths=[path]))
    everybody_is_there_once(mill, 1)


def test_F36_two_imports_of_one_tenant_by_two_processes_at_once_lose_and_double_nobody(mill):
    path = mill.file(LIST)
    processes = [importer(mill, mill.source(f"list{n}"), path) for n in range(2)]
    deadline = time.monotonic() + 300
    assert [process.wait(timeout=deadline - time.monotonic()) for process in processes] == [0, 0]
    everybody_is_there_once(mill, 2)
