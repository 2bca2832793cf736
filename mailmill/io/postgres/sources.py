"""Sources as an operator sees them, and the end of one. The caller owns the transaction."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import psycopg
from psycopg.rows import dict_row

from mailmill.errors import StoreUnavailable
from mailmill.io.lake import Lake
from mailmill.io.postgres import contacts, ingest, sightings
from mailmill.io.postgres.ingest import source
from mailmill.io.postgres.recompute import Recomputed, recompute
from mailmill.io.postgres.sql import statements
from mailmill.io.postgres.withdrawals import SQL as WITHDRAWALS
from mailmill.pipelines.ingest.batches import withheld
from mailmill.pipelines.ingest.ports import SourceRow

__all__ = ["contacts_of", "delete", "hold", "overview", "remove_contacts", "source", "withdraw_all"]
SQL = statements("sources")


def overview(conn: psycopg.Connection) -> list[dict[str, Any]]:
    """Each source with counts, its last batch and error, and what waits for a person: batches, and
    contacts that a full read showed no more."""
    with conn.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(SQL["overview"]).fetchall()
    known = {one.name: one for one in ingest.sources(conn)}
    for row in found:
        one = known[row["source"]]
        row["held"] = [asdict(batch) for batch in ingest.held(conn, one)] if row["held"] else []
        waiting = ingest.batches(conn, one, "validated") if row["withheld"] else []
        row["withheld"] = [
            {"batch": batch.id, "origin": batch.origin, "read": batch.shown, "rejected": batch.refused}
            for batch in withheld(one, waiting)
        ]
    return found


def hold(conn: psycopg.Connection, row: SourceRow) -> None:
    """Keep imports of it off until the transaction ends: what is loaded into the tenant just now is waited for.

    Raises: StoreUnavailable when an import is running, Misconfigured when it was deleted meanwhile.
    """
    found = conn.execute(SQL["hold"], _facts(row)).fetchone()
    if not (found and found[0]):
        raise StoreUnavailable(f"an import of {row.name} is running; try again when it is done")
    contacts.lock(conn, row.tenant_id)
    ingest.keep_standing(conn, row)


def contacts_of(conn: psycopg.Connection, row: SourceRow) -> int:
    """How many contacts it stands for."""
    found = conn.execute(SQL["contacts_of"], _facts(row)).fetchone()
    return int(found[0]) if found else 0


def withdraw_all(conn: psycopg.Connection, row: SourceRow) -> int:
    """It takes back every contact; the same content, should it ever come again, is news then. Out: how many."""
    conn.execute(SQL["free_keys"], _facts(row))
    return conn.execute(WITHDRAWALS["of_source"], _facts(row)).rowcount


def remove_contacts(conn: psycopg.Connection, lake: Lake, row: SourceRow) -> Recomputed:
    """What it gave goes, what it vouched for, its kept rows and rejects too; lake_erasure.clear takes their files off
    the disk."""
    ids = sightings.of_source(conn, row.tenant_id, row.id)["id"]
    done = recompute(conn, lake, row.tenant_id, ids, without=row.id)
    conn.execute(SQL["remove_words"], _facts(row))
    conn.execute(SQL["remove_batches"], _facts(row))  # first, so that one that is just divided lists no file afterwards
    conn.execute(SQL["remove_files"], _facts(row))
    return done


def delete(conn: psycopg.Connection, row: SourceRow) -> None:
    conn.execute(SQL["delete"], _facts(row))


def _facts(row: SourceRow) -> dict[str, object]:
    return {"tenant_id": row.tenant_id, "source_id": row.id}
