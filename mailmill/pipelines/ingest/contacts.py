"""Contacts from what sources claim about them.

A claim is one value of one field of one contact, with who says so and when. Of all claims about a field the greatest
wins, by (priority, seen_at, source_id, batch_id): so the order in which batches arrive cannot matter, nor how often.
Tags are united. `merging` weighs claims about contacts that are known, `sightings` what has only been said again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from mailmill.pipelines.ingest.validation import FIELD

# what a contact is made of. verdict and verdict_reason belong together, as one value
VALUE_FIELDS = ("email", "phone", "name", "language", "category", "country", "time_zone", "verdict")
PLAIN_FIELDS = VALUE_FIELDS[:-1]
TAG = "tags."
RANK = ("priority", "seen_us", "source_id", "batch_id")
WHOLE = "*"  # in provenance: every value that is not named
NOBODY = (-32768, 0, 0, 0)  # the rank of a value that nobody is known to have claimed
# contacts as they are written and read; fields and provenance are JSON objects
STATE_SCHEMA = pl.Schema(
    {
        "match_key": pl.String(),
        **dict.fromkeys(PLAIN_FIELDS, pl.String()),
        "tags": pl.List(pl.String()),
        "fields": pl.String(),
        "provenance": pl.String(),
        "verdict": pl.String(),
        "verdict_reason": pl.String(),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Who says so: the part of the rank that all rows of a batch share."""

    priority: int
    source_id: int
    batch_id: int


def said(accepted: pl.DataFrame, origin: Origin, *, without_tags: Collection[str] = ()) -> pl.DataFrame:
    """What a batch says of each person, ready to be written where the person is new.

    In:  ACCEPTED_SCHEMA with custom fields; tags that the operator deleted.
    Out: STATE_SCHEMA, its custom fields as columns, seen_us and first_us (epoch microseconds), digest (64 bits of all
         the row says, priority included) and copies; in the same order.
    A digest of another version of polars may differ: then a row counts as changed once and goes the long way.
    """
    custom = [name for name in accepted.columns if name.startswith(FIELD)]
    tags = pl.col("tags").list.set_difference(list(without_tags)).list.sort() if without_tags else pl.col("tags")
    rows = accepted.select(
        "match_key", *PLAIN_FIELDS, tags.alias("tags"), _fields(custom), "verdict", "verdict_reason", *custom, "copies",
        seen_us=pl.col("last_seen").dt.epoch("us"), first_us=pl.col("first_seen").dt.epoch("us"),
    )  # fmt: skip
    content = rows.select(
        *PLAIN_FIELDS, "verdict", "verdict_reason", "fields", "match_key",
        tags=pl.col("tags").list.join(","), priority=pl.lit(origin.priority, pl.Int64),
    )  # fmt: skip
    rank = rank_text([pl.lit(origin.priority), pl.col("seen_us"), pl.lit(origin.source_id), pl.lit(origin.batch_id)])
    return rows.with_columns(
        provenance=pl.lit('{"*":') + rank + "}", digest=content.hash_rows(seed=0).reinterpret(signed=True)
    )


def _fields(custom: Sequence[str]) -> pl.Expr:
    """Custom fields as a JSON object; a null is no value."""
    if not custom:
        return pl.lit("{}").alias("fields")
    named = pl.struct(pl.col(name).alias(name.removeprefix(FIELD)) for name in sorted(custom))
    # names are [a-z0-9_]+, so this text cannot stand inside a JSON string
    text = named.struct.json_encode().str.replace_all(r'"[a-z0-9_]+":null,?', "").str.replace(r",\}$", "}")
    return text.alias("fields")


def winner(provenance: Mapping[str, Sequence[int]], field: str) -> Sequence[int] | None:
    """[priority, seen_at in us, source_id, batch_id] of a field's value, as it is stored in contacts.provenance.

    In: a name of VALUE_FIELDS, 'fields.<name>' or 'tags.<tag>'. `*` stands for every field that is not named.
    """
    return provenance.get(field, provenance.get(WHOLE))


def rank_text(parts: Sequence[pl.Expr]) -> pl.Expr:
    return pl.lit("[") + pl.concat_str(parts, separator=",") + "]"


def json_text(text: pl.Expr) -> pl.Expr:
    return pl.struct(v=text).struct.json_encode().str.slice(5).str.strip_suffix("}")
