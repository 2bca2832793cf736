"""The proof of an erasure: every store read again. What is found is named for a person to see to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from mailmill.io import person_search
from mailmill.io.lake import Lake, below
from mailmill.io.postgres import erasure
from mailmill.io.postgres.database import Database, driver_errors, refused
from mailmill.io.sources import drop_folders
from mailmill.io.sources.contents import shown
from mailmill.pipelines.ingest.erasure import Person
from mailmill.pipelines.ingest.ports import SourceRow

# of the data folder: PostgreSQL, the lake and what was set aside are searched in their own way
ELSEWHERE = ("postgres", "lake", "quarantine")
TEXTS = ("sandbox", "dagster/logs", "logs")  # of the data folder: what is written on and on, and only read by people


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """One store after the erasure: how many tables or files were read, and where the person still is."""

    store: str
    looked_at: int
    hits: tuple[str, ...] = ()
    erasable: bool = False  # what was written meanwhile: another pass takes it out


@dataclass(frozen=True, slots=True, kw_only=True)
class DagsterStorage:
    """Where Dagster keeps runs and events: a schema of a database. It is empty where Dagster has never run."""

    conninfo: str = field(repr=False)
    schema: str

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Connection]:
        """Raises: StoreUnavailable, Misconfigured; what was not searched is not proved."""
        place = "MAILMILL_DAGSTER_STORAGE_URL"
        try:
            conn = psycopg.connect(self.conninfo, connect_timeout=10)
        except psycopg.OperationalError as error:
            raise refused(error, self.conninfo, f"It keeps Dagster's runs: check {place}.", place) from error
        with driver_errors(), closing(conn), conn:
            yield conn


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Every place that may hold a person."""

    database: Database
    lake: Lake
    home: Path
    project: Path
    journal: Path
    dagster: Sequence[DagsterStorage]

    def lake_files(self, tenant_id: int) -> Iterator[Path]:
        return (path for path in sorted(below(self.lake.root / str(tenant_id))) if path.is_file())

    def quarantine(self, tenant: str) -> Path:
        """Where dropped files go that could not be written anew."""
        return self.home / "quarantine" / tenant

    def search(self, tenant_id: int, tenant: str, who: Person, sources: Sequence[SourceRow]) -> list[Searched]:
        """No table, file or folder of the tenant may mention the person."""
        with self.database.transaction() as conn:
            tables, found = erasure.search(conn, tenant_id, who)
        files = list(self.lake_files(tenant_id))
        holding = tuple(str(path) for path in files if person_search.holds(path, who))
        rows = any(one.table not in erasure.CONFIGURATION for one in found)
        return [
            Searched(store="PostgreSQL", looked_at=tables, hits=tuple(_in_table(one) for one in found), erasable=rows),
            Searched(store="lake", looked_at=len(files), hits=holding, erasable=bool(holding)),
            self._folders(tenant, who, sources),
            self._home(who),
            self._dagster(tenant_id, who),
        ]

    def _folders(self, tenant: str, who: Person, sources: Sequence[SourceRow]) -> Searched:
        looked_at, hits = 0, []
        for folder, readers in drop_folders.shared(sources, self.project).items():
            found = drop_folders.look(folder, [source.spec for source in readers], who, write=False)
            looked_at += found.files
            hits += [f"{shown(one.path)}: {one.why}" for one in found.holding]
            hits += [f"{shown(one.path)}: came meanwhile; run this again" for one in found.rewritten]
        for spec in [source.spec for source in sources if source.spec.type == "csv"][:1]:
            aside, said = drop_folders.look_aside(self.quarantine(tenant), spec, who)
            looked_at, hits = looked_at + aside, hits + said
        return Searched(store="drop folders", looked_at=looked_at, hits=tuple(hits))

    def _home(self, who: Person) -> Searched:
        """The rest of the data folder, byte by byte: warehouse, workers' journals, spool, Dagster's files, logs."""
        tops = [path for path in self.home.iterdir() if path.name not in ELSEWHERE] if self.home.is_dir() else []
        if not self.journal.is_relative_to(self.home):
            tops.append(self.journal)
        found = (path for top in tops for path in (top, *below(top)))
        files = sorted(path for path in found if path.is_file())
        hits = tuple(hit for path in files if (hit := _in_file(path, who)))
        return Searched(store="data folder", looked_at=len(files), hits=hits)

    def _dagster(self, tenant_id: int, who: Person) -> Searched:
        looked_at, hits = 0, list[str]()
        for storage in self.dagster:
            with storage.transaction() as conn:
                tables, found = erasure.search(conn, tenant_id, who, schema=storage.schema)
            looked_at += tables
            hits += [f"Dagster's {one.table}: {one.rows} rows" for one in found]
        return Searched(store="Dagster", looked_at=looked_at, hits=tuple(hits))

    def mask_elsewhere(self, tenant_id: int, who: Person) -> None:
        """What is nobody's own row: Dagster's runs with configuration, tags, events and logs (no verb writes an address
        there, but a file may be called after a person, and a run is told its name), and the sandbox's log of mail."""
        for path in sorted(path for top in TEXTS for path in below(self.home / top)):
            person_search.overwrite(path, who)
        for storage in self.dagster:
            with storage.transaction() as conn:
                _, found = erasure.search(conn, tenant_id, who, schema=storage.schema)
                erasure.mask(conn, tenant_id, who, found, schema=storage.schema)


def _in_file(path: Path, who: Person) -> str | None:
    """The file, where it holds the person, or where it cannot be read: it may be another service's."""
    try:
        folded = path.suffix != ".duckdb"
        holds = person_search.bytes_hold(path, who, folded=folded) or person_search.store_holds(path, who)
    except OSError as error:
        return f"{shown(path)}: cannot be read ({error.strerror}), so nobody knows"
    return shown(path) if holds else None


def _in_table(one: erasure.Found) -> str:
    fix = "; it is configuration: change the YAML and apply it" if one.table in erasure.CONFIGURATION else ""
    return f"{one.table}: {one.rows} rows{fix}"
