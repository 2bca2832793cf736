"""Contacts from what sources claim about them.

A claim is one value of one field of one contact, with who says so and when. Of all claims about a field the greatest
wins, by (priority, seen_at, source_id, batch_id): so the order in which batches arrive cannot matter, nor how often.
Tags are united; sightings per source keep the first and the last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from mailmill.pipelines.ingest.validation import FIELD

CLAIMS_SCHEMA = pl.Schema(
    {
        "match_key": pl.String(),
        "field": pl.String(),  # of VALUE_FIELDS, 'fields.<name>', or 'tags.<tag>' (its value is '')
        "value": pl.String(),
        "priority": pl.Int64(),
        "seen_us": pl.Int64(),  # epoch microseconds
        "source_id": pl.Int64(),
        "batch_id": pl.Int64(),
    }
)
RANK = ("priority", "seen_us", "source_id", "batch_id")
# verdict travels as '<verdict> <reason>': the two belong together
VALUE_FIELDS = ("email", "phone", "name", "language", "category", "country", "time_zone", "verdict")
TAG = "tags."
# what a contact is written with; tags, fields and provenance as text in PostgreSQL's own form
ROWS_SCHEMA = pl.Schema(
    {
        "match_key": pl.String(), "email": pl.String(), "phone": pl.String(), "name": pl.String(),
        "language": pl.String(), "category": pl.String(), "country": pl.String(), "time_zone": pl.String(),
        "tags": pl.String(), "fields": pl.String(), "provenance": pl.String(), "verdict": pl.String(),
        "verdict_reason": pl.String(),
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Who says so: the part of the rank that all rows of a batch share."""

    priority: int
    source_id: int
    batch_id: int


def merge(existing: pl.DataFrame, incoming: pl.DataFrame) -> pl.DataFrame:
    """The claims that win. Idempotent, and the order of the arguments, or of their rows, does not matter.

    In/Out: CLAIMS_SCHEMA; the result holds one row for each contact and field, in order of both.
    """
    claims = pl.concat([existing.match_to_schema(CLAIMS_SCHEMA), incoming.match_to_schema(CLAIMS_SCHEMA)])
    # equal ranks come from one batch only; then the value decides, so that the result is still one
    ordered = claims.sort("match_key", "field", *RANK, "value")
    return ordered.unique(["match_key", "field"], keep="last", maintain_order=True)


def sightings(rows: pl.DataFrame) -> pl.DataFrame:
    """match_key, first_seen, last_seen of a batch. In: ACCEPTED_SCHEMA."""
    return rows.group_by("match_key").agg(first_seen=pl.col("seen_at").min(), last_seen=pl.col("seen_at").max())


def claims(rows: pl.DataFrame, origin: Origin) -> pl.DataFrame:
    """What a batch claims, one row for each contact and field; within a batch the latest, then the last line wins.

    In: ACCEPTED_SCHEMA with custom fields. Out: CLAIMS_SCHEMA.
    """
    custom = [name for name in rows.columns if name.startswith(FIELD)]
    wide = rows.with_columns(
        verdict=pl.concat_str("verdict", "verdict_reason", separator=" ", ignore_nulls=True),
        seen_us=pl.col("seen_at").dt.epoch("us"),
    )
    index = ["match_key", "seen_us", "line"]
    values = wide.unpivot(on=[*VALUE_FIELDS, *custom], index=index, variable_name="field", value_name="value")
    tags = wide.select(*index, "tags").explode("tags").drop_nulls("tags")
    tags = tags.select(*index, field=pl.lit(TAG) + pl.col("tags"), value=pl.lit(""))
    said = pl.concat([values.drop_nulls("value"), tags.select(values.columns)])
    said = said.sort("match_key", "field", "seen_us", "line").unique(
        ["match_key", "field"], keep="last", maintain_order=True
    )
    return said.select(
        "match_key", "field", "value", priority=pl.lit(origin.priority, pl.Int64), seen_us="seen_us",
        source_id=pl.lit(origin.source_id, pl.Int64), batch_id=pl.lit(origin.batch_id, pl.Int64),
    )  # fmt: skip


def assembled(winners: pl.DataFrame) -> pl.DataFrame:
    """Contacts from the claims that won. In: what merge() gives. Out: ROWS_SCHEMA, in order of match_key."""
    if winners.is_empty():
        return pl.DataFrame(schema=ROWS_SCHEMA)
    keys = winners.select("match_key").unique().sort("match_key")
    typed = winners.filter(pl.col("field").is_in(list(VALUE_FIELDS)))
    wide = typed.pivot(on="field", on_columns=list(VALUE_FIELDS), index="match_key", values="value")
    untagged = ~pl.col("field").str.starts_with(TAG)
    tags = winners.filter(~untagged).group_by("match_key").agg(
        tags=pl.col("field").str.strip_prefix(TAG).unique().sort()
    )  # fmt: skip
    pair = _json_text(pl.col("field").str.strip_prefix(FIELD)) + ":" + _json_text(pl.col("value"))
    fields = winners.filter(pl.col("field").str.starts_with(FIELD)).group_by("match_key").agg(
        fields=pair.sort_by("field").str.join(",")
    )  # fmt: skip
    rank = _rank_text([pl.col(name) for name in RANK])
    said = winners.filter(untagged).with_columns(rank=rank).group_by("match_key").agg(
        ranks=pl.col("rank").n_unique(),
        one=pl.col("rank").first(),
        each=(_json_text(pl.col("field")) + ":" + pl.col("rank")).sort_by("field").str.join(","),
    )  # fmt: skip
    rows = keys
    for part in (wide, tags, fields, said):
        rows = rows.join(part, on="match_key", how="left", maintain_order="left")
    provenance = pl.when(pl.col("ranks") == 1).then(_all_fields(pl.col("one"))).otherwise(_object(pl.col("each")))
    return rows.select(
        "match_key", *VALUE_FIELDS[:-1],
        tags=_array(pl.col("tags")),
        fields=_object(pl.col("fields").fill_null("")),
        provenance=provenance,
        verdict=pl.col("verdict").str.extract(r"^(\S+)"),
        verdict_reason=pl.col("verdict").str.extract(r" (.+)$"),
    )  # fmt: skip


def fresh(rows: pl.DataFrame, origin: Origin) -> pl.DataFrame:
    """Contacts from rows that are each the only one of their contact: no claims, no merge, one pass.

    In: ACCEPTED_SCHEMA with custom fields, match_key distinct. Out: ROWS_SCHEMA, as assembled(claims(…)) would give.
    """
    custom = [name for name in rows.columns if name.startswith(FIELD)]
    rank = [pl.lit(origin.priority), pl.col("seen_at").dt.epoch("us"), pl.lit(origin.source_id)]
    fields = pl.lit("{}")
    if custom:
        named = pl.struct(pl.col(name).alias(name.removeprefix(FIELD)) for name in sorted(custom))
        # a null is no value; names are [a-z0-9_]+, so this text cannot stand inside a JSON string
        fields = named.struct.json_encode().str.replace_all(r'"[a-z0-9_]+":null,?', "").str.replace(r",\}$", "}")
    return rows.select(
        "match_key", *VALUE_FIELDS[:-1], tags=_array(pl.col("tags")), fields=fields,
        provenance=_all_fields(_rank_text([*rank, pl.lit(origin.batch_id)])),
        verdict="verdict", verdict_reason="verdict_reason",
    )  # fmt: skip


def contact_rows(rows: pl.DataFrame, origin: Origin) -> pl.DataFrame:
    """ROWS_SCHEMA of one batch, one row a contact; only what names a contact twice is merged."""
    again = rows.filter(pl.col("match_key").is_duplicated())
    if again.is_empty():
        return fresh(rows, origin)
    once = rows.join(again.select("match_key").unique(), on="match_key", how="anti", maintain_order="left")
    return pl.concat([fresh(once, origin), assembled(claims(again, origin))])


def winner(provenance: Mapping[str, Sequence[int]], field: str) -> Sequence[int] | None:
    """[priority, seen_at in us, source_id, batch_id] of a field's value, from contacts.provenance.

    In: field as in CLAIMS_SCHEMA. `*` stands for every field when all values of a contact came together.
    """
    return provenance.get(field, provenance.get("*"))


def _json_text(text: pl.Expr) -> pl.Expr:
    return pl.struct(v=text).struct.json_encode().str.slice(5).str.strip_suffix("}")


def _rank_text(parts: Sequence[pl.Expr]) -> pl.Expr:
    return pl.lit("[") + pl.concat_str(parts, separator=",") + "]"


def _all_fields(rank: pl.Expr) -> pl.Expr:
    return pl.lit('{"*":') + rank + "}"


def _object(pairs: pl.Expr) -> pl.Expr:
    return pl.lit("{") + pairs + "}"


def _array(tags: pl.Expr) -> pl.Expr:
    """A PostgreSQL array; tags are letters, digits and hyphens."""
    quoted = pl.lit('{"') + tags.list.join('","') + '"}'
    return pl.when(tags.list.len() > 0).then(quoted).otherwise(pl.lit("{}"))
