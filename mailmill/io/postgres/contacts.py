"""Contacts in PostgreSQL, in sets: a batch goes in. The caller owns the transaction."""

from __future__ import annotations

import polars as pl
import psycopg

from mailmill.io.postgres.copying import read
from mailmill.io.postgres.sql import statements
from mailmill.pipelines.ingest import contacts as rules
from mailmill.pipelines.ingest.contacts import CLAIMS_SCHEMA, Origin
from mailmill.pipelines.ingest.ports import BatchRow, LoadCounts, SourceRow

SQL = statements("contacts")
SLICE = 50_000  # rows a piece of COPY


def take_in(conn: psycopg.Connection, source: SourceRow, batch: BatchRow, accepted: pl.DataFrame) -> LoadCounts:
    """Merge a batch's accepted rows into the tenant's contacts.

    Contacts that are new are written as they come. Only those that are known are read back and merged.
    In: ACCEPTED_SCHEMA with custom fields.
    """
    facts = {"tenant_id": source.tenant_id, "source_id": source.id, "batch_id": batch.id}
    origin = Origin(priority=source.priority, source_id=source.id, batch_id=batch.id)
    rows = rules.contact_rows(accepted, origin)
    conn.execute(SQL["lock"], {"tenant_id": source.tenant_id})
    conn.execute(SQL["stage"])
    _copy_in(
        conn,
        "copy_incoming",
        rows.join(accepted.select("match_key", "first_seen", "last_seen"), on="match_key", how="left"),
    )
    conn.execute("ANALYZE incoming")
    known = conn.execute(SQL["find_known"], facts).rowcount
    changed = 0
    if known:
        conn.execute("ANALYZE known")
        conn.execute(SQL["forget_known"], facts)
        changed = _merge_known(conn, accepted, origin)
        conn.execute(SQL["drop_known"])
    new = conn.execute(SQL["add_contacts"], facts).rowcount
    conn.execute(SQL["add_sources"], facts)
    return LoadCounts(
        batches=1,
        accepted=int(accepted["copies"].sum()),
        new=new,
        changed=changed,
        duplicates_within=int(accepted["copies"].sum()) - rows.height,
        duplicates_across=known,
    )


def _merge_known(conn: psycopg.Connection, accepted: pl.DataFrame, origin: Origin) -> int:
    """Weigh what the batch claims about known contacts against what won so far. Out: contacts whose values changed."""
    keys = read(conn, SQL["known_keys"], pl.Schema({"match_key": pl.String()}), {})
    existing = read(conn, SQL["claims"], CLAIMS_SCHEMA, {})
    again = accepted.join(keys, on="match_key", how="semi")
    winners = rules.merge(existing, rules.claims(again, origin))
    _copy_in(conn, "copy_merged", rules.assembled(winners))
    conn.execute("ANALYZE merged")
    row = conn.execute(SQL["update_contacts"]).fetchone()
    return int(row[0]) if row else 0


def _copy_in(conn: psycopg.Connection, statement: str, frame: pl.DataFrame) -> None:
    with conn.cursor() as cursor, cursor.copy(SQL[statement]) as copy:
        for part in frame.iter_slices(SLICE):
            copy.write(part.write_csv(include_header=False, datetime_format="%Y-%m-%d %H:%M:%S%.6f%z"))
