"""The shapes of what statistics answer: pydantic models, with the words that the API's documentation shows.

What counts as what (design.md): most kinds count distinct messages; opens and clicks count distinct messages and
distinct events; deferrals count attempts. What programs opened or clicked stands apart and is in no rate.
`accepted` means a relay took the message; `delivered` that a report said so.
"""

from __future__ import annotations

from datetime import date, datetime

from pydantic import BaseModel, ConfigDict, Field


class Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class Repeated(Answer):
    """A kind of event that may happen to one message many times."""

    messages: int = Field(description="Distinct messages it happened to.", examples=[412])
    events: int = Field(description="Distinct events.", examples=[530])


class Machine(Answer):
    """What mail programs, proxies and scanners fetched by themselves. A heuristic; in no rate."""

    opened: Repeated
    clicked: Repeated


class Counts(Answer):
    """What became of messages. Distinct messages unless said otherwise."""

    accepted: int = Field(description="A relay took the message. Not a delivery.", examples=[4980])
    failed: int = Field(description="Refused for good by the relay.", examples=[12])
    deferred_attempts: int = Field(description="Attempts that were put off (4xx); counts attempts.", examples=[97])
    delivered: int = Field(description="A report said the message was delivered.", examples=[3100])
    bounced_soft: int = Field(description="Reported undelivered for a passing reason.", examples=[31])
    bounced_hard: int = Field(description="Reported undelivered for good.", examples=[22])
    complained: int = Field(description="Reported as spam.", examples=[2])
    unsubscribed: int = Field(description="Asked not to be mailed again.", examples=[15])
    replied: int = Field(description="Answered.", examples=[8])
    forwarded: int = Field(description="Forwarded.", examples=[1])
    opened: Repeated
    clicked: Repeated
    machine: Machine


class Rate(Answer):
    """A share, with what it was computed from."""

    numerator: int = Field(examples=[412])
    denominator: int = Field(examples=[4980])
    of: str = Field(
        description="What the denominator counts: planned, answered (accepted + failed) or accepted.",
        examples=["accepted"],
    )
    value: float | None = Field(description="Null where the denominator is 0.", examples=[0.0827])


class Rates(Answer):
    """Shares of distinct messages, without what machines opened or clicked."""

    accepted: Rate
    failed: Rate
    delivered: Rate
    bounced_soft: Rate
    bounced_hard: Rate
    complained: Rate
    unsubscribed: Rate
    replied: Rate
    opened: Rate
    clicked: Rate


class Tenant(Answer):
    """Whose numbers these are."""

    id: int = Field(examples=[1])
    slug: str = Field(examples=["acme"])
    name: str = Field(examples=["Acme GmbH"])
    time_zone: str = Field(description="Days are this zone's days.", examples=["Europe/Berlin"])


class ContactTotal(Answer):
    total: int = Field(description="Contacts in the generation that segments are taken from.", examples=[19412])
    as_of: datetime | None = Field(description="When that generation was taken; null: none yet.")


class Overview(Answer):
    """One tenant at a glance."""

    tenant: Tenant
    at: datetime = Field(description="When this was counted.")
    contacts: ContactTotal
    campaigns: dict[str, int] = Field(description="Campaigns by state.", examples=[{"finished": 3, "running": 1}])
    counts: Counts = Field(description="Everything ever counted.")
    rates: Rates
    last_24_hours: Counts


class Source(Answer):
    """What a source has brought, over all its batches."""

    source: str = Field(examples=["newsletter-csv"])
    kind: str = Field(examples=["csv"])
    batches: int
    rows_read: int
    rows_accepted: int
    rows_rejected: int
    duplicates_within: int = Field(description="Rows that named a contact of their own batch again.")
    duplicates_across: int = Field(description="Rows that named a contact another batch had brought.")
    contacts_new: int
    contacts_changed: int
    loaded_at: datetime | None = Field(description="When a batch was last loaded.")


class Segment(Answer):
    segment: str = Field(examples=["newsletter"])
    name: str
    contacts: int | None = Field(description="Null: not materialized yet.", examples=[8120])
    joined: int | None = Field(description="Contacts that came in with this generation.")
    left: int | None = Field(description="Contacts that went out with it.")
    as_of: datetime | None


class Batch(Answer):
    """One file, sync or manual entry."""

    id: int
    source: str
    origin: str = Field(description="File name, or 'manual', or the place in an HTTP source.")
    state: str = Field(examples=["loaded"])
    seen_at: datetime
    rows_read: int
    rows_accepted: int
    rows_rejected: int
    reject_reasons: dict[str, int] = Field(examples=[{"bad_syntax": 12}])
    contacts_new: int
    contacts_changed: int
    loaded_at: datetime | None


class Contacts(Answer):
    """Where a tenant's contacts come from and how many there are."""

    tenant: Tenant
    at: datetime
    contacts: ContactTotal
    sources: list[Source]
    segments: list[Segment]
    batches: list[Batch] = Field(description="Newest first, one page.")
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page; null: this was the last.")


class Campaign(Answer):
    id: int
    campaign: str = Field(description="Its slug.", examples=["spring"])
    name: str
    state: str = Field(examples=["finished"])
    segment: str
    scheduled_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    planned: int | None = Field(
        description="Recipients in the frozen audience; null: not planned yet.", examples=[5000]
    )
    excluded: dict[str, int] = Field(
        description="Contacts of the segment that are not in the audience, by reason.", examples=[{"suppressed": 41}]
    )
    counts: Counts
    rates: Rates


class Campaigns(Answer):
    """One page of campaigns, newest first."""

    tenant: Tenant
    at: datetime
    campaigns: list[Campaign]
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page; null: this was the last.")


class Hour(Answer):
    start: datetime = Field(description="Beginning of the hour, in the tenant's time zone.")
    counts: Counts


class Link(Answer):
    ordinal: int = Field(description="Place of the link in the mail, from 0; 62 and above are counted as 62.")
    url: str | None
    clicked: Repeated


class Events(Answer):
    """Events by kind and hour, of a tenant or of one of its campaigns."""

    tenant: Tenant
    at: datetime
    campaign: str | None
    counts: Counts = Field(description="Everything ever counted in this scope.")
    hours: list[Hour] = Field(description="Oldest first, without gaps; an hour in which nothing happened has zeros.")
    links: list[Link] = Field(description="Of the campaign, when one is asked for; human clicks.")


class Day(Answer):
    day: date
    counts: Counts


class Performance(Answer):
    """The last days. An open counts on the day it happened, not on the day its message was sent."""

    tenant: Tenant
    at: datetime
    first_day: date
    last_day: date = Field(description="Today in the tenant's time zone; not over yet.")
    days: list[Day] = Field(description="Oldest first, without gaps.")
    counts: Counts = Field(description="Sum of the days.")
    rates: Rates = Field(
        description="Of these days' events: opens of earlier messages are in, so a rate may pass 1 after a quiet day."
    )


class ErrorBody(Answer):
    code: str = Field(description="For programs.", examples=["not_found"])
    message: str = Field(description="For people: what is wrong and what to do.")
    detail: object = Field(default=None, description="More facts where there are any, else null.")


class Error(Answer):
    """The one shape of every error."""

    error: ErrorBody


class Health(Answer):
    status: str = Field(examples=["ok"])
    version: str = Field(examples=["0.1.0"])
