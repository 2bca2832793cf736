"""A segment becomes its next generation."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import polars as pl

from mailmill.errors import Misconfigured
from mailmill.pipelines.target import segments
from mailmill.pipelines.target.comparisons import RuleError
from mailmill.pipelines.target.planning import no_contacts
from mailmill.pipelines.target.ports import Contacts, Segment, Segments
from mailmill.pipelines.target.rereading import reread


@dataclass(frozen=True, slots=True, kw_only=True)
class Refreshed:
    """A segment made anew, over so many contacts."""

    change: segments.Change
    contacts: int
    contacts_as_of: datetime


def refresh_segment(segment: Segment, *, store: Segments, contacts: Contacts, now: datetime) -> Refreshed:
    """Materialize a segment over the visible contacts. Out: its size, and who joined and left since the last time.

    In:     now, from which `within_days` counts back; it becomes the segment's as-of.
    Raises: Misconfigured when there are no contacts yet, or with the place of a mistake in the rule; StoreUnavailable.
    """
    made, members = reread(lambda: _made(segment, store, contacts, now))
    change = made.change
    facts = {
        "as_of": now.isoformat(),
        "rows": change.rows,
        "joined": change.joined,
        "left": change.left,
        "contacts_as_of": made.contacts_as_of.isoformat(),
        "rule": segment.rule,
    }
    store.publish(segment, members, facts)
    return made


def _made(segment: Segment, store: Segments, contacts: Contacts, now: datetime) -> tuple[Refreshed, pl.DataFrame]:
    """With who is in it now: SEGMENT_SCHEMA."""
    generation = contacts.generation(segment.tenant_id)
    if generation is None:
        raise no_contacts(segment.tenant)
    try:
        members = segments.materialized(generation.contacts, segment.rule, now)
    except RuleError as error:
        raise Misconfigured(str(error), place=f"segment {segment.tenant}/{segment.slug}") from None
    change = segments.compare(store.last(segment), members)
    rows = generation.contacts.select(pl.len()).collect().item()
    return Refreshed(change=change, contacts=rows, contacts_as_of=generation.as_of), members
