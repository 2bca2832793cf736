"""API keys of the stats API. The key itself is shown once and stored nowhere. The caller owns the transaction."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg.rows import class_row

from mailmill.io.postgres.sql import statements
from mailmill.pipelines.read import keys

SQL = statements("api_keys")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyHolder:
    """Who a request comes from. tenant_id None: the operator, who sees every tenant."""

    key_id: int
    tenant_id: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedKey:
    prefix: str
    name: str
    tenant: str | None
    created_at: datetime
    revoked_at: datetime | None


def holder(conn: psycopg.Connection, key: str) -> KeyHolder | None:
    """Whose key this is, None for every text that is no valid key; both take the same way and the same time."""
    row = conn.execute(SQL["find"], {"prefix": keys.prefix(key)}).fetchone()
    if not keys.proves(key, bytes(row[2]) if row else None):
        return None
    assert row is not None
    return KeyHolder(key_id=row[0], tenant_id=row[1])


def create(conn: psycopg.Connection, *, tenant_id: int | None, name: str) -> str:
    """Make a key, for one tenant or (None) for the operator. Out: the key, which nobody can show again."""
    key, prefix, digest = keys.make(secrets.token_bytes, secrets.token_urlsafe)
    conn.execute(SQL["create"], {"tenant_id": tenant_id, "name": name, "prefix": prefix, "hash": digest})
    return key


def listed(conn: psycopg.Connection) -> list[ListedKey]:
    """Every key ever made, oldest first."""
    with conn.cursor(row_factory=class_row(ListedKey)) as cursor:
        return cursor.execute(SQL["list"]).fetchall()


def revoke(conn: psycopg.Connection, prefix: str) -> bool:
    """End a key. Out: False when there is none of this prefix."""
    return conn.execute(SQL["revoke"], {"prefix": prefix}).fetchone() is not None
