"""Contacts from everything that was ever said about them, told batch by batch in any order."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from mailmill.pipelines.ingest.contacts import STATE_SCHEMA, Origin
from mailmill.pipelines.ingest.merging import merged
from mailmill.pipelines.ingest.sightings import SIGHTINGS_SCHEMA, compared, in_question, moved, replaced


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Contacts (STATE_SCHEMA with id) and who saw them when (SIGHTINGS_SCHEMA)."""

    contacts: pl.DataFrame
    sightings: pl.DataFrame

    @classmethod
    def empty(cls) -> History:
        schema = pl.Schema({"id": pl.Int64(), **STATE_SCHEMA})
        return cls(contacts=pl.DataFrame(schema=schema), sightings=pl.DataFrame(schema=SIGHTINGS_SCHEMA))

    def told(self, rows: pl.DataFrame, origin: Origin) -> History:
        """With one more batch. In: what contacts.said() gives, with the id of each contact."""
        mine = pl.col("source_id") == origin.source_id
        seen = compared(self.sightings.filter(mine), rows, origin.batch_id)
        asked = in_question(seen, self.sightings.filter(~mine))
        known = self.contacts.join(asked, on="id", how="semi")
        written = merged(known, asked.join(known, on="id", how="semi"), self.sightings, origin).drop("changed")
        fresh = asked.join(known, on="id", how="anti").select("id", *STATE_SCHEMA.names())
        kept = self.contacts.join(written, on="id", how="anti")
        return History(
            contacts=pl.concat([kept, written, fresh]).sort("id"),
            sightings=replaced(self.sightings, moved(seen, origin.source_id, origin.batch_id)),
        )
