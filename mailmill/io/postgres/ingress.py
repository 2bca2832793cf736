"""What the ingress asks PostgreSQL, always as one tenant. The caller owns the transaction."""

from __future__ import annotations

import psycopg

from mailmill.io.postgres.sql import statements
from mailmill.io.postgres.suppressions import suppress
from mailmill.pipelines.listen.events import event_id
from mailmill.pipelines.send.tokens import Token

SQL = statements("ingress")


def bind(conn: psycopg.Connection, *, tenant_id: int | None = None, tenant_slug: str = "") -> None:
    """Show this transaction one tenant's rows; by slug only the row of the tenant itself."""
    number = "" if tenant_id is None else str(tenant_id)
    conn.execute(SQL["bind"], {"tenant_id": number, "tenant_slug": tenant_slug})


def links(conn: psycopg.Connection, *, tenant_id: int, campaign_id: int) -> tuple[str, ...]:
    """The URLs of a campaign by ordinal."""
    rows = conn.execute(SQL["links"], {"tenant_id": tenant_id, "campaign_id": campaign_id})
    return tuple(url for (url,) in rows)


def webhook(conn: psycopg.Connection, *, tenant: str, transport: str) -> tuple[int, int, str] | None:
    """(tenant id, transport id, reference of the secret); None where there is no such webhook."""
    bind(conn, tenant_slug=tenant)
    owner = conn.execute(SQL["tenant_id"], {"slug": tenant}).fetchone()
    if owner is None:
        return None
    bind(conn, tenant_id=owner[0])
    row = conn.execute(SQL["webhook"], {"tenant_id": owner[0], "slug": transport}).fetchone()
    return None if row is None or row[1] is None else (int(owner[0]), int(row[0]), str(row[1]))


def tenant_name(conn: psycopg.Connection, *, tenant_id: int) -> str | None:
    row = conn.execute(SQL["tenant_name"], {"tenant_id": tenant_id}).fetchone()
    return None if row is None else str(row[0])


def unsubscribe(conn: psycopg.Connection, token: Token) -> bool:
    """Suppress the recipient of a message. Out: False when the ledger has no such message (any more)."""
    named = {"tenant_id": token.tenant, "campaign_id": token.campaign, "message_id": token.message}
    row = conn.execute(SQL["address_key"], named).fetchone()
    if row is None:
        return False
    event = event_id("unsubscribed", token.message)
    suppress(conn, tenant_id=token.tenant, address_keys=[row[0]], reason="unsubscribed", event_id=event)
    return True
