"""What the verbs about segments have to do, apart from how it is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from mailmill.composition import Installation
from mailmill.errors import Misconfigured
from mailmill.io import project_files
from mailmill.io.postgres import campaigns, segments
from mailmill.io.postgres.audiences import PostgresContacts
from mailmill.io.postgres.segments import PostgresSegments
from mailmill.pipelines.configuration import documents, rule_names
from mailmill.pipelines.configuration.specs import SegmentSpec
from mailmill.pipelines.ingest import addresses
from mailmill.pipelines.target import audiences, planning, refreshing
from mailmill.pipelines.target.comparisons import RuleError
from mailmill.pipelines.target.ports import Generation, Segment
from mailmill.pipelines.target.rereading import reread
from mailmill.pipelines.target.segments import Change, Overlap, materialized, members, overlap


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """Who a campaign to this segment would be sent to now. The sample shows addresses masked; notes: what the rule
    names that no contact has."""

    segment: str
    contacts_as_of: datetime
    contacts: int
    recipients: int
    exclusions: dict[str, int]
    sample: list[dict[str, Any]]
    notes: list[str]


def preview(mill: Installation, name: str, *, rows: int) -> Preview:
    """In: name, tenant/segment, or a YAML file with a segment; the file is not applied.

    Raises: Misconfigured when there is no such segment, its rule is wrong, or there are no contacts yet.
    """
    segment = _segment(mill, name)
    return reread(lambda: _preview(mill, segment, name, rows))


def _preview(mill: Installation, segment: Segment, name: str, rows: int) -> Preview:
    generation, contacts = _generation(mill, segment), _contacts(mill)
    try:
        found = members(generation.contacts, segment.rule, datetime.now(UTC))
    except RuleError as error:
        raise Misconfigured(str(error), place=f"segment {name}") from None
    judged = audiences.judged(found, contacts.suppressions(segment.tenant_id, None), rule=generation.merge)
    recipients = judged.filter(pl.col("excluded").is_null())
    shown = recipients.head(rows).select(
        "contact_id", "language", "country", "tags", address=addresses.masked(pl.col("email"))
    )
    return Preview(
        segment=f"{segment.tenant}/{segment.slug}",
        contacts_as_of=generation.as_of,
        contacts=judged.height,
        recipients=recipients.height,
        exclusions=audiences.count(judged),
        sample=shown.to_dicts(),
        notes=rule_names.notes(segment.rule, generation.contacts),
    )


def refresh(mill: Installation, name: str) -> Change:
    """Materialize a segment that was applied. Raises: Misconfigured."""
    store = PostgresSegments(database=mill.database, lake=mill.lake)
    with store.alone(name) as segment:
        now = datetime.now(UTC)
        return refreshing.refresh_segment(segment, store=store, contacts=_contacts(mill), now=now).change


def compare(mill: Installation, first: str, second: str) -> Overlap:
    """How many contacts two segments of a tenant share now. In: names as of `preview`. Raises: Misconfigured."""
    a, b = _segment(mill, first), _segment(mill, second)
    if a.tenant_id != b.tenant_id:
        raise Misconfigured(f"{first} and {second} belong to two tenants", remedy="Compare segments of one tenant.")
    return reread(lambda: _overlap(mill, a, b))


def _overlap(mill: Installation, a: Segment, b: Segment) -> Overlap:
    generation, now = _generation(mill, a), datetime.now(UTC)
    return overlap(*(_members(generation, segment, now) for segment in (a, b)))


def _members(generation: Generation, segment: Segment, now: datetime) -> pl.DataFrame:
    try:
        return materialized(generation.contacts, segment.rule, now)
    except RuleError as error:
        raise Misconfigured(str(error), place=f"segment {segment.tenant}/{segment.slug}") from None


def _segment(mill: Installation, name: str) -> Segment:
    path = Path(name)
    if path.is_file() or path.suffix in project_files.SUFFIXES:
        return _of_file(mill, path)
    with mill.database.transaction() as conn:
        return segments.find(conn, name)


def _contacts(mill: Installation) -> PostgresContacts:
    return PostgresContacts(database=mill.database, lake=mill.lake)


def _generation(mill: Installation, segment: Segment) -> Generation:
    generation = _contacts(mill).generation(segment.tenant_id)
    if generation is None:
        raise planning.no_contacts(segment.tenant)
    return generation


def _of_file(mill: Installation, path: Path) -> Segment:
    """The one segment of a file; what else stands there does not matter."""
    found, problems = project_files.read([path])
    segments_only = [one for one in found if isinstance(one.value, Mapping) and one.value.get("kind") == "segment"]
    declared, faults = documents.validate(segments_only)
    if problems or faults:
        raise Misconfigured("; ".join(str(problem) for problem in [*problems, *faults]))
    specs = [one.spec for one in declared if isinstance(one.spec, SegmentSpec)]
    if len(specs) != 1:
        slugs = ", ".join(spec.slug for spec in specs) or "none"
        raise Misconfigured(
            f"one segment is needed in this file; found: {slugs}",
            place=str(path),
            remedy="Put it into a file of its own, or apply it and name it as tenant/segment.",
        )
    with mill.database.transaction() as conn:
        tenant_id = campaigns.tenant_id(conn, specs[0].tenant)
    return Segment(tenant_id=tenant_id, tenant=specs[0].tenant, slug=specs[0].slug, rule=specs[0].rule)
