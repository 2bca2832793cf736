"""The ports of ingest over PostgreSQL and the lake: each call is one transaction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

import polars as pl
import psycopg

from mailmill.errors import StoreUnavailable
from mailmill.io.lake import Lake
from mailmill.io.postgres import contacts, generations, ingest, manifest
from mailmill.io.postgres.database import Database, driver_errors
from mailmill.pipelines.ingest.ports import (
    BatchRow,
    BatchState,
    Cursor,
    Held,
    Kept,
    LoadCounts,
    Published,
    RawBatch,
    SourceRow,
)
from mailmill.pipelines.ingest.raw import CELL, RAW_SCHEMA
from mailmill.pipelines.ingest.rejects import REJECTED_SCHEMA
from mailmill.pipelines.ingest.validation import ACCEPTED_SCHEMA, FIELD, Checked


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestStore:
    """RawStore, BatchStore and ContactStore.

    Files are written before the transaction that lists them: a kill leaves at most a file that nobody sees, which
    `Lake.sweep` removes.
    """

    database: Database
    lake: Lake
    patience_s: float = 600.0  # how long to wait for another import of the same source or tenant

    # ------------------------------------------------------------ RawStore

    @contextmanager
    def importing(self, source: SourceRow) -> Iterator[Cursor | None]:
        with driver_errors(), self.database.connect(autocommit=True) as conn:
            self._be_patient(conn)
            try:
                conn.execute(ingest.SQL["hold_source"], {"source_id": source.id})
            except psycopg.errors.LockNotAvailable as error:
                raise StoreUnavailable(f"another import of {source.name} is still running") from error
            yield ingest.cursor_of(conn, source)

    def _be_patient(self, conn: psycopg.Connection) -> None:
        conn.execute(ingest.SQL["lock_timeout"], {"milliseconds": str(int(self.patience_s * 1000))})

    def columns(self, source: SourceRow) -> tuple[str, ...]:
        with self.database.transaction() as conn:
            return ingest.last_columns(conn, source)

    def release(self, source: SourceRow, *, accept: bool) -> int:
        with self.database.transaction() as conn:
            return ingest.release(conn, source, accept=accept)

    def held(self, source: SourceRow) -> list[Held]:
        with self.database.transaction() as conn:
            return ingest.held(conn, source)

    def remember(self, source: SourceRow, error: str | None) -> None:
        with self.database.transaction() as conn:
            ingest.remember(conn, source, error)

    def keep(self, source: SourceRow, batch: RawBatch, *, surprise: str | None = None, hold: bool = False) -> Kept:
        with self.database.transaction() as conn:
            known = ingest.find_batch(conn, source, batch.key)
            if known is not None:
                if batch.cursor is not None:
                    ingest.move_cursor(conn, source, batch.cursor)
                return Kept(batch_id=known, new=False)
        file = self.lake.write(batch.table.frame, tenant_id=source.tenant_id, dataset="raw")
        with self.database.transaction() as conn:
            batch_id = ingest.add_batch(conn, source, batch, hold=hold)
            new = batch_id is not None
            if batch_id is not None:
                manifest.add(
                    conn,
                    file,
                    tenant_id=source.tenant_id,
                    dataset="raw",
                    part=source.slug,
                    batch_id=batch_id,
                    facts={
                        "columns": list(batch.table.columns),
                        "origin": batch.origin,
                        "mapping": source.spec.columns,
                        "surprise": surprise,
                    },
                )
            else:
                batch_id = ingest.find_batch(conn, source, batch.key)
                assert batch_id is not None
            if batch.cursor is not None:
                ingest.move_cursor(conn, source, batch.cursor)
            return Kept(batch_id=batch_id, new=new)

    # ------------------------------------------------------------ BatchStore

    def batches(self, source: SourceRow, state: BatchState | None) -> list[BatchRow]:
        with self.database.transaction() as conn:
            return ingest.batches(conn, source, state)

    def raw(self, source: SourceRow, batch: BatchRow) -> pl.DataFrame:
        return self._read(source, batch, "raw", RAW_SCHEMA, CELL)

    def _read(self, source: SourceRow, batch: BatchRow, dataset: str, schema: pl.Schema, prefix: str) -> pl.DataFrame:
        with self.database.transaction() as conn:
            files = ingest.batch_files(conn, tenant_id=source.tenant_id, dataset=dataset, batch_id=batch.id)
        names = [prefix + name for name in (files[0][1]["columns"] if files else [])]
        whole = pl.Schema({**schema, **{name: pl.String() for name in names}})
        return self.lake.scan([file for file, _ in files], whole).collect()

    def record(self, source: SourceRow, batch: BatchRow, checked: Checked) -> bool:
        tenant_id = source.tenant_id
        accepted = self.lake.write(checked.accepted, tenant_id=tenant_id, dataset="validated")
        rejected = self.lake.write(checked.rejected, tenant_id=tenant_id, dataset="rejected")
        custom = [name.removeprefix(FIELD) for name in checked.accepted.columns if name.startswith(FIELD)]
        with self.database.transaction() as conn:
            if not ingest.mark_validated(conn, source, batch, checked):
                return False
            ingest.withdraw(conn, tenant_id=tenant_id, batch_id=batch.id, datasets=["validated", "rejected"])
            for dataset, file in (("validated", accepted), ("rejected", rejected)):
                manifest.add(
                    conn,
                    file,
                    tenant_id=tenant_id,
                    dataset=dataset,
                    part=source.slug,
                    batch_id=batch.id,
                    facts={"columns": custom} if dataset == "validated" else {"reasons": checked.reasons},
                )
            return True

    # ------------------------------------------------------------ ContactStore

    def load(self, source: SourceRow, batch: BatchRow) -> LoadCounts | None:
        accepted = self._read(source, batch, "validated", ACCEPTED_SCHEMA, FIELD)
        with self.database.transaction() as conn:
            self._be_patient(conn)
            try:
                counts = contacts.take_in(conn, source, batch, accepted)
            except psycopg.errors.LockNotAvailable as error:
                raise StoreUnavailable(f"another import into {source.tenant} is still running") from error
            if not ingest.mark_loaded(conn, source, batch, counts):
                conn.rollback()
                return None
            # the contacts have these rows now, and the raw batch can give them again
            ingest.withdraw(conn, tenant_id=source.tenant_id, batch_id=batch.id, datasets=["validated"])
            return counts

    def publish(self, tenant_id: int, now: datetime) -> Published:
        return generations.publish(self.database, self.lake, tenant_id, now, patience_s=self.patience_s)

    # ------------------------------------------------------------ rejects

    def rejected(
        self, *, tenant: str | None = None, source: str | None = None, batch_id: int | None = None
    ) -> pl.LazyFrame:
        """REJECTED_SCHEMA, the newest batch first."""
        with self.database.transaction() as conn:
            files = ingest.rejected_files(conn, tenant=tenant, source=source, batch_id=batch_id)
        return self.lake.scan(files, REJECTED_SCHEMA)
