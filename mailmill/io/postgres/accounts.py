"""What people ask of the ledger: how a campaign stands, and why something was not sent."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg.rows import class_row

from mailmill.errors import Misconfigured
from mailmill.io.postgres.ledger import SQL
from mailmill.pipelines.send.progress import TERMINAL, Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The ledger of one campaign. It adds up when `unaccounted` is zero."""

    campaign: str
    state: str
    planned: int
    by_state: dict[str, int]
    unaccounted: int
    started_at: datetime | None
    finished_at: datetime | None
    held: str | None  # why its transport is held

    @property
    def open(self) -> int:
        """Not yet in a terminal state."""
        return sum(n for state, n in self.by_state.items() if state not in TERMINAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    id: int
    tenant_id: int
    name: str
    state: str
    planned: int
    scheduled_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    held: str | None


def campaign(conn: psycopg.Connection, name: str) -> Campaign:
    """The campaign `tenant/slug`.

    Raises: Misconfigured when there is none of this name.
    """
    tenant, slash, slug = name.partition("/")
    found = _campaign(conn, tenant=tenant, slug=slug)
    if found is None or not slash:
        raise Misconfigured(
            f"there is no campaign {name!r}", remedy="Name it as tenant/campaign; `mailmill apply` makes it."
        )
    return found


def _campaign(
    conn: psycopg.Connection, *, tenant: str | None = None, slug: str | None = None, campaign_id: int | None = None
) -> Campaign | None:
    with conn.cursor(row_factory=class_row(Campaign)) as cursor:
        facts = {"tenant": tenant, "slug": slug, "campaign_id": campaign_id}
        return cursor.execute(SQL["campaign"], facts).fetchone()


def account(conn: psycopg.Connection, campaign_id: int) -> Account:
    """Raises: Misconfigured when there is no such campaign."""
    known = _campaign(conn, campaign_id=campaign_id)
    if known is None:
        raise Misconfigured(f"there is no campaign {campaign_id}")
    by_state = {state: int(n) for state, n in conn.execute(SQL["account"], {"campaign_id": campaign_id})}
    return Account(
        campaign=known.name,
        state=known.state,
        planned=known.planned,
        by_state=by_state,
        unaccounted=known.planned - sum(by_state.values()),
        started_at=known.started_at,
        finished_at=known.finished_at,
        held=known.held,
    )


def progress(conn: psycopg.Connection, campaign_id: int) -> Progress:
    """How far a campaign is."""
    row = conn.execute(SQL["progress"], {"campaign_id": campaign_id}).fetchone()
    assert row is not None
    state, planned, now, by_state, recent, since = row
    return Progress(state=state, planned=planned, by_state=by_state, recent=recent, now=now, since=since)


def reasons(conn: psycopg.Connection, campaign_id: int) -> list[tuple[str, str, int]]:
    """(state, reason, n) of what was not simply sent, the most frequent first."""
    return conn.execute(SQL["reasons"], {"campaign_id": campaign_id}).fetchall()


def troubles(conn: psycopg.Connection, campaign_id: int) -> list[tuple[str, datetime | None, str]]:
    """(worker, when it ended, what it said) of workers that could not send by this campaign's transport."""
    return conn.execute(SQL["troubles"], {"campaign_id": campaign_id}).fetchall()
