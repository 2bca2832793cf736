"""The verb stats."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import psycopg
import typer

from mailmill.cli.app import Json, answer_json, answer_table, app, installation
from mailmill.errors import Misconfigured
from mailmill.io.postgres import read, variants
from mailmill.io.postgres.database import driver_errors
from mailmill.pipelines.read import variants as ab
from mailmill.pipelines.read.answers import Campaign, Counts, Overview, Rates, Tenant

TenantOption = Annotated[str | None, typer.Option("--tenant", help="Slug or number of one tenant.")]


@contextmanager
def reading() -> Iterator[psycopg.Connection]:
    """A transaction that sees every tenant at one moment and writes nothing."""
    with driver_errors(), installation().database.connect() as conn:
        conn.read_only = True
        conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        yield conn


def chosen(conn: psycopg.Connection, tenant: str | None) -> list[Tenant]:
    """The tenant named, or all.

    Raises: Misconfigured when there is none of this name.
    """
    if tenant is None:
        return read.tenants(conn)
    found = read.tenant(conn, tenant)
    if found is None:
        raise Misconfigured(f"there is no tenant {tenant!r}", remedy="`mailmill stats` shows all of them.")
    return [found]


@app.command()
def stats(
    campaign: Annotated[str | None, typer.Argument(help="One campaign, as tenant/campaign.")] = None,
    tenant: TenantOption = None,
    by_variant: Annotated[
        bool, typer.Option("--variants", help="The campaign's templates and variants compared, from the ledger.")
    ] = False,
    json: Json = False,
) -> None:
    """What was sent and what became of it: of every tenant, of one, or of one campaign."""
    now = datetime.now(UTC)
    if by_variant:
        if campaign is None:
            raise Misconfigured("--variants needs a campaign", remedy="Name it as tenant/campaign.")
        _variants(campaign, tenant, json)
        return
    if campaign is not None:
        _one_campaign(campaign, tenant, now, json)
        return
    with reading() as conn:
        tenants = chosen(conn, tenant)
        overviews = [read.overview(conn, one, now=now) for one in tenants]
        newest = [read.campaigns(conn, one, now=now, limit=50, after=None).campaigns for one in tenants]
    if json:
        answers = zip(overviews, newest, strict=True)
        answer_json(
            [{**_plain(overview), "newest_campaigns": [_plain(one) for one in found]} for overview, found in answers]
        )
        return
    answer_table([_overview_row(overview) for overview in overviews], title="tenants")
    for overview, found in zip(overviews, newest, strict=True):
        if found:
            answer_table(
                [_campaign_row(one) for one in found], title=f"{overview.tenant.slug}: campaigns, newest first"
            )


def _one_campaign(name: str, tenant: str | None, now: datetime, json: bool) -> None:
    with reading() as conn:
        of, found = _found(conn, name, tenant)
        links = read.events(conn, of, now=now, hours=1, campaign=found).links
    if json:
        answer_json({**_plain(found), "links": [_plain(link) for link in links]})
        return
    planned = "not planned" if found.planned is None else f"{found.planned:,} planned"
    excluded = ", ".join(f"{reason} {n:,}" for reason, n in found.excluded.items())
    title = f"{of.slug}/{found.campaign}: {found.state}, {planned}" + (f"; excluded: {excluded}" if excluded else "")
    answer_table(_count_rows(found.counts, found.rates), title=title)
    if links:
        rows = [{"link": link.url or link.ordinal, "messages": link.clicked.messages, "clicks": link.clicked.events}
                for link in links]  # fmt: skip
        answer_table(rows, title="clicked links")


def _found(conn: psycopg.Connection, name: str, tenant: str | None) -> tuple[Tenant, Campaign]:
    """Raises: Misconfigured when there is no such campaign."""
    owner, slash, slug = name.rpartition("/")
    if not slash and tenant is None:
        raise Misconfigured(f"whose campaign is {name!r}?", remedy="Name it as tenant/campaign, or give --tenant.")
    [of] = chosen(conn, owner or tenant)
    found = read.campaign(conn, of, slug)
    if found is None:
        raise Misconfigured(f"{of.slug} has no campaign {slug!r}", remedy=f"`mailmill stats --tenant {of.slug}`")
    return of, found


def _variants(name: str, tenant: str | None, json: bool) -> None:
    with reading() as conn:
        of, found = _found(conn, name, tenant)
        rows = variants.tallies(conn, tenant_id=of.id, campaign_id=found.id)
    templates, single = ab.by_template(rows), [tally for _, tally in rows]
    leads = {kind: ab.ahead(templates, kind) for kind in ab.REACTIONS}
    if json:
        answer_json({
            "campaign": f"{of.slug}/{found.campaign}", "templates": [_tally(one) for one in templates],
            "variants": [_tally(one) for one in single], "ahead": leads,
        })  # fmt: skip
        return
    answer_table([_tally_row(one) for one in templates], title=f"{of.slug}/{found.campaign}: by template")
    if len(single) > len(templates):
        answer_table([_tally_row(one) for one in single], title="by language and category too")
    for kind, leader in leads.items():
        if len(templates) > 1:
            print(f"{kind}: {leader} is ahead" if leader else f"{kind}: nobody is ahead; the difference may be chance")


def _tally(one: ab.Tally) -> dict[str, Any]:
    return {"variant": one.variant, **one.counts, "rates": {kind: one.share(kind) for kind in ab.REACTIONS}}


def _tally_row(one: ab.Tally) -> dict[str, Any]:
    """The reactions with where the true share probably lies."""
    shown = dict[str, Any](one.counts)
    for kind in ab.REACTIONS:
        found = one.share(kind)
        if found.value is not None:
            shown[kind] = f"{shown[kind]:,} {found.value:.2%} ({found.low:.2%} to {found.high:.2%})"
    return {"variant": one.variant, **shown}


def _plain(answer: Overview | Campaign | Any) -> dict[str, Any]:
    found: dict[str, Any] = answer.model_dump(mode="json")
    return found


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def _overview_row(overview: Overview) -> dict[str, Any]:
    counted = overview.counts
    return {
        "tenant": overview.tenant.slug,
        "contacts": overview.contacts.total,
        "campaigns": ", ".join(f"{state} {n}" for state, n in overview.campaigns.items()),
        **_main(counted, overview.rates),
        "opened_24h": overview.last_24_hours.opened.messages,
    }


def _campaign_row(found: Campaign) -> dict[str, Any]:
    return {"campaign": found.campaign, "state": found.state, "planned": found.planned or 0,
            **_main(found.counts, found.rates)}  # fmt: skip


def _main(counted: Counts, shares: Rates) -> dict[str, Any]:
    return {
        "accepted": counted.accepted,
        "failed": counted.failed,
        "delivered": counted.delivered,
        "bounced": f"{counted.bounced_hard:,} + {counted.bounced_soft:,} soft",
        "opened": f"{counted.opened.messages:,} {_share(shares.opened.value)}",
        "clicked": f"{counted.clicked.messages:,} {_share(shares.clicked.value)}",
        "unsubscribed": counted.unsubscribed,
        "complained": counted.complained,
    }


def _count_rows(counted: Counts, shares: Rates) -> list[dict[str, Any]]:
    rows = []
    for name in Rates.model_fields:
        share, value = getattr(shares, name), getattr(counted, name)
        events = None if isinstance(value, int) else value.events
        rows.append({"what": name, "messages": share.numerator, "events": events,
                     "rate": _share(share.value), "of": f"{share.of} {share.denominator:,}"})  # fmt: skip
    rows.append({"what": "deferred", "messages": "", "events": counted.deferred_attempts, "rate": "", "of": "attempts"})
    for name in ("opened", "clicked"):
        value = getattr(counted.machine, name)
        rows.append(
            {"what": f"{name} by machines", "messages": value.messages, "events": value.events, "rate": "", "of": ""}
        )
    return rows
