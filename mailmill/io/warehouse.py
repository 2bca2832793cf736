"""The warehouse: DuckDB files for analysts, one a tenant and one for the operator, rebuilt and replaced as a whole.

Large things stay in the lake; the file holds views over exactly the files that were visible at one moment. Whoever has
the old file open keeps it. Everything in one publication comes from one snapshot of PostgreSQL: a ledger, its counters
and its events agree.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any, LiteralString

import duckdb
import polars as pl
import psycopg

from mailmill.errors import Misconfigured, StoreUnavailable
from mailmill.io.data_folder import write_whole
from mailmill.io.lake import Lake
from mailmill.io.postgres import manifest
from mailmill.io.postgres.database import Database, driver_errors
from mailmill.io.postgres.sql import statements
from mailmill.io.warehouse_schema import (
    DATASETS,
    MESSAGES_SCHEMA,
    MESSAGES_VERSION,
    TABLES,
    create_table,
    create_view,
    fill_table,
)

SQL = statements("warehouse")
OPERATOR = "_operator"  # no tenant's slug has an underscore
KEPT_FOR = timedelta(days=1)  # how long the files under a replaced publication stay, for whoever has it open


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """One published file. `rows` counts what the views list, per view; events before their repeats are dropped."""

    name: str
    path: Path
    bytes: int
    rows: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Tenant:
    id: int
    slug: str
    time_zone: str
    files: list[tuple[str, str, str, int]]  # dataset, part, file, rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Warehouse:
    """Publishes to `folder`: `<tenant>.duckdb`, and `_operator.duckdb` with every tenant."""

    folder: Path
    lake: Lake

    def path(self, tenant: str | None) -> Path:
        """Where a tenant's file is; None: the operator's."""
        return self.folder / f"{tenant or OPERATOR}.duckdb"

    def publish(self, database: Database, *, now: datetime, tenant: str | None = None) -> list[Publication]:
        """Publish every file, or one tenant's alone. Readers see each file old or new, whole.

        Raises: Misconfigured for an unknown tenant; StoreUnavailable when PostgreSQL, the lake or the folder fails:
                then no file has changed.
        """
        with _workplace(self.folder) as work, _alone(database), driver_errors(), database.connect() as conn:
            conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            tenants = [self._tenant(conn, work, *row) for row in _tenants(conn, tenant)]
            groups = {found.slug: [found] for found in tenants}
            if tenant is None:
                groups[OPERATOR] = tenants
            with self._pinning(groups, now):
                built = {name: self._build(conn, work, name, group, now) for name, group in groups.items()}
                conn.commit()  # the exported ledgers are visible from here on
                return [self._replace(name, path, groups[name]) for name, path in built.items()]

    def pinned(self, now: datetime) -> set[str]:
        """Files of the lake that a published warehouse file still names, or one replaced less than KEPT_FOR ago.

        Whoever sweeps the lake keeps these too. Paths below the lake's root.
        """
        kept: set[str] = set()
        for pin in _live_pins(self.folder, now):
            with suppress(FileNotFoundError):  # of a publication that failed meanwhile
                kept.update(json.loads(pin.read_text(encoding="utf-8")))
        return kept

    def _tenant(self, conn: psycopg.Connection, work: Path, number: int, slug: str, zone: str) -> _Tenant:
        """Export what changed of a tenant's ledgers, then take the list of its files."""
        which = {"tenant_id": number, "version": MESSAGES_VERSION}
        for campaign_id, campaign, still_open, fingerprint, exported in conn.execute(SQL["ledgers"], which).fetchall():
            of_campaign = {"tenant_id": number, "campaign_id": campaign_id}
            if still_open:
                row = conn.execute(SQL["ledger_sum"], of_campaign).fetchone()
                fingerprint = f"{fingerprint} {row and row[0]}"
            if fingerprint == exported:
                continue
            _copy_out(conn, SQL["ledger"], of_campaign, work / "ledger.csv")
            file = self.lake.write(_ledger(work / "ledger.csv"), tenant_id=number, dataset="messages")
            facts = {"fingerprint": fingerprint, "rows": file.rows}
            manifest.replace(conn, [file], tenant_id=number, dataset="messages", part=campaign, facts=facts)
        return _Tenant(number, slug, zone, conn.execute(SQL["files"], which).fetchall())

    def _build(
        self, conn: psycopg.Connection, work: Path, name: str, tenants: Sequence[_Tenant], now: datetime
    ) -> Path:
        path = work / f"{name}.duckdb"
        try:
            # nothing is downloaded: what is needed is built in
            with duckdb.connect(str(path), config={"autoinstall_known_extensions": "false"}) as store:
                for table in TABLES:
                    store.execute(create_table(table))
                    for tenant in tenants:
                        values = {"tenant_id": tenant.id, "tenant": tenant.slug, "time_zone": tenant.time_zone}
                        _copy_out(conn, SQL[f"table_{table}"], values, work / "table.csv")
                        store.execute(fill_table(table, work / "table.csv"))
                for view in DATASETS:
                    store.execute(create_view(view, self._parts(view, tenants)))
                store.execute("CREATE TABLE publication (published_at TIMESTAMPTZ, mailmill VARCHAR)")
                store.execute("INSERT INTO publication VALUES (?, ?)", [now, version("mailmill")])
                store.execute("CHECKPOINT")
        except duckdb.Error as error:
            raise StoreUnavailable(f"the warehouse file {name}.duckdb cannot be built: {error}") from error
        return path

    def _parts(self, view: str, tenants: Sequence[_Tenant]) -> Iterator[tuple[str, str, list[Path]]]:
        dataset, part_column = DATASETS[view]
        for tenant in tenants:
            own = [(part if part_column else "", file) for kind, part, file, _ in tenant.files if kind == dataset]
            for part, files in groupby(own, key=lambda item: item[0]):
                yield tenant.slug, part, [self.lake.path(file) for _, file in files]

    @contextmanager
    def _pinning(self, groups: Mapping[str, Sequence[_Tenant]], now: datetime) -> Iterator[None]:
        """Keep the files of this publication from before it is built, and let go of those that nobody has open."""
        pins, made = self.folder / "pins", []
        pins.mkdir(exist_ok=True)
        for name, tenants in groups.items():
            pin = pins / f"{name}.{int(now.timestamp() * 1000):015d}.json"
            write_whole(pin, json.dumps([file for tenant in tenants for _, _, file, _ in tenant.files]))
            made.append(pin)
        try:
            yield
        except BaseException:
            for pin in made:
                pin.unlink(missing_ok=True)
            raise
        live = set(_live_pins(self.folder, now))
        for pin in pins.glob("*.json"):
            if pin not in live:
                pin.unlink(missing_ok=True)

    def _replace(self, name: str, built: Path, tenants: Sequence[_Tenant]) -> Publication:
        target, size = self.folder / f"{name}.duckdb", built.stat().st_size
        os.replace(built, target)
        listed = [(dataset, rows) for tenant in tenants for dataset, _, _, rows in tenant.files]
        rows = {view: sum(n for kind, n in listed if kind == dataset) for view, (dataset, _) in DATASETS.items()}
        return Publication(name=name, path=target, bytes=size, rows=rows)


@contextmanager
def _workplace(folder: Path) -> Iterator[Path]:
    """A folder beside the published files, so that a finished one is moved and not copied."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".building-", dir=folder))
    except OSError as error:
        raise StoreUnavailable(f"the warehouse cannot be written in {folder}: {error.strerror}") from error
    try:
        yield work
    except OSError as error:
        raise StoreUnavailable(f"the warehouse cannot be written in {folder}: {error.strerror}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def _alone(database: Database) -> Iterator[None]:
    """While this is open nobody else publishes; it ends with its session, however that ends."""
    with driver_errors(), database.connect(autocommit=True) as conn:
        conn.execute(SQL["lock"])
        yield


def _tenants(conn: psycopg.Connection, slug: str | None) -> list[tuple[int, str, str]]:
    rows = conn.execute(SQL["tenants"], {"slug": slug}).fetchall()
    if slug is not None and not rows:
        raise Misconfigured(f"there is no tenant {slug!r}", remedy="`mailmill apply` makes one.")
    return [(number, found, zone) for number, found, _, zone in rows]


def _copy_out(conn: psycopg.Connection, statement: LiteralString, values: Mapping[str, Any], path: Path) -> None:
    with open(path, "wb") as file, conn.cursor().copy(statement, values) as copy:
        for block in copy:
            file.write(block)


def texts_of(path: Path) -> Iterator[pl.DataFrame]:
    """The text columns of every table of a published file; its views are the lake's."""
    with duckdb.connect(str(path), read_only=True) as store:
        tables = "SELECT table_name FROM duckdb_tables() WHERE NOT internal ORDER BY 1"
        for (table,) in store.execute(tables).fetchall():
            relation = store.table(table)
            texts = [
                name for name, kind in zip(relation.columns, relation.types, strict=True) if str(kind) == "VARCHAR"
            ]
            if texts:
                yield relation.select(*texts).pl()


def _ledger(csv: Path) -> pl.LazyFrame:
    """The exported rows with their times as times."""
    if csv.stat().st_size == 0:
        return pl.LazyFrame(schema=MESSAGES_SCHEMA)
    numbers = {name: pl.Int64() if kind.is_temporal() else kind for name, kind in MESSAGES_SCHEMA.items()}
    frame = pl.scan_csv(csv, has_header=False, schema=numbers)
    seconds = [name for name, kind in MESSAGES_SCHEMA.items() if kind.is_temporal() and name != "done_at"]
    return frame.with_columns(
        pl.from_epoch("done_at", time_unit="us").dt.replace_time_zone("UTC"),
        *(pl.from_epoch(name, time_unit="s").cast(pl.Datetime("us")).dt.replace_time_zone("UTC") for name in seconds),
    ).match_to_schema(MESSAGES_SCHEMA)


def _live_pins(folder: Path, now: datetime) -> Iterator[Path]:
    """The newest pin of each name, and those whose successor is younger than KEPT_FOR."""
    earliest = (now - KEPT_FOR).timestamp() * 1000
    by_name = groupby(sorted((folder / "pins").glob("*.json")), key=lambda pin: pin.name.split(".")[0])
    for _, group in by_name:
        pins = list(group)
        for pin, successor in zip(pins, [*pins[1:], None], strict=True):
            if successor is None or int(successor.name.split(".")[1]) > earliest:
                yield pin
