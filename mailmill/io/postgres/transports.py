"""Transports in PostgreSQL, as people ask about them. The caller owns the transaction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.rows import class_row, dict_row

from mailmill.errors import Misconfigured
from mailmill.io.postgres.sql import statements

SQL = statements("transports")


@dataclass(frozen=True, slots=True, kw_only=True)
class Transport:
    """A transport as applied. `sender`: the address of the tenant's first identity."""

    id: int
    tenant_id: int
    kind: str
    spec: Mapping[str, Any] = field(repr=False)
    sender: str | None


def find(conn: psycopg.Connection, name: str) -> Transport:
    """The transport `tenant/slug`. Raises: Misconfigured naming those there are."""
    tenant, _, slug = name.partition("/")
    with conn.cursor(row_factory=class_row(Transport)) as cursor:
        found = cursor.execute(SQL["find"], {"tenant": tenant, "slug": slug}).fetchone()
    if found is not None:
        return found
    known = ", ".join(str(row["transport"]) for row in overview(conn, None)[:20]) or "none yet"
    raise Misconfigured(f"there is no transport {name!r}", remedy=f"Name it as tenant/transport. There are: {known}.")


def overview(conn: psycopg.Connection, tenant: str | None) -> list[dict[str, Any]]:
    """transport, kind, relay, connections, held_at, held_reason, held_for (providers); ordered by name."""
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(SQL["overview"], {"tenant": tenant}).fetchall()


def suppressed(conn: psycopg.Connection, tenant_id: int, address_key: str) -> bool:
    """Whether the tenant, or everybody here, does not mail this address or its mailbox."""
    row = conn.execute(SQL["suppressed"], {"tenant_id": tenant_id, "address_key": address_key}).fetchone()
    return row is not None and bool(row[0])
