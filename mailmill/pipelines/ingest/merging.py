"""What a batch says about contacts that are known, weighed against what won so far. Wide: a column a field.

The result is the same as that of the greatest of all claims ever made, in whatever order they come (see `contacts`).
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from mailmill.pipelines.ingest.contacts import (
    NOBODY,
    PLAIN_FIELDS,
    STATE_SCHEMA,
    TAG,
    WHOLE,
    Origin,
    json_text,
    rank_text,
)
from mailmill.pipelines.ingest.sightings import above, lifted, same
from mailmill.pipelines.ingest.validation import FIELD

_RANK = ("priority", "seen", "source", "batch")
_ENTRY = r'"((?:[^"\\]|\\.)+)": ?\[(-?\d+), ?(-?\d+), ?(\d+), ?(\d+)\]'
_VERDICT = "verdict"  # travels as '<verdict> <reason>': the two belong together


def merged(known: pl.DataFrame, rows: pl.DataFrame, sightings: pl.DataFrame, origin: Origin) -> pl.DataFrame:
    """Contacts that have to be written because of a batch.

    In:  known, STATE_SCHEMA with id; rows, what sightings.compared() gives of the same contacts, each once;
         sightings of these contacts by every source, as they stood before the batch.
    Out: STATE_SCHEMA with id and `changed`: whether a value differs, not only who said it.
    Ranks are written as they count; one that counts is never less than the one stored, so this may be done at any time.
    """
    said = rows.rename({name: f"in:{name}" for name in rows.columns if name != "id"})
    both = _unpacked(known).join(_packed_verdict(said, "in:"), on="id", how="inner")
    entries = lifted(_entries(known), sightings)
    base = entries.filter(pl.col("field") == WHOLE).rename({name: f"base:{name}" for name in (*_RANK, "was_lifted")})
    named = entries.filter(pl.col("field") != WHOLE)
    both = both.join(base.drop("field"), on="id", how="left").with_columns(
        *(pl.col(f"base:{name}").fill_null(least) for name, least in zip(_RANK, NOBODY, strict=True)),
        pl.col("base:was_lifted").fill_null(False),
        **{f"in:{name}": part for name, part in zip(_RANK, _incoming(origin), strict=True)},
    )
    for side in ("base:", "in:"):
        both = both.with_columns(rank_text([pl.col(side + name) for name in _RANK]).alias(f"{side}rank"))
    fields = sorted({name.removeprefix("in:") for name in both.columns if name.startswith(("in:" + FIELD, FIELD))})
    for field in (*PLAIN_FIELDS, _VERDICT, *fields):
        both = _weighed(both, named, field)
    both = _with_tags(both, named)
    return _written(both, named, [*PLAIN_FIELDS, _VERDICT, *fields], origin)


def _incoming(origin: Origin) -> list[pl.Expr]:
    parts = (pl.lit(origin.priority), pl.col("in:seen_us"), pl.lit(origin.source_id), pl.lit(origin.batch_id))
    return [part.cast(pl.Int64) for part in parts]


def _unpacked(known: pl.DataFrame) -> pl.DataFrame:
    """Custom fields as columns, verdict and reason as one."""
    wide = _packed_verdict(known.drop("provenance", "match_key"), "")
    if (known["fields"] == "{}").all():
        return wide.drop("fields")
    values = known["fields"].str.json_decode(infer_schema_length=None).struct.unnest()
    return wide.drop("fields").hstack([column.cast(pl.String).alias(FIELD + column.name) for column in values])


def _packed_verdict(frame: pl.DataFrame, side: str) -> pl.DataFrame:
    names = [f"{side}verdict", f"{side}verdict_reason"]
    packed = pl.concat_str(names, separator=" ", ignore_nulls=True).alias(names[0])
    return frame.with_columns(pl.when(pl.col(names[0]).is_not_null()).then(packed)).drop(names[1])


def _entries(known: pl.DataFrame) -> pl.DataFrame:
    """The ranks that are stored: id, field (`*` for what is not named), and the parts of the rank."""
    found = known.select("id", entry=pl.col("provenance").str.extract_all(_ENTRY)).explode("entry").drop_nulls("entry")
    parts = found.select("id", part=pl.col("entry").str.extract_groups(_ENTRY)).unnest("part")
    names = dict(zip("12345", ("field", *_RANK), strict=True))
    return parts.rename(names).with_columns(pl.col(_RANK).cast(pl.Int64))


def _weighed(both: pl.DataFrame, named: pl.DataFrame, field: str) -> pl.DataFrame:
    """One field decided: its column holds what wins, `won:` whether the batch brought it, `at:` its entry."""
    for column in (field, f"in:{field}"):
        if column not in both.columns:
            both = both.with_columns(pl.lit(None, pl.String).alias(column))
    both, rank, entry = _with_rank(both, named.filter(pl.col("field") == field).drop("field"), ["id"])
    mine, theirs = pl.col(field), pl.col(f"in:{field}")
    incoming = [pl.col(f"in:{name}") for name in _RANK]
    greater = above(incoming, rank) | (same(incoming, rank) & (theirs > mine))
    won = theirs.is_not_null() & (mine.is_null() | greater).fill_null(True)
    source = rank[2]
    key = f'"{field}":'
    return both.with_columns(
        pl.when(won).then(theirs).otherwise(mine).alias(field),
        won.alias(f"won:{field}"),
        (won & (mine.is_null() | (mine != theirs))).fill_null(False).alias(f"new:{field}"),
        (won & (mine.is_null() | (source != incoming[2]))).fill_null(False).alias(f"taken:{field}"),
        pl.when(won).then(pl.lit(key) + pl.col("in:rank")).when(mine.is_not_null()).then(pl.lit(key) + entry)
        .alias(f"at:{field}"),
    ).drop(name for name in both.columns if name.startswith("x:"))  # fmt: skip


def _with_rank(
    frame: pl.DataFrame, ranks: pl.DataFrame, on: Sequence[str]
) -> tuple[pl.DataFrame, list[pl.Expr], pl.Expr]:
    """`frame` with what it takes to know the rank of a value, its own or else the base's; and its text, if own."""
    if ranks.is_empty():
        return frame, [pl.col(f"base:{name}") for name in _RANK], pl.lit(None, pl.String)
    own = ranks.drop("was_lifted").rename({name: f"x:{name}" for name in _RANK})
    joined = frame.join(own, on=list(on), how="left", maintain_order="left")
    rank = [pl.coalesce(f"x:{name}", f"base:{name}") for name in _RANK]
    entry = pl.when(pl.col("x:seen").is_not_null()).then(rank_text([pl.col(f"x:{name}") for name in _RANK]))
    return joined, rank, entry


def _with_tags(both: pl.DataFrame, named: pl.DataFrame) -> pl.DataFrame:
    """Tags united, each with the rank of the greatest claim about it."""
    base = [f"base:{name}" for name in _RANK]
    incoming = [f"in:{name}" for name in _RANK]
    mine = both.select("id", *base, tag="tags").explode("tag").drop_nulls("tag")
    theirs = both.select("id", *incoming, "in:rank", tag="in:tags").explode("tag").drop_nulls("tag")
    ranks = named.filter(pl.col("field").str.starts_with(TAG)).with_columns(tag=pl.col("field").str.strip_prefix(TAG))
    mine, rank, entry = _with_rank(mine, ranks.drop("field"), ["id", "tag"])
    mine = mine.select("id", "tag", entry.alias("entry"), *(part.alias(f"r:{i}") for i, part in enumerate(rank)))
    tags = mine.join(theirs, on=["id", "tag"], how="full", coalesce=True)
    held = pl.col("r:0").is_not_null()
    greater = above([pl.col(name) for name in incoming], [pl.col(f"r:{i}") for i in range(4)])
    key = pl.lit('"') + TAG + pl.col("tag") + '":'
    tags = tags.with_columns(won=pl.col("in:rank").is_not_null() & (~held | greater).fill_null(True)).with_columns(
        new=pl.col("won") & ~held,
        taken=pl.col("won") & (~held | (pl.col("r:2") != pl.col("in:source")).fill_null(True)),
        at=pl.when("won").then(key + pl.col("in:rank")).otherwise(key + pl.col("entry")),
    )
    each = tags.sort("tag").group_by("id").agg(
        pl.col("tag").alias("tags"), pl.col("won").all().alias("won:tags"), pl.col("won").any().alias("any:tags"),
        pl.col("new").any().alias("new:tags"), pl.col("taken").any().alias("taken:tags"),
        pl.col("at").drop_nulls().str.join(",").alias("at:tags"),
    )  # fmt: skip
    none = pl.lit([], dtype=pl.List(pl.String))
    return both.drop("tags").join(each, on="id", how="left", maintain_order="left").with_columns(
        pl.col("tags").fill_null(none), pl.col("won:tags").fill_null(True),
        pl.col("any:tags", "new:tags", "taken:tags").fill_null(False),
        pl.when(pl.col("at:tags") != "").then("at:tags").alias("at:tags"),
    )  # fmt: skip


def _written(both: pl.DataFrame, named: pl.DataFrame, fields: Sequence[str], origin: Origin) -> pl.DataFrame:
    """The rows whose values, winners or settled ranks have to be stored, as STATE_SCHEMA."""
    held = [pl.col(f"won:{field}") | pl.col(field).is_null() for field in fields]
    whole = pl.all_horizontal(*held, "won:tags")
    mine = pl.col("source") == origin.source_id
    unsettled = named.filter(mine & pl.col("was_lifted"))["id"].unique()
    settle = pl.col("id").is_in(unsettled.implode()) | (
        pl.col("base:was_lifted") & (pl.col("base:source") == origin.source_id)
    )
    won = pl.any_horizontal(*(f"won:{field}" for field in fields), "any:tags")
    taken = pl.any_horizontal(*(f"taken:{field}" for field in (*fields, "tags")))
    changed = pl.any_horizontal(*(f"new:{field}" for field in (*fields, "tags")))
    # what the source said before must keep the rank of when it said it; what it only repeats is lifted by its sighting
    ends = ~pl.col("in:repeats") & (pl.col("in:newer") | pl.col("in:between"))
    entries = pl.concat_str(*(f"at:{field}" for field in (*fields, "tags")), separator=",", ignore_nulls=True)
    text = pl.when(whole).then(pl.lit('{"*":') + pl.col("in:rank") + "}").otherwise(
        pl.lit('{"*":') + pl.col("base:rank") + pl.when(entries != "").then(pl.lit(",") + entries).otherwise(pl.lit(""))
        + "}"
    )  # fmt: skip
    custom = [field for field in fields if field.startswith(FIELD)]
    pairs = [
        pl.when(pl.col(field).is_not_null()).then(
            pl.lit(f'"{field.removeprefix(FIELD)}":') + json_text(pl.col(field)))
        for field in custom
    ]  # fmt: skip
    packed = pl.concat_str(*pairs, separator=",", ignore_nulls=True) if pairs else pl.lit("")
    writes = changed | taken | (~pl.col("in:repeats") & won) | (ends & settle)
    return both.with_columns(
        changed=changed, writes=writes, provenance=text, fields=pl.lit("{") + packed + "}", match_key="in:match_key",
        verdict_reason=pl.col(_VERDICT).str.extract(r" (.+)$"), verdict=pl.col(_VERDICT).str.extract(r"^(\S+)"),
    ).filter("writes").select("id", *STATE_SCHEMA.names(), "changed")  # fmt: skip
