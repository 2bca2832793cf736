"""What targeting needs from outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:  # who sends, and quick verbs, do without polars
    import polars as pl

    from mailmill.pipelines.configuration.specs import MergeSpec
    from mailmill.pipelines.target.audiences import Audience


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One published state of a tenant's contacts; `as_of` is when it was taken."""

    as_of: datetime
    contacts: pl.LazyFrame  # CONTACTS_SCHEMA
    merge: MergeSpec  # what the tenant holds for one person now, published so or not yet
    erasures: int = 0  # how often somebody was forgotten before


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A segment as it was applied."""

    tenant_id: int
    tenant: str
    slug: str
    rule: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """A campaign whose time may have come, or whose planning somebody left; `now` by the database's clock."""

    campaign_id: int
    tenant_id: int
    name: str  # tenant/campaign
    state: Literal["scheduled", "planning"]
    scheduled_at: datetime
    ends_at: datetime | None
    misfire_grace_s: int
    now: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """Everything a campaign is made of when its planning begins. The specs are as applied; a missing one is None."""

    campaign_id: int
    tenant_id: int
    tenant: str
    tenant_name: str
    postal_address: str
    time_zone: str
    slug: str
    spec: Mapping[str, Any]
    segment: Mapping[str, Any] | None
    templates: Mapping[str, Mapping[str, Any]]  # by slug, those that the campaign names and that exist
    identity: Mapping[str, Any] | None
    transport_id: int | None
    transport_kind: str | None
    now: datetime

    @property
    def name(self) -> str:
        return f"{self.tenant}/{self.slug}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """What planning decided: written as a whole or not at all."""

    draft: Draft
    content: Mapping[str, Any]
    links: Sequence[str]
    audience: Audience
    as_of: datetime
    erasures: int = 0  # as the generation says
    warning: str | None = None  # noted with the start


class Contacts(Protocol):
    """Where contacts and suppressions are read."""

    def generation(self, tenant_id: int) -> Generation | None:
        """The contacts generation that is visible now, None before the first one."""
        ...

    def suppressions(self, tenant_id: int, campaign_id: int | None) -> pl.DataFrame:
        """Who may not be mailed at this moment, live. Out: SUPPRESSION_SCHEMA."""
        ...

    def chosen(self, campaign_id: int) -> pl.DataFrame:
        """Whom a person added to a campaign or took out of it. Out: CHOSEN_SCHEMA."""
        ...


class Segments(Protocol):
    """Where materialized segments are kept."""

    def last(self, segment: Segment) -> pl.DataFrame:
        """The visible generation, empty before the first one. Out: SEGMENT_SCHEMA."""
        ...

    def publish(self, segment: Segment, members: pl.DataFrame, facts: Mapping[str, Any]) -> None:
        """Put a new generation in the place of the last."""
        ...


class Campaigns(Protocol):
    """Where campaigns are planned."""

    def planning(self, campaign_id: int, *, by: str) -> AbstractContextManager[Draft | None]:
        """Take a due campaign into planning, or take up a planning that was left; held until the block ends.

        None: it is not due, or another planner has it.
        """
        ...

    def freeze(self, frozen: Frozen, *, by: str) -> Literal["running", "stale", "gone"]:
        """Write ledger, merge values, links, exclusions, content and audience, and start; in one transaction.

        stale: somebody of it was suppressed meanwhile, plan again; gone: the campaign was cancelled or another planner
        was faster.
        """
        ...

    def fail(self, campaign_id: int, reason: str, *, by: str) -> None:
        """planning -> failed."""
        ...


class Schedule(Protocol):
    """What a tick looks after besides planning."""

    def due(self) -> Sequence[Due]:
        """Campaigns whose time has come, and plannings that may have been left."""
        ...

    def miss(self, due: Due, *, by: str) -> bool:
        """To missed, with how late it would have been; also a planning that was left.

        Out: False when it is planned at this moment, has been given another time, or is neither scheduled nor planning.
        """
        ...

    def settle(self, *, by: str) -> Sequence[str]:
        """Finish the campaigns whose ledger has no open row (P15), and go on with those cancelled or ended.

        Out: the names of those finished.
        """
        ...
