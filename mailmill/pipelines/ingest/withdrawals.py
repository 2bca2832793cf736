"""What a source takes back: contacts it says it has deleted, and those that a walk from its beginning shows no more.

A withdrawal is a source's last word about a contact, not the contact's end: the contact stays, with what it was given,
and a later batch of the same source that names it again takes the withdrawal back. A contact that every one of its
sources has withdrawn is mailed by nobody (status `withdrawn`).
"""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from mailmill.pipelines.ingest.raw import CELL
from mailmill.pipelines.ingest.rejects import WITHDRAWN
from mailmill.pipelines.ingest.validation import BatchFacts, validate

MAX_ABSENT_SHARE = 0.5  # of a source's contacts; more of them missing is rather a fault of the API than a clearing-up


def said_deleted(raw: Iterable[pl.DataFrame], facts: BatchFacts) -> pl.Series:
    """The match keys of the rows that say a contact was deleted. In: RAW_SCHEMA with the source's columns."""
    unread = [pl.lit(None, pl.String).alias(name) for name in ("problem", "raw")]
    gone = (piece.filter(pl.col("problem") == WITHDRAWN).with_columns(unread) for piece in raw)
    return _united(_keys(piece, facts) for piece in gone)


def present(batches: Iterable[tuple[Iterable[pl.DataFrame], BatchFacts]]) -> pl.Series:
    """The match keys that these batches name, each once. In: RAW_SCHEMA with the source's columns."""
    return _united(
        _keys(piece.filter(pl.col("problem").is_null()), facts) for pieces, facts in batches for piece in pieces
    )


def _united(keys: Iterable[pl.Series]) -> pl.Series:
    return pl.concat([pl.Series("match_key", [], dtype=pl.String), *keys]).unique()


def _keys(raw: pl.DataFrame, facts: BatchFacts) -> pl.Series:
    if raw.is_empty() or not any(name.startswith(CELL) for name in raw.columns):
        return pl.Series("match_key", [], dtype=pl.String)
    return validate(raw, facts).accepted["match_key"].unique()
