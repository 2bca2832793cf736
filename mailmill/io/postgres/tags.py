"""Tags: what they mean, and the ones that are gone. The caller owns the transaction."""

from __future__ import annotations

from datetime import datetime

import psycopg

from mailmill.io.postgres.sql import statements

SQL = statements("tags")


def described(conn: psycopg.Connection, tenant_id: int) -> list[tuple[str, str | None, datetime | None]]:
    """(slug, description, deleted at) of the tags that have a document or were deleted."""
    return conn.execute(SQL["described"], {"tenant_id": tenant_id}).fetchall()


def delete(conn: psycopg.Connection, tenant_id: int, slug: str) -> int:
    """Take a tag off its contacts and keep it off. Run under contacts.lock. Out: contacts that had it."""
    which = {"tenant_id": tenant_id, "slug": slug}
    conn.execute(SQL["delete"], which)
    return conn.execute(SQL["take_off"], which).rowcount
