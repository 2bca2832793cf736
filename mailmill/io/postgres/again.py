"""Whom batches that were loaded before may have named, and may say something else of now, or nothing."""

from __future__ import annotations

from functools import cached_property

import polars as pl
import psycopg

from mailmill.io.postgres import sightings
from mailmill.pipelines.ingest.ports import BatchRow, SourceRow


class Doubted:
    """Ids of contacts, each once however many batches of one load doubt it.

    Memory is that of the source's sightings, 40 bytes a contact, which are read once a load, and only when a batch in
    it was loaded before.
    """

    def __init__(self, conn: psycopg.Connection, source: SourceRow) -> None:
        self._conn, self._source = conn, source
        self.ids = pl.Series("id", [], dtype=pl.Int64)

    @cached_property
    def _seen(self) -> pl.DataFrame:
        """As it stood before: whom the source named only in this load, none of its batches had named."""
        seen = sightings.of_source(self._conn, self._source.tenant_id, self._source.id)
        return seen.select("id", "first_seen", "last_seen", "first_batch", "last_batch")

    def named_before(self, batch: BatchRow) -> pl.Series:
        """Who the batch may have named when it was loaded before. To be asked before it is taken in again."""
        return sightings.near(self._conn, self._source.tenant_id, batch.id, self._seen)["id"]

    def add(self, ids: pl.Series) -> None:
        if len(ids):
            self.ids = pl.concat([self.ids, ids]).unique().sort()
