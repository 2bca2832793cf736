"""A tenant, its sources, and an import from end to end over a real database and lake."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb
from pydantic import SecretStr
from typer.testing import CliRunner

from mailmill.cli import ingest as ingest_verbs
from mailmill.cli import people as people_verbs
from mailmill.cli import rejects as rejects_verbs
from mailmill.cli import sources as sources_verbs
from mailmill.cli.app import app
from mailmill.composition import Installation
from mailmill.errors import MailmillError
from mailmill.io.lake import Lake
from mailmill.io.postgres import ingest, manifest
from mailmill.io.postgres.database import Database
from mailmill.io.postgres.ingest_store import IngestStore
from mailmill.io.sources.files import CsvFiles
from mailmill.pipelines.ingest import stage
from mailmill.pipelines.ingest.generations import CONTACTS_SCHEMA
from mailmill.pipelines.ingest.outcomes import Loaded, Received, Validated
from mailmill.pipelines.ingest.ports import Feed, SourceRow
from mailmill.settings import Settings

# what Dagster keeps of runs; its versions and the shapes of jobs, which it would have to make anew, are left, and so is
# what a process made that came with the server's own user
RUNS = (
    "SELECT schemaname, tablename FROM pg_tables WHERE schemaname = 'dagster' AND tablename NOT IN"
    " ('alembic_version', 'secondary_indexes', 'instance_info', 'kvs', 'snapshots') AND tableowner = current_user"
)
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Imported:
    received: Received
    validated: Validated
    loaded: Loaded


@dataclass(frozen=True, kw_only=True)
class Mill:
    """What a test does with an installation."""

    database: Database
    lake: Lake
    folder: Path

    @property
    def store(self) -> IngestStore:
        return IngestStore(database=self.database, lake=self.lake)

    def tenant(self, slug: str = "acme") -> int:
        with self.database.transaction() as conn:
            row = conn.execute(
                "INSERT INTO tenants (slug, name, postal_address, spec) VALUES (%s, %s, 'Street 1', '{}')"
                " ON CONFLICT (slug) DO UPDATE SET slug = excluded.slug RETURNING id",
                (slug, slug),
            ).fetchone()
            assert row
            return int(row[0])

    def source(self, slug: str = "list", *, tenant: str = "acme", type: str = "csv", **spec: Any) -> SourceRow:
        tenant_id = self.tenant(tenant)
        document = {"kind": "source", "tenant": tenant, "slug": slug, "type": type, **spec}
        with self.database.transaction() as conn:
            conn.execute(
                "INSERT INTO sources (tenant_id, slug, kind, priority, spec) VALUES (%s, %s, %s, %s, %s)"
                " ON CONFLICT (tenant_id, slug) DO UPDATE SET spec = excluded.spec, priority = excluded.priority",
                (tenant_id, slug, type, spec.get("priority", 0), Jsonb(document)),
            )
            return ingest.source(conn, f"{tenant}/{slug}")

    def file(self, content: str | bytes, name: str = "list.csv") -> Path:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def run(self, source: SourceRow, feed: Feed) -> Imported:
        received = stage.receive(source, feed, self.store)
        validated = stage.validate(source, self.store)
        return Imported(received=received, validated=validated, loaded=stage.load(source, self.store, self.store))

    def read(self, source: SourceRow, *contents: str | bytes, **settings: Any) -> Imported:
        paths = [self.file(content, f"{source.slug}-{n}.csv") for n, content in enumerate(contents)]
        return self.run(source, CsvFiles(paths=paths, **settings))

    def run_until_validated(self, source: SourceRow, content: str) -> None:
        """A batch that waits to be loaded, as an import leaves it that was killed there."""
        stage.receive(source, CsvFiles(paths=[self.file(content, f"{source.slug}.csv")]), self.store)
        stage.validate(source, self.store)

    def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        with self.database.connect() as conn, conn.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(query, values).fetchall()  # type: ignore[arg-type]

    def contacts(self) -> dict[str, dict[str, Any]]:
        return {row["match_key"]: row for row in self.rows("SELECT * FROM contacts ORDER BY match_key")}

    def rejected(self, **where: Any) -> list[dict[str, Any]]:
        return self.store.rejected(**where).collect().to_dicts()

    def generation(self, tenant: str = "acme") -> pl.DataFrame:
        tenant_id = self.tenant(tenant)
        stage.publish_contacts(tenant_id, self.store, now=NOW)
        with self.database.connect() as conn:
            files: Sequence[str] = [
                f.file for f in manifest.listed(conn, tenant_id=tenant_id, dataset="contacts", part="")
            ]
        return self.lake.scan(files, CONTACTS_SCHEMA).collect()


@pytest.fixture(scope="module")
def module_database(cloned: Callable[[], AbstractContextManager[Database]]) -> Iterator[Database]:
    with cloned() as database:
        yield database


@pytest.fixture
def database(module_database: Database) -> Database:
    """Empty for each test, Dagster's runs too; emptied rather than made anew, which takes a second each."""
    with module_database.transaction() as conn:
        runs = conn.execute(RUNS).fetchall()
        if runs:
            conn.execute(
                sql.SQL("TRUNCATE {} CASCADE").format(sql.SQL(", ").join([sql.Identifier(*row) for row in runs]))
            )
        conn.execute(
            "TRUNCATE tenants, contacts, sightings, lone_sightings, engagement, domains RESTART IDENTITY CASCADE"
        )
    return module_database


@pytest.fixture
def installed(mill: Mill, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installation:
    """The test's database and lake as an installation, for verbs run in this process by way of Dagster."""
    url = database.conninfo("owner")
    made = Installation(Settings(home=tmp_path / "home", project=mill.folder, database_url=SecretStr(url)))
    made.__dict__.update(database=database, any_database=database, lake=mill.lake)
    for module in (ingest_verbs, people_verbs, rejects_verbs, sources_verbs):
        monkeypatch.setattr(module, "installation", lambda: made)
    for name in ("DAGSTER_HOME", "MAILMILL_DAGSTER_STORAGE", "DAGSTER_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "")  # so that what a run sets is taken back
    return made


@pytest.fixture
def mailmill(installed: Installation) -> Callable[..., str]:
    """Runs one verb here. Out: what it says on stdout. Raises: what `main` shows of ours and exits 1 with."""

    def run(*words: str) -> str:
        result = CliRunner().invoke(app, list(words))
        if isinstance(result.exception, MailmillError):
            raise result.exception
        assert result.exit_code == 0, (result.output, result.exception)
        return result.stdout

    return run


@pytest.fixture
def mill(database: Database, lake: Lake, tmp_path: Path) -> Mill:
    folder = tmp_path / "files"
    folder.mkdir()
    return Mill(database=database, lake=lake, folder=folder)
