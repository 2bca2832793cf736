"""`mailmill ingest` as a real process, killed at random moments and run twice at once: the contacts are the same."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from mailmill.io.postgres.database import Database
from mailmill.io.postgres.server import EmbeddedServer

pytestmark = pytest.mark.faults
YAML = """kind: tenant
slug: acme
name: Acme
postal_address: Street 1
---
kind: source
tenant: acme
slug: list
type: csv
folder: in box
"""
FILES, ROWS = 6, 1500
SEED = 20261121


class Shop:
    """A project whose source has six files; a third of each file's people are in the next one too."""

    def __init__(self, folder: Path, url: str, database: Database) -> None:
        self.folder, self.database = folder, database
        self.started: list[subprocess.Popen[str]] = []
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MAILMILL_", "DAGSTER_"))}
        self.environment = kept | {"MAILMILL_DATABASE_URL": url, "MAILMILL_SECRETS_DIR": "none"}
        (folder / "in box").mkdir(parents=True)
        (folder / "acme.yaml").write_text(YAML)
        for number in range(FILES):
            people = range(number * 1000, number * 1000 + ROWS)
            text = "".join(f"p{n}@x{n % 9}.example,Person {n}\n" for n in people)
            (folder / "in box" / f"part {number}.csv").write_text(f"email,name\n{text}nobody,Nobody\n")
        self.run("apply", ".")

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "ignore", "-m", "mailmill", *words]
        self.started.append(
            subprocess.Popen(command, cwd=self.folder, env=self.environment, text=True, stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        )  # fmt: skip
        return self.started[-1]

    def run(self, *words: str) -> str:
        process = self.start(*words)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, out + err
        return out

    def check(self) -> None:
        """What an uninterrupted import gives: every person once, every batch once, nothing counted twice."""
        people = (FILES - 1) * 1000 + ROWS
        with self.database.transaction() as conn:
            assert conn.execute("SELECT count(*), count(DISTINCT match_key) FROM contacts").fetchone() == (
                people,
                people,
            )
            assert conn.execute("SELECT count(*) FROM contact_sources").fetchone() == (people,)
            found = conn.execute(
                "SELECT count(*), sum(rows_read), sum(rows_rejected), sum(contacts_new),"
                " sum(duplicates_across), bool_and(state = 'loaded') FROM batches"
            ).fetchone()
            assert found == (FILES, FILES * (ROWS + 1), FILES, people, FILES * ROWS - people, True)


@pytest.fixture
def shop(tmp_path: Path, server: EmbeddedServer, database: Database) -> Iterator[Shop]:
    name = conninfo_to_dict(database.conninfo("owner"))["dbname"]
    shop = Shop(tmp_path / "a shop", server.conninfo("postgres", str(name)), database)
    yield shop
    for process in shop.started:  # of a test that failed; it would go on in the next one's database
        process.kill()
        process.communicate()


def test_P02_F36_killed_at_random_moments_and_run_again_an_import_gives_each_person_once(shop: Shop) -> None:
    """The first kills come while Dagster's own tables are made, which has to survive them too."""
    moments = random.Random(SEED)
    for _ in range(5):
        process = shop.start("ingest", "acme/list")
        assert process.stderr is not None
        for _ in range(moments.randrange(5)):  # so many steps are told before the kill
            process.stderr.readline()
        try:
            process.communicate(timeout=moments.uniform(0.0, 1.0))
        except subprocess.TimeoutExpired:
            process.send_signal(moments.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM]))
            process.communicate(timeout=300)
    shop.run("ingest", "acme/list")
    shop.check()
    with psycopg.connect(shop.environment["MAILMILL_DATABASE_URL"]) as conn:
        open_runs = "SELECT count(*) FROM dagster.runs WHERE status IN ('STARTED', 'STARTING', 'NOT_STARTED')"
        assert conn.execute(open_runs).fetchone() == (0,)


def test_P02_F36_two_imports_at_once_give_each_person_once(shop: Shop) -> None:
    both = [shop.start("ingest", "acme/list") for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, out + err
    shop.check()


def test_an_interrupted_import_says_what_to_do(shop: Shop) -> None:
    with shop.database.connect() as holder:
        holder.execute("LOCK TABLE contacts IN SHARE MODE")  # it is not through before the signal comes
        process = shop.start("ingest", "acme/list")
        assert process.stderr is not None
        assert "part 0.csv" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert err.strip().endswith("interrupted; run the same command again to go on")
    shop.run("ingest", "acme/list")
    shop.check()
