"""What each source was seen to say about each contact, and since when.

A source that repeats itself moves only its sighting: the contact stays as it is. So a value's rank in the contact may
be older than the last time its source said it; `lifted` gives the rank it counts with.

In each row (`last_seen`, `last_batch`) is when the source last spoke of the contact, `digest` what it said then, and
(`said_seen`, `said_batch`) since when it has said just that. What the contact has from this source with that rank or a
later one is what the source still says; with an earlier one, what it said once and says no longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import polars as pl

SIGHTINGS_SCHEMA = pl.Schema(
    {
        "id": pl.Int64(),  # of the contact
        "source_id": pl.Int64(),
        "first_seen": pl.Int64(),  # epoch microseconds, as all times here
        "last_seen": pl.Int64(),
        "first_batch": pl.Int64(),
        "last_batch": pl.Int64(),
        "said_seen": pl.Int64(),
        "said_batch": pl.Int64(),
        "digest": pl.Int64(),
    }
)


def above(left: Sequence[pl.Expr], right: Sequence[pl.Expr]) -> pl.Expr:
    """Whether `left` is greater, compared from the first part to the last; nulls are never compared here."""
    pairs = list(zip(left, right, strict=True))
    last = pairs[-1][0] > pairs[-1][1]
    return reduce(lambda rest, pair: (pair[0] > pair[1]) | ((pair[0] == pair[1]) & rest), reversed(pairs[:-1]), last)


def same(left: Sequence[pl.Expr], right: Sequence[pl.Expr]) -> pl.Expr:
    return reduce(lambda all_, pair: all_ & (pair[0] == pair[1]), zip(left, right, strict=True), pl.lit(True))


def compared(own: pl.DataFrame, rows: pl.DataFrame, batch_id: int) -> pl.DataFrame:
    """Rows of a batch beside what their source was last seen to say. The order of `rows` stays.

    In:  own, SIGHTINGS_SCHEMA of the batch's source; rows with id, first_us, seen_us, digest.
    Out: rows with the columns of `own`, null where the source is new to the contact, and
         repeats: it says what it said last;
         newer: it is the last to be said;
         between: it was said while the source is taken to have said what it says now.
    """
    now, batch = pl.col("seen_us"), pl.lit(batch_id, pl.Int64)
    last = (pl.col("last_seen"), pl.col("last_batch"))
    said = (pl.col("said_seen"), pl.col("said_batch"))
    both = rows.join(own.drop("source_id").rename({"digest": "before"}), on="id", how="left", maintain_order="left")
    return both.with_columns(
        repeats=(pl.col("before") == pl.col("digest")).fill_null(False),
        newer=above((now, batch), last).fill_null(True),
        between=(~above((now, batch), last) & ~above(said, (now, batch))).fill_null(False),
    )


def can_hold(batch_id: int, earliest: int, latest: int) -> pl.Expr:
    """Whether a batch of rows seen between these times, both included, can have a part in a sighting of its source.

    It has one where (time, batch) of some row of it lies between (first_seen, first_batch) and (last_seen, last_batch):
    of rows of one time the batch decides, so that who stood in one file alone is not put down to those beside it.
    """
    batch = pl.lit(batch_id, pl.Int64)
    since = pl.col("first_seen") + (batch < pl.col("first_batch"))
    until = pl.col("last_seen") - (batch > pl.col("last_batch"))
    return pl.max_horizontal(since, pl.lit(earliest, pl.Int64)) <= pl.min_horizontal(until, pl.lit(latest, pl.Int64))


def in_question(rows: pl.DataFrame, others: pl.DataFrame) -> pl.DataFrame:
    """The rows that may change their contact; of the others nothing but the sighting moves.

    In: what `compared` gives; sightings of these contacts by other sources, which may lose a value to who repeats it.
    """
    shared = pl.col("id").is_in(others["id"].unique().implode())
    return rows.filter(~pl.col("repeats") | (pl.col("newer") & shared))


def moved(rows: pl.DataFrame, source_id: int, batch_id: int) -> pl.DataFrame:
    """The sightings after a batch. In: what `compared` gives. Out: SIGHTINGS_SCHEMA, in the same order.

    An older batch that says something else while the source was taken to say the same all the time ends that: from
    then on only its last word is known to be what it says now.
    """
    now, batch = pl.col("seen_us"), pl.lit(batch_id, pl.Int64)
    earlier = above((pl.col("first_seen"), pl.col("first_batch")), (pl.col("first_us"), batch)).fill_null(True)
    again, ended = pl.col("repeats") & pl.col("newer"), ~pl.col("repeats") & pl.col("between")

    def since(said: str, new: pl.Expr, last: str) -> pl.Expr:
        kept = pl.when(pl.col("newer") & ~again).then(new).when(ended).then(last).otherwise(said)
        return kept.alias(said)

    return rows.select(
        "id",
        source_id=pl.lit(source_id, pl.Int64),
        first_seen=pl.when(earlier).then("first_us").otherwise("first_seen"),
        last_seen=pl.when("newer").then(now).otherwise("last_seen"),
        first_batch=pl.when(earlier).then(batch).otherwise("first_batch"),
        last_batch=pl.when("newer").then(batch).otherwise("last_batch"),
        said_seen=since("said_seen", now, "last_seen"),
        said_batch=since("said_batch", batch, "last_batch"),
        digest=pl.when("newer").then("digest").otherwise("before"),
    )


def replaced(before: pl.DataFrame, after: pl.DataFrame) -> pl.DataFrame:
    """`before` with the rows of `after` in the place of theirs, by contact and source; ordered by both."""
    kept = before.join(after, on=["source_id", "id"], how="anti")
    return pl.concat([kept, after]).sort("source_id", "id")


def lifted(ranks: pl.DataFrame, sightings: pl.DataFrame) -> pl.DataFrame:
    """Ranks as they count: of what its source still says, the time and batch are those of its last word.

    In:  ranks with id, priority, seen, source, batch; sightings of these contacts, of any source.
    Out: the same rows in the same order, and `was_lifted`.
    """
    word = sightings.select("id", "said_seen", "said_batch", "last_seen", "last_batch", source="source_id")
    both = ranks.join(word, on=["id", "source"], how="left", maintain_order="left")
    said, last = [[pl.col(f"{when}_seen"), pl.col(f"{when}_batch")] for when in ("said", "last")]
    own = [pl.col("seen"), pl.col("batch")]
    lift = (~above(said, own) & above(last, own)).fill_null(False)
    return both.select(
        *(name for name in ranks.columns if name not in ("seen", "batch")),
        seen=pl.when(lift).then("last_seen").otherwise("seen"),
        batch=pl.when(lift).then("last_batch").otherwise("batch"),
        was_lifted=lift,
    )
