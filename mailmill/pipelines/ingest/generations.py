"""What a generation of contacts shows of each contact, and how it is divided into files."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import polars as pl

from mailmill.pipelines.ingest import phone_places, verdicts

BUCKET_BITS = 16  # a file holds the contacts whose ids agree but for their last 16 bits: 65,536 ids
# why a tenant does not mail somebody, the gravest first
GRAVEST = ("forgotten", "complained", "unsubscribed", "bounced", "manual", "imported")
ACTIVE = "active"
WITHDRAWN = "withdrawn"  # as status: every source of the contact has taken it back; as consent: the person has
_TIME = pl.Datetime("us", "UTC")
CONTACTS_SCHEMA = pl.Schema(
    {
        "contact_id": pl.Int64(),
        "match_key": pl.String(),  # of `email`, or else of `phone`
        "email": pl.String(),
        "phone": pl.String(),
        "name": pl.String(),
        "language": pl.String(),
        "category": pl.String(),
        "country": pl.String(),  # the phone number's where nobody gave one
        "time_zone": pl.String(),  # the phone number's where nobody gave one
        "tags": pl.List(pl.String()),
        "fields": pl.String(),  # a JSON object: custom field -> text
        "sources": pl.List(pl.String()),  # slugs
        "verdict": pl.String(),
        "verdict_reason": pl.String(),
        "status": pl.String(),  # 'active', or why the tenant does not mail it
        "first_seen": _TIME,
        "last_seen": _TIME,
        "created_at": _TIME,
        "last_accepted": _TIME,
        "last_delivered": _TIME,
        "last_opened": _TIME,
        "last_clicked": _TIME,
        "last_bounced": _TIME,
        "domain": pl.String(),  # of `email`
        "provider": pl.String(),  # who runs the mailbox
        "score": pl.Int16(),
        "suggestion": pl.String(),  # the address that was probably meant
        "phone_code": pl.String(),  # '+49'
        "consent": pl.String(),  # the lawful basis of writing to them, or 'withdrawn'
        # sorted: every match key of this person, `match_key` among them, and every number that makes them one
        "aliases": pl.List(pl.String()),
    }
)


def completed(rows: pl.DataFrame, domains: pl.DataFrame) -> pl.DataFrame:
    """A file of the generation: what follows from a contact's own values is added.

    In:     CONTACTS_SCHEMA but for phone_code and for what `verdicts.judged` gives besides verdict and reason;
            DOMAINS_SCHEMA.
    Out:    CONTACTS_SCHEMA in order of contact_id.
    """
    rows = rows.with_columns(verdicts.judged(rows, of_these(rows, domains)), phone_code=pl.lit(None, pl.String))
    if rows["phone"].null_count() < rows.height:  # the tables of numbers take a quarter of a second to load
        rows = rows.with_columns(
            country=pl.coalesce("country", phone_places.country(pl.col("phone"))),
            time_zone=pl.coalesce("time_zone", phone_places.zone(pl.col("phone"))),
            phone_code=phone_places.calling_code(pl.col("phone")),
        )
    return rows.select(CONTACTS_SCHEMA.names()).match_to_schema(CONTACTS_SCHEMA).sort("contact_id")  # fmt: skip


def of_these(rows: pl.DataFrame, domains: pl.DataFrame) -> pl.DataFrame:
    """What DNS said of the domains of these addresses: of all there are, few. In: email; DOMAINS_SCHEMA."""
    known = rows.select(domain=pl.col("email").str.extract("@([^@]+)$")).unique()
    return domains.join(known, on="domain", how="semi")


def content(frame: pl.DataFrame) -> str:
    """A fingerprint of rows, whatever their order: equal content, equal text. It says nothing to another polars."""
    return f"{frame.height}:{frame.hash_rows().sum() or 0:x}"


def of_domains(shown: pl.DataFrame, domains: pl.DataFrame) -> str:
    """A fingerprint of what DNS said of the domains that these contacts have. In: domain; DOMAINS_SCHEMA."""
    return content(domains.join(shown.select("domain").unique(), on="domain", how="semi").drop("changed_at"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A generation of contacts, and what it took."""

    rows: int
    as_of: datetime
    files_written: int
    files_kept: int
    bytes_written: int
    merged: int  # contacts that are shown as a part of another one
    largest_person: int  # contacts of the person who has most of them
    seconds: float
