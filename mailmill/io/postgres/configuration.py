"""What YAML files describe, as it is stored. The caller owns the transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from mailmill.errors import Misconfigured
from mailmill.io.postgres.sql import statements
from mailmill.pipelines.configuration.documents import Key
from mailmill.pipelines.configuration.plan import Change, Stored
from mailmill.pipelines.ingest import addresses

SQL = statements("configuration")


def lock(conn: psycopg.Connection, campaigns: Iterable[str]) -> None:
    """Keep other applies and the scheduler's hands off these campaigns (`tenant/slug`) until the transaction ends."""
    conn.execute(SQL["lock"])
    conn.execute(SQL["lock_campaigns"], {"names": sorted(campaigns)})


def stored(conn: psycopg.Connection) -> dict[Key, Stored]:
    """Everything that files can describe."""
    rows = conn.execute(SQL["stored"])
    return {
        (kind, tenant, slug): Stored(spec=spec, state=state, sandbox=box)
        for kind, tenant, slug, spec, state, box in rows
    }


def write(conn: psycopg.Connection, changes: Sequence[Change], *, by: str) -> int:
    """Store what a plan creates and changes, in its order. Out: how many things were written.

    In:     by is who applies, for the campaigns' audit.
    Raises: Misconfigured when a campaign left its editable states meanwhile (the lock prevents it).
    """
    written = 0
    for change in changes:
        if change.action == "unchanged":
            continue
        kind, tenant, slug = change.key
        values: dict[str, Any] = {"tenant": tenant, "slug": slug, "spec": Jsonb(change.spec)}
        if kind == "tenant":
            values["rules"] = addresses.rules_version()
        if kind == "campaign":
            values |= {"state": change.state, "by": by}
        if conn.execute(SQL[f"put_{kind}"], values).rowcount != 1:
            raise Misconfigured(f"{kind} {change.name} changed meanwhile", place=change.place, remedy="Apply again.")
        written += 1
    return written


def tenant_ids(conn: psycopg.Connection, slugs: Iterable[str]) -> dict[str, int]:
    """The ids of those of these tenants that are stored."""
    return dict(conn.execute(SQL["tenant_ids"], {"slugs": sorted(slugs)}).fetchall())


def tenants(conn: psycopg.Connection) -> list[dict[str, Any]]:
    """Each tenant with counts of what it has."""
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(SQL["tenants"]).fetchall()
