"""Suppressions: addresses that are not mailed again. The caller owns the transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

import psycopg
from psycopg.rows import dict_row

from mailmill.errors import Misconfigured
from mailmill.io.postgres.sql import statements

SQL = statements("suppressions")
Reason = Literal["unsubscribed", "complained", "bounced", "imported", "manual", "forgotten"]
ENDLESS = ("unsubscribed", "complained", "forgotten")  # the table's CHECK: a person's own word has no end


def suppress(
    conn: psycopg.Connection,
    *,
    tenant_id: int | None,
    address_keys: Sequence[str],
    reason: Reason,
    channel: Literal["email", "phone"] = "email",
    scope_campaign_id: int | None = None,
    event_id: str | None = None,
    note: str | None = None,
    expires_at: datetime | None = None,
    at: datetime | None = None,
) -> int:
    """Suppress addresses for one reason, as suppress_each."""
    n = len(address_keys)
    return suppress_each(
        conn, tenant_id=tenant_id, address_keys=address_keys, channels=[channel] * n, reasons=[reason] * n,
        ends=[expires_at] * n, notes=[note] * n, scope_campaign_id=scope_campaign_id, event_id=event_id,
        at=at,
    )  # fmt: skip


def suppress_each(
    conn: psycopg.Connection, *, tenant_id: int | None, address_keys: Sequence[str], channels: Sequence[str],
    reasons: Sequence[str], ends: Sequence[datetime | None], notes: Sequence[str | None],
    scope_campaign_id: int | None = None, event_id: str | None = None, at: datetime | None = None,
) -> int:  # fmt: skip
    """Suppress addresses (as contacts.match_key) and tell running workers. Out: how many are new or last longer.

    In: tenant_id None, for every tenant; at, when it was said (None: now); the lists side by side, an address
    and reason once.

    Raises: psycopg's CheckViolation where an unsubscription or complaint is given an end.
    """
    what = {
        "tenant_id": tenant_id,
        "address_keys": list(address_keys),
        "channels": list(channels),
        "reasons": list(reasons),
        "ends": list(ends),
        "notes": list(notes),
        "scope_campaign_id": scope_campaign_id,
        "event_id": event_id,
        "at": at,
    }
    prolonged = 0
    if not set(reasons) <= set(ENDLESS):  # the ingress, which knows unsubscriptions alone, may not change rows
        conn.execute(SQL["bury_ended"], what)
        prolonged = conn.execute(SQL["prolong"], what).rowcount
    row = conn.execute(SQL["suppress"], what).fetchone()
    added = prolonged + (int(row[0]) if row else 0)
    if added:
        raise_change_number(conn)
    return added


def listed(
    conn: psycopg.Connection,
    *,
    tenant_id: int | None = None,
    reason: str | None = None,
    address_keys: Sequence[str] | None = None,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """Suppressions, newest first: tenant (None: the operator's), channel, address, reason, scope, times, note."""
    which = {"tenant_id": tenant_id, "reason": reason, "limit": limit,
             "address_keys": None if address_keys is None else list(address_keys)}  # fmt: skip
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(SQL["list"], which).fetchall()


def of_mailboxes(conn: psycopg.Connection, tenant_id: int, address_keys: Sequence[str]) -> list[str]:
    """These addresses, and those of the same mailboxes that are or were suppressed: by the tenant's rule each counts
    for all, be it a contact or not."""
    rows = conn.execute(SQL["of_mailboxes"], {"tenant_id": tenant_id, "keys": list(address_keys)})
    return list(dict.fromkeys([*address_keys, *sorted(key for (key,) in rows)]))


def remove(
    conn: psycopg.Connection, *, tenant_id: int | None, address_keys: Sequence[str], by: str, why: str | None,
    scope_campaign_id: int | None = None,
) -> int:  # fmt: skip
    """Take suppressions back; what they were stays readable as history. Out: how many.

    In: scope_campaign_id, to take back those for this campaign alone; None, all of the tenant's.
    Raises: Misconfigured when a person's own word, an unsubscription or complaint, is to be taken back without a why.
    """
    which = {"tenant_id": tenant_id, "address_keys": list(address_keys), "by": by, "why": why or None,
             "campaign_id": scope_campaign_id}  # fmt: skip
    removed = conn.execute(SQL["remove"], which).rowcount
    # asked afterwards: one who unsubscribes meanwhile is seen here, or stays
    row = conn.execute(SQL["own_words"], which).fetchone()
    if row and row[0] and not why:
        raise Misconfigured(
            "a person has unsubscribed or complained; their own word is not taken back without a reason",
            place="--reason",
            remedy="Write what they said and where it stands, such as --reason 'asked back by mail, ticket 81'.",
        )
    if removed:
        raise_change_number(conn)
    return removed


def raise_change_number(conn: psycopg.Connection) -> None:
    """Make running workers look at suppressions, pauses and cancels. Call it last: it locks until the commit."""
    conn.execute(SQL["raise_change_number"])


def change_number(conn: psycopg.Connection) -> int:
    """The number that workers follow."""
    row = conn.execute(SQL["change_number"]).fetchone()
    assert row is not None
    return int(row[0])
