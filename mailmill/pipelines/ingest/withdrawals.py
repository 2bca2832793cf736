"""What a source takes back: contacts it says it has deleted, and those that a walk from its beginning shows no more.

A withdrawal is a source's last word about a contact, not the contact's end: the contact stays, with what it was given,
and a later batch of the same source that names it again takes the withdrawal back. A contact that every one of its
sources has withdrawn is mailed by nobody (status `withdrawn`).
"""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from mailmill.pipelines.ingest.rejects import WITHDRAWN
from mailmill.pipelines.ingest.validation import BatchFacts, match_keys

MAX_ABSENT_SHARE = 0.5  # of a source's contacts; more of them missing is rather a fault of the API than a clearing-up

WORDS_SCHEMA = pl.Schema({"match_key": pl.String(), "there": pl.Boolean()})


def last_words(batches: Iterable[tuple[Iterable[pl.DataFrame], BatchFacts]]) -> pl.DataFrame:
    """Whom batches name, and whether the source has them still: the last word about each, batch by batch and line by
    line. A row counts whatever else is wrong with it: who is shown is there.

    In: RAW_SCHEMA with the source's columns, the oldest batch first. Out: WORDS_SCHEMA, each match_key once.
    Raises: Misconfigured when the source's columns are not those of a batch.
    """
    words = (_words(piece, facts) for pieces, facts in batches for piece in pieces)
    return _last(pl.concat([pl.DataFrame(schema=WORDS_SCHEMA), *words]))


def _words(raw: pl.DataFrame, facts: BatchFacts) -> pl.DataFrame:
    said = raw.filter(pl.col("problem").is_null() | (pl.col("problem") == WITHDRAWN))
    return _last(said.select(match_key=match_keys(said, facts), there=pl.col("problem").is_null()).drop_nulls())


def _last(words: pl.DataFrame) -> pl.DataFrame:
    return words.unique("match_key", keep="last", maintain_order=True)
