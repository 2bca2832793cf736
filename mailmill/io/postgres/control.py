"""What the orchestration asks PostgreSQL: what there is, and what has work. The caller owns the transaction."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
from psycopg.rows import class_row, dict_row

from mailmill.io.postgres.sql import statements
from mailmill.pipelines.configuration.specs import WindowSpec
from mailmill.pipelines.target.windows import opening

SQL = statements("control")


@dataclass(frozen=True, slots=True, kw_only=True)
class Audience:
    """A frozen audience in numbers; the twenty largest domains."""

    state: str
    planned: int
    exclusions: dict[str, int]
    domains: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dirt:
    """What must not be in an audience. All but `suppressed_since` have to be zero."""

    duplicates: int
    suppressed_when_frozen: int
    suppressed_since: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reputation:
    """Distinct messages of a campaign."""

    accepted: int
    bounced_hard: int
    complained: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """A source, segment or campaign by the names people use; without a slug the tenant itself."""

    tenant: str
    slug: str
    kind: str = ""
    folder: str | None = None
    version: str = ""
    failed: str = ""  # a source's import, for a passing reason: which one, from when on it may be tried again

    @property
    def key(self) -> str:
        """As Dagster's partitions name it."""
        return f"{self.tenant}|{self.slug}" if self.slug else self.tenant


def _things(conn: psycopg.Connection, name: str) -> list[Thing]:
    with conn.cursor(row_factory=class_row(Thing)) as cursor:
        cursor.execute(SQL[name])
        return cursor.fetchall()


def sources(conn: psycopg.Connection) -> list[Thing]:
    return _things(conn, "sources")


def apis_due(conn: psycopg.Connection) -> list[Thing]:
    """Sources that are HTTP APIs and may be asked now."""
    return _things(conn, "apis_due")


def tenants(conn: psycopg.Connection) -> list[Thing]:
    return _things(conn, "tenants")


def segments(conn: psycopg.Connection) -> list[Thing]:
    return _things(conn, "segments")


def edited_segments(conn: psycopg.Connection) -> list[Thing]:
    """Segments that were made by another rule than they have; `version` tells one such time from the next."""
    return _things(conn, "edited_segments")


def published_contacts(conn: psycopg.Connection) -> list[Thing]:
    """Tenants whose contacts are published; `version` tells one generation from the next."""
    return _things(conn, "published_contacts")


def campaigns(conn: psycopg.Connection) -> list[Thing]:
    return _things(conn, "campaigns")


def campaigns_with_work(conn: psycopg.Connection) -> list[Thing]:
    """Campaigns to start, to go on with or to call finished, the longest due first. One whose window is closed, or
    whose transport has sent what it may in a day, has no work until that is over."""
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(SQL["campaigns_with_work"]).fetchall()
    return [
        Thing(tenant=row["tenant"], slug=row["slug"], kind=row["kind"])
        for row in rows
        if row["window"] is None or opening(WindowSpec.model_validate(row["window"]), row["at"]).open
    ]


def live_workers(conn: psycopg.Connection, campaign: str) -> int:
    """Send workers that were heard of in the last 30 seconds and may send this campaign (tenant/slug)."""
    row = conn.execute(SQL["live_workers"], {"campaign": campaign}).fetchone()
    return int(row[0]) if row else 0


def hold_run(conn: psycopg.Connection, run_id: str) -> None:
    """Show as long as this connection lives that somebody works at the run."""
    conn.execute(SQL["hold_run"], {"run_id": run_id})


def run_is_held(conn: psycopg.Connection, run_id: str) -> bool:
    """Whether somebody works at the run; in a transaction of its own, which ends the probe."""
    row = conn.execute(SQL["probe_run"], {"run_id": run_id}).fetchone()
    return not (row and row[0])


def audience(conn: psycopg.Connection, campaign_id: int) -> Audience:
    """What was frozen for a campaign; zeros where nothing is yet."""
    with conn.cursor(row_factory=class_row(Audience)) as cursor:
        found = cursor.execute(SQL["audience"], {"campaign_id": campaign_id}).fetchone()
    assert found is not None
    return found


def audience_dirt(conn: psycopg.Connection, campaign_id: int) -> Dirt:
    """Recipients that should not be in the ledger. Call it in a transaction of its own: it gives that other plans."""
    conn.execute(SQL["no_nested_loops"])
    with conn.cursor(row_factory=class_row(Dirt)) as cursor:
        found = cursor.execute(SQL["audience_dirt"], {"campaign_id": campaign_id}).fetchone()
    assert found is not None
    return found


def reputation(conn: psycopg.Connection, campaign_id: int) -> Reputation:
    """What mailbox providers judge a sender by, from the counters."""
    with conn.cursor(row_factory=class_row(Reputation)) as cursor:
        found = cursor.execute(SQL["reputation"], {"campaign_id": campaign_id}).fetchone()
    assert found is not None
    return found
