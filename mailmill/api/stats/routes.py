"""The statistics of one tenant. Each answer comes from one transaction, so its parts belong together."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from mailmill.api.stats.access import FromCaller
from mailmill.api.stats.errors import RESPONSES, Refusal
from mailmill.io.postgres import read
from mailmill.pipelines.read import answers

router = APIRouter(prefix="/api/v2/stats/{tenant_id}", responses=RESPONSES, tags=["statistics"])

TenantId = Annotated[
    str, Path(description="The tenant's slug or number.", max_length=63, openapi_examples={"slug": {"value": "acme"}})
]
Cursor = Annotated[str | None, Query(description="`next_cursor` of the page before; none: the first page.")]
Limit = Annotated[int, Query(ge=1, le=200, description="Rows of a page.")]


@router.get("/overview", summary="One tenant at a glance")
def overview(tenant_id: TenantId, caller: FromCaller) -> answers.Overview:
    """Contacts, campaigns by state, everything ever counted, and the last 24 hours."""
    with caller.reading(tenant_id) as reading:
        return read.overview(reading.conn, reading.tenant, now=reading.now)


@router.get("/contacts", summary="How many contacts, and from where")
def contacts(tenant_id: TenantId, caller: FromCaller, limit: Limit = 50, cursor: Cursor = None) -> answers.Contacts:
    """The contacts generation, each source's sums, each segment's size, and the batches, newest first."""
    with caller.reading(tenant_id) as reading:
        return read.contacts(reading.conn, reading.tenant, now=reading.now, limit=limit, after=cursor)


@router.get("/campaigns", summary="Campaigns and what became of their messages")
def campaigns(tenant_id: TenantId, caller: FromCaller, limit: Limit = 50, cursor: Cursor = None) -> answers.Campaigns:
    """Campaigns, newest first, each with its counts and rates."""
    with caller.reading(tenant_id) as reading:
        return read.campaigns(reading.conn, reading.tenant, now=reading.now, limit=limit, after=cursor)


@router.get("/events", summary="Events by kind and hour")
def events(
    tenant_id: TenantId,
    caller: FromCaller,
    campaign: Annotated[str | None, Query(max_length=63, description="Slug of one campaign; none: all.")] = None,
    hours: Annotated[int, Query(ge=1, le=168, description="How many hours back, this one included.")] = 24,
) -> answers.Events:
    """Everything ever counted, and hour by hour; of one campaign also its links."""
    with caller.reading(tenant_id) as reading:
        chosen = read.campaign(reading.conn, reading.tenant, campaign) if campaign is not None else None
        if campaign is not None and chosen is None:
            raise Refusal(404, "not_found", "there is no such campaign")
        return read.events(reading.conn, reading.tenant, now=reading.now, hours=hours, campaign=chosen)


@router.get("/performance", summary="The last days")
def performance(
    tenant_id: TenantId,
    caller: FromCaller,
    days: Annotated[int, Query(ge=1, le=366, description="How many days of the tenant's calendar, with today.")] = 7,
) -> answers.Performance:
    """Counts day by day, with their sum and its rates."""
    with caller.reading(tenant_id) as reading:
        return read.performance(reading.conn, reading.tenant, now=reading.now, days=days)
