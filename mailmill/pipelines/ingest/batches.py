"""What is decided of a batch by its source, as the source is applied now."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace

from mailmill.errors import listed
from mailmill.pipelines.ingest import addresses
from mailmill.pipelines.ingest.columns import united
from mailmill.pipelines.ingest.ports import BatchRow, RawBatch, SourceRow
from mailmill.pipelines.ingest.validation import BatchFacts


def rules_of(source: SourceRow) -> str:
    """A fingerprint of all that decides what a batch of the source comes to."""
    spec = source.spec
    facts = [
        dict(sorted(spec.columns.items())), spec.tags, spec.country, source.priority,
        [field.model_dump(mode="json") for field in source.fields], addresses.rules_version(),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def batch_facts(source: SourceRow, batch: BatchRow) -> BatchFacts:
    """What validation has to know of a batch."""
    return BatchFacts(
        batch_id=batch.id, source=source.slug, seen_at=batch.seen_at, columns=source.spec.columns,
        tags=source.spec.tags, country=source.spec.country, origin=batch.origin, fields=source.fields,
        sparse=source.spec.type != "csv",
    )  # fmt: skip


def too_many_rejected(source: SourceRow, batch: BatchRow) -> bool:
    """Whether so much of a batch was rejected that a person should look first. Who types a contact is told at once."""
    return source.spec.type != "manual" and batch.refused > source.spec.max_reject_share * batch.shown


def withheld(source: SourceRow, validated: Iterable[BatchRow]) -> list[BatchRow]:
    """Those of the batches that wait to be loaded which a person should look at first."""
    return [batch for batch in validated if too_many_rejected(source, batch)]


def named(batches: Sequence[BatchRow]) -> str:
    """A few of them, as a person finds them again."""
    return listed([f"batch {batch.id} ({batch.origin})" for batch in batches], 5)


def with_known(batch: RawBatch, before: Sequence[str], usual: tuple[str, ...]) -> RawBatch:
    """A batch of rows that name the fields they have, with the columns known before that they may just lack."""
    lacking = before if batch.few else [name for name in before if name not in usual]
    columns = united(batch.table.columns, lacking) if batch.table.columns else ()
    return replace(batch, table=replace(batch.table, columns=columns), usual=usual if batch.few else batch.usual)
