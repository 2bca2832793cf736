"""The ports of ingest over PostgreSQL and the lake: each call is one transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import polars as pl
import psycopg

from mailmill.errors import StoreUnavailable
from mailmill.io import lake_erasure
from mailmill.io.lake import Lake
from mailmill.io.lake_writer import LakeWriter
from mailmill.io.postgres import batch_files, consents, contacts, erasure, generations, ingest, manifest, withdrawals
from mailmill.io.postgres.again import Doubted
from mailmill.io.postgres.database import Database, driver_errors
from mailmill.io.postgres.recompute import recompute
from mailmill.io.spool import spool
from mailmill.pipelines.ingest import forgotten
from mailmill.pipelines.ingest.ahead import prefetched
from mailmill.pipelines.ingest.batches import rules_of
from mailmill.pipelines.ingest.duplicates import Spool
from mailmill.pipelines.ingest.generations import Published
from mailmill.pipelines.ingest.ports import (
    BatchRow,
    BatchState,
    Cursor,
    Held,
    Kept,
    Load,
    LoadCounts,
    RawBatch,
    Recorded,
    SourceRow,
)
from mailmill.pipelines.ingest.raw import RAW_SCHEMA
from mailmill.pipelines.ingest.rejects import REJECTED_SCHEMA
from mailmill.pipelines.ingest.validation import FIELD, Checked


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
    def importing(self, source: SourceRow) -> Iterator[tuple[SourceRow, Cursor | None]]:
        with driver_errors(), self.database.connect(autocommit=True) as conn:
            self._be_patient(conn)
            try:
                conn.execute(ingest.SQL["hold_source"], {"source_id": source.id})
            except psycopg.errors.LockNotAvailable as error:
                raise StoreUnavailable(f"another import of {source.name} is still running") from error
            yield ingest.source(conn, source.name), ingest.cursor_of(conn, source)

    def _be_patient(self, conn: psycopg.Connection) -> None:
        conn.execute(ingest.SQL["lock_timeout"], {"milliseconds": str(int(self.patience_s * 1000))})

    def columns(self, source: SourceRow) -> tuple[tuple[str, ...], tuple[str, ...]]:
        with self.database.transaction() as conn:
            return ingest.last_columns(conn, source)

    def release(self, source: SourceRow, *, accept: bool) -> int:
        with self.database.transaction() as conn:
            return ingest.release(conn, source, accept=accept)

    def discard(self, source: SourceRow, batches: Sequence[int]) -> list[BatchRow]:
        with self.database.transaction() as conn:
            return ingest.discard(conn, source, batches)

    def held(self, source: SourceRow) -> list[Held]:
        with self.database.transaction() as conn:
            return ingest.held(conn, source)

    def remember(self, source: SourceRow, error: str | None, *, retry_after_s: float | None = None) -> None:
        with self.database.transaction() as conn:
            ingest.remember(conn, source, error, retry_after_s)

    def keep(self, source: SourceRow, batch: RawBatch, *, surprise: str | None = None, hold: bool = False) -> Kept:
        with self.database.transaction() as conn:
            known = ingest.find_batch(conn, source, batch)
            if known is not None:
                if batch.cursor is not None:
                    ingest.move_cursor(conn, source, batch.cursor, known.batch_id)
                return known
            number = erasure.number(conn, source.tenant_id)
        with LakeWriter(self.lake, tenant_id=source.tenant_id, dataset="raw") as writer:
            writer.add(pl.DataFrame(schema=RAW_SCHEMA))  # so that there is a file, also of no rows
            for frame in prefetched(batch.table.frames):
                writer.add(frame)
        with lake_erasure.taking_in(self.database, self.lake, source.tenant_id, number, writer) as conn:
            ingest.keep_standing(conn, source)
            batch_id = ingest.add_batch(conn, source, batch, rows=writer.rows, hold=hold)
            new = batch_id is not None
            if batch_id is not None:
                facts = {
                    "columns": list(batch.table.columns), "origin": batch.origin, "mapping": source.spec.columns,
                    "surprise": surprise, "few": batch.few, "usual": batch.usual,
                }  # fmt: skip
                for file in writer.files:
                    manifest.add(
                        conn, file, tenant_id=source.tenant_id, dataset="raw", part=source.slug, batch_id=batch_id,
                        facts=facts,
                    )  # fmt: skip
            elif known := ingest.find_batch(conn, source, batch):
                batch_id = known.batch_id
            assert batch_id is not None
            if batch.cursor is not None:
                ingest.move_cursor(conn, source, batch.cursor, batch_id)
            return Kept(batch_id=batch_id, new=new, rows=writer.rows)

    # ------------------------------------------------------------ BatchStore

    def batches(self, source: SourceRow, state: BatchState | None) -> list[BatchRow]:
        with self.database.transaction() as conn:
            return ingest.batches(conn, source, state)

    def raw(self, source: SourceRow, batch: BatchRow) -> Iterator[pl.DataFrame]:
        with self.database.transaction() as conn:
            files = batch_files.listed(conn, source, batch, "raw")
        yield from batch_files.raw(self.lake, files)

    def spool(self, source: SourceRow) -> AbstractContextManager[Spool]:
        return spool(self.lake.root / str(source.tenant_id))

    def record(self, source: SourceRow, batch: BatchRow, pieces: Iterable[Checked]) -> Recorded | None:
        tenant_id = source.tenant_id
        with self.database.transaction() as conn:
            gone = erasure.forgotten(conn, tenant_id)
        named, lines = set[str](), set[int]()  # of forgotten persons whom the batch names again
        reasons: Counter[str] = Counter()
        custom: set[str] = set()
        taken = 0
        with (
            LakeWriter(self.lake, tenant_id=tenant_id, dataset="validated") as accepted,
            LakeWriter(self.lake, tenant_id=tenant_id, dataset="rejected") as rejected,
        ):
            for piece in pieces:
                if gone:
                    piece, again = forgotten.without(
                        piece, (batch.id, source.slug), gone.secrets, gone.hashes, gone.rule
                    )
                    named.update(again.keys)
                    lines.update(again.lines)
                reasons.update(piece.reasons)
                taken += int(piece.accepted["copies"].sum())
                custom |= {name.removeprefix(FIELD) for name in piece.accepted.columns if name.startswith(FIELD)}
                accepted.add(piece.accepted)
                rejected.add(piece.rejected)
        recorded = Recorded(accepted=taken, rejected=rejected.rows, reasons=dict(reasons.most_common()))
        with lake_erasure.taking_in(self.database, self.lake, tenant_id, gone.number, accepted, rejected) as conn:
            if not ingest.mark_validated(conn, source, batch, recorded, rules_of(source)):
                return None
            if named or lines:
                lake_erasure.rewrite_batch(conn, self.lake, source, batch, named, lines)
            ingest.withdraw(conn, tenant_id=tenant_id, batch_id=batch.id, datasets=["validated", "rejected"])
            for dataset, file in [
                *(("validated", file) for file in accepted.files), *(("rejected", file) for file in rejected.files)
            ]:  # fmt: skip
                facts = {"columns": sorted(custom)} if dataset == "validated" else {"reasons": recorded.reasons}
                manifest.add(
                    conn, file, tenant_id=tenant_id, dataset=dataset, part=source.slug, batch_id=batch.id, facts=facts
                )
        if named or lines:
            lake_erasure.clear(self.database, self.lake, tenant_id)
        return recorded

    def hold(self, source: SourceRow, batch: BatchRow) -> bool:
        with self.database.transaction() as conn:
            return ingest.hold(conn, source, batch)

    # ------------------------------------------------------------ ContactStore

    def _be_alone(self, conn: psycopg.Connection, source: SourceRow) -> None:
        """Hold the tenant's contacts until the transaction ends. Raises: Misconfigured when the source was deleted."""
        self._be_patient(conn)
        try:
            contacts.lock(conn, source.tenant_id)
        except psycopg.errors.LockNotAvailable as error:
            raise StoreUnavailable(f"another import into {source.tenant} is still running") from error
        ingest.source(conn, source.name)

    @contextmanager
    def loading(self, source: SourceRow) -> Iterator[Load]:
        # over one connection: of ten million contacts, a server's process that is new spends a fifth of a batch of
        # 100,000 rows on mapping the memory it has not touched before
        with driver_errors(), closing(self.database.connect()) as conn:
            yield partial(self._load, conn, source)

    def _load(self, conn: psycopg.Connection, source: SourceRow, batches: Sequence[BatchRow]) -> LoadCounts | None:
        self._be_alone(conn, source)
        doubted, also = Doubted(conn, source), {batch.id for batch in batches}
        taken = [self._take_in(conn, source, batch, doubted) for batch in batches]
        consents.show_vouched(conn, source, batches)
        counts = sum((one.counts for one in taken), LoadCounts())
        if len(doubted.ids):
            redone = recompute(conn, self.lake, source.tenant_id, doubted.ids, also=also)
            counts += LoadCounts(changed=redone.changed, removed=redone.removed, left=redone.left)
        for batch, one in zip(batches, taken, strict=True):
            counts += LoadCounts(withdrawn=withdrawals.follow(conn, self.lake, source, batch, also))
            if not ingest.mark_loaded(conn, source, batch, one.counts, one.seen_from):
                conn.rollback()
                return None
            # the contacts have these rows now, and the raw batch can give them again
            ingest.withdraw(conn, tenant_id=source.tenant_id, batch_id=batch.id, datasets=["validated"])
        conn.commit()
        return counts

    def _take_in(
        self, conn: psycopg.Connection, source: SourceRow, batch: BatchRow, doubted: Doubted
    ) -> contacts.Taken:
        files = batch_files.listed(conn, source, batch, "validated")
        consents.vouch(conn, source, batch)
        taken = contacts.take_in(conn, source, batch, batch_files.validated(self.lake, files), doubted)
        said = any(consents.ROW_FIELDS & set(facts["columns"]) for _, facts in files)
        rows = batch_files.spoken(conn, self.lake, source, batch, files, consents.GIVEN) if said else ()
        consents.record(conn, source, batch, rows)
        return taken

    def walk(self, source: SourceRow) -> list[BatchRow]:
        with self.database.transaction() as conn:
            return withdrawals.walk(conn, source)

    def withdraw_absent(
        self, source: SourceRow, walk: Sequence[BatchRow], present: pl.Series, *, max_share: float
    ) -> tuple[int, bool] | None:
        with self.database.transaction() as conn:
            self._be_alone(conn, source)
            return withdrawals.compare(conn, source, walk, present, max_share)

    def asked(self, source: SourceRow) -> int | None:
        with self.database.transaction() as conn:
            return withdrawals.asked(conn, source)

    def publish(self, tenant_id: int, now: datetime) -> Published:
        return generations.publish(self.database, self.lake, tenant_id, now, patience_s=self.patience_s)

    def rejected(
        self, *, tenant: str | None = None, source: str | None = None, batch_id: int | None = None
    ) -> pl.LazyFrame:
        """REJECTED_SCHEMA, the newest batch first."""
        with self.database.transaction() as conn:
            files = ingest.rejected_files(conn, tenant=tenant, source=source, batch_id=batch_id)
        return self.lake.scan(files, REJECTED_SCHEMA)
