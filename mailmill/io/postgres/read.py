"""Statistics from roll-ups and counters: each costs the size of its answer (P21). The caller owns the transaction.

It should be REPEATABLE READ, so that the parts of one answer belong together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
from psycopg.rows import class_row, dict_row

from mailmill.io.postgres.sql import statements
from mailmill.pipelines.configuration.words import SLUG
from mailmill.pipelines.listen.events import KINDS
from mailmill.pipelines.read import answers
from mailmill.pipelines.read.cursors import below, cursor
from mailmill.pipelines.read.rates import Row, counts, rates
from mailmill.pipelines.read.series import HourRow, by_day, by_hour, first_hour, hour_of, last_days

SQL = statements("read")
WHOLE_TENANT = 0


def tenant(conn: psycopg.Connection, name: str, *, only: int | None = None) -> answers.Tenant | None:
    """The tenant of this slug or number, to which the transaction is bound from here on; None: there is none.

    In:     only: the one tenant that may be found at all.
    """
    if not SLUG.fullmatch(name):  # a number looks like a slug
        return None
    number = int(name) if name.isascii() and name.isdecimal() and len(name) < 10 else 0
    visible = number if only is None else only
    conn.execute(SQL["bind"], {"number": str(visible), "slug": name if only is None else ""})
    with conn.cursor(row_factory=class_row(answers.Tenant)) as cursor_:
        found = cursor_.execute(SQL["tenant"], {"name": name, "number": number}).fetchone()
    if found is not None and only is not None and found.id != only:
        return None
    conn.execute(SQL["bind"], {"number": str(found.id) if found else "", "slug": ""})
    return found


def tenants(conn: psycopg.Connection) -> list[answers.Tenant]:
    """Every tenant that the role of this connection sees, by slug."""
    with conn.cursor(row_factory=class_row(answers.Tenant)) as cursor_:
        return cursor_.execute(SQL["tenants"]).fetchall()


def overview(conn: psycopg.Connection, of: answers.Tenant, *, now: datetime) -> answers.Overview:
    counted = counts(_totals(conn, of.id, WHOLE_TENANT))
    recent = _hours(conn, of.id, None, hour_of(now) - 23, hour_of(now))
    states = conn.execute(SQL["campaigns_by_state"], {"tenant_id": of.id}).fetchall()
    return answers.Overview(
        tenant=of,
        at=now,
        contacts=_contact_total(conn, of.id),
        campaigns=dict(states),
        counts=counted,
        rates=rates(counted),
        last_24_hours=counts((kind, uniq, total) for _, kind, uniq, total in recent),
    )


def contacts(
    conn: psycopg.Connection, of: answers.Tenant, *, now: datetime, limit: int, after: str | None
) -> answers.Contacts:
    """Raises: Misconfigured when `after` is no cursor of this list."""
    page, more = _page(conn, "batches", of.id, limit, after)
    return answers.Contacts(
        tenant=of,
        at=now,
        contacts=_contact_total(conn, of.id),
        sources=[answers.Source(**row) for row in _dicts(conn, "sources", {"tenant_id": of.id})],
        segments=[answers.Segment(**row) for row in _dicts(conn, "segments", {"tenant_id": of.id})],
        batches=[answers.Batch(**row) for row in page],
        next_cursor=more,
    )


def campaigns(
    conn: psycopg.Connection, of: answers.Tenant, *, now: datetime, limit: int, after: str | None
) -> answers.Campaigns:
    """Raises: Misconfigured when `after` is no cursor of this list."""
    page, more = _page(conn, "campaigns", of.id, limit, after)
    return answers.Campaigns(tenant=of, at=now, campaigns=_with_counts(conn, of.id, page), next_cursor=more)


def campaign(conn: psycopg.Connection, of: answers.Tenant, slug: str) -> answers.Campaign | None:
    if not SLUG.fullmatch(slug):
        return None
    rows = _dicts(conn, "campaign", {"tenant_id": of.id, "slug": slug})
    return _with_counts(conn, of.id, rows)[0] if rows else None


def events(
    conn: psycopg.Connection, of: answers.Tenant, *, now: datetime, hours: int, campaign: answers.Campaign | None
) -> answers.Events:
    zone, last = ZoneInfo(of.time_zone), hour_of(now)
    campaign_id = campaign.id if campaign else None
    return answers.Events(
        tenant=of,
        at=now,
        campaign=campaign.campaign if campaign else None,
        counts=campaign.counts if campaign else counts(_totals(conn, of.id, WHOLE_TENANT)),
        hours=by_hour(_hours(conn, of.id, campaign_id, last - hours + 1, last), last - hours + 1, last, zone),
        links=_links(conn, of.id, campaign.id) if campaign else [],
    )


def performance(conn: psycopg.Connection, of: answers.Tenant, *, now: datetime, days: int) -> answers.Performance:
    zone = ZoneInfo(of.time_zone)
    calendar = last_days(now, days, zone)
    rows = _hours(conn, of.id, None, first_hour(calendar[0], zone), hour_of(now))
    counted = counts((kind, uniq, total) for _, kind, uniq, total in rows)
    return answers.Performance(
        tenant=of,
        at=now,
        first_day=calendar[0],
        last_day=calendar[-1],
        days=by_day(rows, calendar, zone),
        counts=counted,
        rates=rates(counted),
    )


def _totals(conn: psycopg.Connection, tenant_id: int, campaign_id: int) -> list[Row]:
    return conn.execute(SQL["totals"], {"tenant_id": tenant_id, "campaign_id": campaign_id}).fetchall()


def _hours(conn: psycopg.Connection, tenant_id: int, campaign_id: int | None, first: int, last: int) -> list[HourRow]:
    name = "hours_of_tenant" if campaign_id is None else "hours_of_campaign"
    values = {"tenant_id": tenant_id, "campaign_id": campaign_id, "kinds": list(KINDS), "first": first, "last": last}
    return conn.execute(SQL[name], values).fetchall()


def _contact_total(conn: psycopg.Connection, tenant_id: int) -> answers.ContactTotal:
    row = conn.execute(SQL["contact_total"], {"tenant_id": tenant_id}).fetchone()
    assert row is not None
    return answers.ContactTotal(total=row[0], as_of=row[1])


def _with_counts(conn: psycopg.Connection, tenant_id: int, rows: Sequence[dict[str, Any]]) -> list[answers.Campaign]:
    which = {"tenant_id": tenant_id, "campaign_ids": [row["id"] for row in rows]}
    counted: defaultdict[int, list[Row]] = defaultdict(list)
    for campaign_id, kind, uniq, total in conn.execute(SQL["totals_of_campaigns"], which):
        counted[campaign_id].append((kind, uniq, total))
    excluded: defaultdict[int, dict[str, int]] = defaultdict(dict)
    for campaign_id, reason, n in conn.execute(SQL["exclusions"], which):
        excluded[campaign_id][reason] = n
    result = []
    for row in rows:
        found = counts(counted[row["id"]])
        shares = rates(found, row["planned"] or 0)
        result.append(answers.Campaign(**row, excluded=excluded[row["id"]], counts=found, rates=shares))
    return result


def _links(conn: psycopg.Connection, tenant_id: int, campaign_id: int) -> list[answers.Link]:
    rows = conn.execute(SQL["links"], {"tenant_id": tenant_id, "campaign_id": campaign_id})
    return [
        answers.Link(ordinal=ordinal, url=url, clicked=answers.Repeated(messages=uniq, events=total))
        for ordinal, url, uniq, total in rows
    ]


def _page(
    conn: psycopg.Connection, name: str, tenant_id: int, limit: int, after: str | None
) -> tuple[list[dict[str, Any]], str | None]:
    """One page of a list that is newest first, and the cursor of the next one."""
    rows = _dicts(conn, name, {"tenant_id": tenant_id, "below": below(name, after), "limit": limit + 1})
    more = cursor(name, rows[limit - 1]["id"]) if len(rows) > limit else None
    return rows[:limit], more


def _dicts(conn: psycopg.Connection, name: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    with conn.cursor(row_factory=dict_row) as cursor_:
        return cursor_.execute(SQL[name], values).fetchall()
