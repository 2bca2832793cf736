"""Campaigns: their states, each step by compare-and-set with an audit row. The caller owns the transaction."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import class_row, dict_row

from mailmill.errors import Misconfigured
from mailmill.io.postgres import accounts, ledger
from mailmill.io.postgres.database import Database
from mailmill.io.postgres.sql import statements
from mailmill.io.postgres.suppressions import raise_change_number
from mailmill.pipelines.target.lifecycle import TRANSITIONS, CampaignState, Move, instead
from mailmill.pipelines.target.ports import Draft, Due

SQL = statements("campaigns")


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """A campaign as people name it."""

    campaign_id: int
    tenant_id: int
    name: str
    time_zone: str
    state: CampaignState


def find(conn: psycopg.Connection, name: str) -> Campaign:
    """The campaign `tenant/slug`.

    Raises: Misconfigured when there is none.
    """
    tenant, slash, slug = name.partition("/")
    with conn.cursor(row_factory=class_row(Campaign)) as cursor:
        found = cursor.execute(SQL["find"], {"tenant": tenant, "slug": slug}).fetchone()
    if found is None or not slash:
        raise Misconfigured(
            f"there is no campaign {name!r}", remedy="Name it as tenant/campaign; `mailmill campaign list` shows all."
        )
    return found


def tenant_id(conn: psycopg.Connection, tenant: str) -> int:
    """A tenant's id by its slug.

    Raises: Misconfigured when there is none.
    """
    row = conn.execute(SQL["tenant"], {"tenant": tenant}).fetchone()
    if row is None:
        raise Misconfigured(f"there is no tenant {tenant!r}", remedy="`mailmill tenants` shows all.")
    return int(row[0])


def overview(conn: psycopg.Connection, tenant: str | None = None) -> list[dict[str, Any]]:
    """Every campaign with its state, times and the reason of its last step; of those under way how far they are."""
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(SQL["overview"], {"tenant": tenant}).fetchall()
    for row in rows:
        under_way = row.pop("under_way")
        found = accounts.progress(conn, under_way) if under_way is not None else None
        row |= {"done": None, "rate": None, "ends_about": None}
        if found is not None:
            row |= {"done": found.done, "rate": found.rate, "ends_about": found.ends_about}
    return rows


def draft(conn: psycopg.Connection, campaign: Campaign) -> Draft:
    """What a campaign is made of as things are now, in any of its states."""
    with conn.cursor(row_factory=class_row(Draft)) as cursor:
        parameters = {"campaign_id": campaign.campaign_id, "any_state": True}
        found = cursor.execute(SQL["draft"], parameters).fetchone()
    assert found is not None
    return found


def move(
    conn: psycopg.Connection,
    campaign_id: int,
    step: Move,
    *,
    by: str,
    reason: str | None = None,
    scheduled_at: datetime | None = None,
) -> CampaignState | None:
    """Take one step of a campaign's life. Out: the state before; None when it was in none that allows the step.

    In: scheduled_at, for a step that was decided by the campaign's time: none is taken once it has another.

    Raises the change number, which locks until the commit: call it last.
    """
    transition = TRANSITIONS[step]
    row = conn.execute(
        SQL["move"],
        {
            "campaign_id": campaign_id,
            "sources": list(transition.sources),
            "target": transition.target,
            "by": by,
            "reason": reason,
            "scheduled_at": scheduled_at,
        },
    ).fetchone()
    if row is None:
        return None
    raise_change_number(conn)
    before: CampaignState = row[0]
    return before


def require(conn: psycopg.Connection, campaign: Campaign, step: Move, *, by: str, reason: str | None = None) -> bool:
    """Take one step or say why it cannot be taken. Out: False when there was nothing to do, it was so already.

    Raises: Misconfigured naming the state that is in the way, and what to do.
    """
    if move(conn, campaign.campaign_id, step, by=by, reason=reason) is not None:
        return True
    state = find(conn, campaign.name).state
    if state == TRANSITIONS[step].target:
        return False
    raise Misconfigured(f"campaign {campaign.name} is {state}", remedy=instead(step, state))


def schedule(conn: psycopg.Connection, campaign: Campaign, at: datetime | None, *, by: str) -> datetime:
    """Let a campaign start at a time, now when none is given; or at another time than before. Out: when.

    Raises: Misconfigured when it has started already, or the time has passed or lies behind the campaign's end.
    """
    require(conn, campaign, "schedule", by=by, reason="now" if at is None else at.isoformat())
    row = conn.execute(SQL["set_start"], {"campaign_id": campaign.campaign_id, "at": at}).fetchone()
    assert row is not None
    start: datetime
    start, now, ends = row
    if at is not None and at <= now:
        raise Misconfigured(
            f"{at:%Y-%m-%d %H:%M:%S} UTC has passed",
            remedy=f"Name a time to come; `mailmill campaign start {campaign.name}` starts it now.",
        )
    if ends is not None and start >= ends:
        raise Misconfigured(
            f"campaign {campaign.name} ends at {ends:%Y-%m-%d %H:%M:%S %Z}, nothing would be sent",
            remedy="Choose an earlier time, or apply it with a later `ends`.",
        )
    return start


def history(conn: psycopg.Connection, campaign: Campaign) -> list[dict[str, Any]]:
    """Every step of a campaign: when, from which state to which, by whom and why."""
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(SQL["history"], {"campaign_id": campaign.campaign_id}).fetchall()


def due(conn: psycopg.Connection) -> list[Due]:
    """Scheduled campaigns whose time has come, and plannings that a killed planner may have left."""
    with conn.cursor(row_factory=class_row(Due)) as cursor:
        return cursor.execute(SQL["due"]).fetchall()


def finish_settled(conn: psycopg.Connection, *, by: str, campaign_id: int | None = None) -> list[str]:
    """Finish the campaigns whose ledger has no open row left (P15); one that was cancelled has its end noted. Out: the
    names of those finished.

    What somebody else is changing is left for the next time.
    """
    candidates = conn.execute(SQL["settled"], {"campaign_id": campaign_id}).fetchall()
    finished = []
    for (candidate,) in candidates:
        finished += conn.execute(SQL["finish"], {"campaign_id": candidate, "by": by}).fetchall()
    if finished:
        raise_change_number(conn)
    return [str(name) for (name,) in finished]


def cancel(database: Database, campaign: Campaign, *, by: str, reason: str | None = None) -> int:
    """Cancel a campaign: at once for the workers, then row by row for the ledger. Out: messages cancelled now.

    Killed in between, the workers and every tick do the rest, as with what a worker still has and gives back.

    Raises: Misconfigured when it is over already.
    """
    with database.transaction() as conn:
        require(conn, campaign, "cancel", by=by, reason=reason)
    n = sweep(database, campaign.campaign_id)
    with database.transaction() as conn:
        finish_settled(conn, by=by, campaign_id=campaign.campaign_id)
    return n


def sweep(database: Database, campaign_id: int | None = None) -> int:
    """End what can no longer be sent of this campaign, or of any, a batch a transaction. Out: how many messages."""
    total, swept = 0, 1
    while swept:
        with database.transaction() as conn:
            ledger.session(conn)  # or it may read the whole ledger for each batch
            swept = ledger.sweep(conn, campaign_id)
        total += swept
    return total
