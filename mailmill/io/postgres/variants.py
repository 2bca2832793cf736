"""A campaign's variants counted from the ledger. The caller owns the transaction."""

from __future__ import annotations

import psycopg

from mailmill.io.postgres.sql import statements
from mailmill.pipelines.read.variants import KINDS, Tally

SQL = statements("variants")


def tallies(conn: psycopg.Connection, *, tenant_id: int, campaign_id: int) -> list[tuple[str, Tally]]:
    """(template, what became of one variant), in the order in which the campaign has them."""
    rows = conn.execute(SQL["variants"], {"tenant_id": tenant_id, "campaign_id": campaign_id}).fetchall()
    return [(row[0], Tally(variant=row[1], counts=dict(zip(KINDS, row[2:], strict=True)))) for row in rows]
