"""What the steps of ingest came to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from mailmill.errors import SourceUnavailable
from mailmill.pipelines.ingest import addresses
from mailmill.pipelines.ingest.ports import BatchRow, Held, LoadCounts, Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """What a source gave."""

    batches: tuple[int, ...] = ()  # ids of what is new
    known: int = 0  # batches whose content had come before
    rows: int = 0
    refused: tuple[Refusal, ...] = ()
    held: tuple[Held, ...] = ()  # of this import and of earlier ones
    notes: tuple[str, ...] = ()
    broken_off: SourceUnavailable | None = None  # why the source gave no more than this, and when it may be asked again


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated:
    """What became of raw rows. read = accepted + rejected."""

    batches: tuple[int, ...] = ()
    read: int = 0
    accepted: int = 0
    rejected: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    held: tuple[str, ...] = ()  # batches that the source's columns of today cannot read, and why
    sample: tuple[Mapping[str, Any], ...] = ()  # a few accepted rows, masked

    def __add__(self, other: Validated) -> Validated:
        return Validated(
            batches=self.batches + other.batches, read=self.read + other.read, accepted=self.accepted + other.accepted,
            rejected=self.rejected + other.rejected, reasons=dict(Counter(self.reasons) + Counter(other.reasons)),
            notes=self.notes + other.notes, held=self.held + other.held, sample=self.sample or other.sample,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What became of accepted rows."""

    counts: LoadCounts
    withheld: tuple[BatchRow, ...] = ()  # more of them was rejected than the source allows
    notes: tuple[str, ...] = ()


def sample(accepted: pl.DataFrame, rows: int = 5) -> list[dict[str, Any]]:
    """A few accepted rows for an operator's eyes, addresses, numbers and names masked."""
    shown = accepted.head(rows).select(
        "line",
        email=addresses.masked(pl.col("email")),
        phone=addresses.masked(pl.col("phone")),
        name=pl.col("name").str.slice(0, 1) + "***",
        language="language",
        country="country",
        verdict="verdict",
    )
    return shown.to_dicts()
