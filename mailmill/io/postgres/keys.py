"""Signing keys: made once, rotated by id. The caller owns the transaction."""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import Literal, TypedDict, get_args

import psycopg
from psycopg.rows import dict_row

from mailmill.io.postgres.sql import statements

SQL = statements("keys")
Purpose = Literal["tracking", "unsubscribe", "return_path", "suppression"]
PURPOSES: tuple[Purpose, ...] = get_args(Purpose)
KEY_BYTES = 32


class KeyFacts(TypedDict):
    """What may be shown of a key."""

    id: int
    purpose: str
    created_at: datetime
    retired_at: datetime | None


def missing(conn: psycopg.Connection) -> list[Purpose]:
    """The purposes without a key that signs, in the order of PURPOSES."""
    have = {purpose for (purpose,) in conn.execute(SQL["purposes"])}
    return [purpose for purpose in PURPOSES if purpose not in have]


def ensure(conn: psycopg.Connection) -> list[Purpose]:
    """Make the keys that are missing. Out: their purposes."""
    conn.execute(SQL["lock"])
    made = missing(conn)
    for purpose in made:
        _add(conn, purpose)
    return made


def rotate(conn: psycopg.Connection, purpose: Purpose) -> int:
    """Retire the key that signs and make the next one. Out: the new key's id."""
    conn.execute(SQL["lock"])
    conn.execute(SQL["retire"], {"purpose": purpose})
    return _add(conn, purpose)


def listed(conn: psycopg.Connection) -> list[KeyFacts]:
    """Every key without its secret."""
    with conn.cursor(row_factory=dict_row) as cursor:
        cursor.execute(SQL["listed"])
        return [KeyFacts(**row) for row in cursor]  # type: ignore[typeddict-item]


def usable(conn: psycopg.Connection, purpose: Purpose) -> dict[int, bytes]:
    """Key id -> secret of every key that verifies; the first one is the one that signs."""
    return {int(key): bytes(secret) for key, secret in conn.execute(SQL["usable"], {"purpose": purpose})}


def of_campaign(conn: psycopg.Connection, campaign_id: int) -> dict[str, tuple[int, bytes]]:
    """Purpose -> (key id, secret) of what signs this campaign's messages."""
    rows = conn.execute(SQL["of_campaign"], {"campaign_id": campaign_id}).fetchall()
    return {str(purpose): (int(id), bytes(secret)) for purpose, id, secret in rows}


def _add(conn: psycopg.Connection, purpose: Purpose) -> int:
    row = conn.execute(SQL["add"], {"purpose": purpose, "secret": secrets.token_bytes(KEY_BYTES)}).fetchone()
    assert row is not None
    return int(row[0])
