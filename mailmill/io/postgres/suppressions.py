"""Suppressions: addresses that are not mailed again. The caller owns the transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import psycopg

from mailmill.io.postgres.sql import statements

SQL = statements("suppressions")
Reason = Literal["unsubscribed", "complained", "bounced", "imported", "manual", "forgotten"]


def suppress(
    conn: psycopg.Connection,
    *,
    tenant_id: int,
    address_keys: Sequence[str],
    reason: Reason,
    channel: Literal["email", "phone"] = "email",
    scope_campaign_id: int | None = None,
    event_id: str | None = None,
    note: str | None = None,
    expires_at: datetime | None = None,
) -> int:
    """Suppress addresses (as contacts.match_key) and tell running workers. Out: how many rows are new.

    Raises: psycopg's CheckViolation where an unsubscription or complaint is given an end.
    """
    row = conn.execute(
        SQL["suppress"],
        {
            "tenant_id": tenant_id,
            "channel": channel,
            "address_keys": list(address_keys),
            "reason": reason,
            "scope_campaign_id": scope_campaign_id,
            "event_id": event_id,
            "note": note,
            "expires_at": expires_at,
        },
    ).fetchone()
    added = int(row[0]) if row else 0
    if added:
        raise_change_number(conn)
    return added


def raise_change_number(conn: psycopg.Connection) -> None:
    """Make running workers look at suppressions, pauses and cancels. Call it last: it locks until the commit."""
    conn.execute(SQL["raise_change_number"])


def change_number(conn: psycopg.Connection) -> int:
    """The number that workers follow."""
    row = conn.execute(SQL["change_number"]).fetchone()
    assert row is not None
    return int(row[0])
