"""What DNS said of domains, in PostgreSQL: one row a domain for all tenants. The caller owns the transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import polars as pl
import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from mailmill.errors import Misconfigured
from mailmill.io.postgres.copying import read
from mailmill.io.postgres.sql import statements
from mailmill.pipelines.ingest.domains import DOMAINS_SCHEMA, Domain

SQL = statements("domains")


def table(conn: psycopg.Connection) -> pl.DataFrame:
    """Every domain that was ever asked for. Out: DOMAINS_SCHEMA."""
    frame = read(conn, SQL["table"], pl.Schema({**DOMAINS_SCHEMA, "changed_at": pl.Int64()}), {})
    changed = pl.from_epoch("changed_at", "us").dt.replace_time_zone("UTC")
    return frame.with_columns(changed).match_to_schema(DOMAINS_SCHEMA)


def find(conn: psycopg.Connection, names: Sequence[str]) -> dict[str, Domain]:
    """Those of these domains that were asked for before, by name."""
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(SQL["find"], {"names": list(names)}).fetchall()
    return {row["domain"]: Domain(**{**row, "exchangers": tuple(row["exchangers"])}) for row in rows}


def due(conn: psycopg.Connection, tenant_id: int, now: datetime) -> list[str]:
    """Domains of the tenant's contacts to ask DNS for; the new ones first."""
    return [str(row[0]) for row in conn.execute(SQL["due"], {"tenant_id": tenant_id, "now": now})]


def ask_again(conn: psycopg.Connection, tenant_id: int, names: Sequence[str], now: datetime) -> None:
    """Make domains of the tenant's contacts due: these, all where none is named.

    Raises: Misconfigured when none of its contacts is at one of them.
    """
    which = {"tenant_id": tenant_id, "names": list(names) or None, "now": now}
    strangers = [name for (name,) in conn.execute(SQL["unknown"], which)]
    if strangers:
        raise Misconfigured(
            f"no contact of this tenant is at {', '.join(strangers)}",
            remedy="Name what stands behind the @ of an address.",
        )
    conn.execute(SQL["ask_again"], which)


def keep(conn: psycopg.Connection, found: Sequence[Domain]) -> int:
    """Store answers. Out: how many domains are new or have another state or provider than before."""
    rows = [
        {
            "name": one.domain,
            "state": one.state,
            "provider": one.provider,
            "exchangers": list(one.exchangers),
            "checked_at": one.checked_at.isoformat(),
            "expires_at": one.expires_at.isoformat(),
            "tries": one.tries,
            "problem": one.problem,
        }
        for one in found
    ]
    return sum(bool(row[0]) for row in conn.execute(SQL["keep"], {"rows": Jsonb(rows)}))
