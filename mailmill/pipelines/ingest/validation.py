"""Raw rows of one batch -> accepted rows and rejected rows. Every row is in exactly one of the two.

A row is refused for what it is reached by: a wrong address, no address at all, an impossible phone number without an
address. A language, country, time zone or phone number that cannot be read does not cost the contact: the value stays
as the custom field `<field>_as_given`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl

from mailmill.pipelines.ingest import addresses, cells, phones
from mailmill.pipelines.ingest.columns import ColumnMap, mapped
from mailmill.pipelines.ingest.duplicates import COPIES_SCHEMA, Buckets
from mailmill.pipelines.ingest.raw import CELL, raw_text
from mailmill.pipelines.ingest.rejects import RAW_TEXT_LIMIT, REJECTED_SCHEMA, counted

FIELD = "fields."  # begins the column of a custom field
MAX_VALUE = 10_000  # characters
VALUES_SCHEMA = pl.Schema(
    {
        "line": pl.Int64(),
        "match_key": pl.String(),
        "email": pl.String(),
        "phone": pl.String(),
        "name": pl.String(),
        "language": pl.String(),
        "category": pl.String(),
        "country": pl.String(),
        "time_zone": pl.String(),
        "tags": pl.List(pl.String()),  # sorted, distinct
        "verdict": pl.String(),
        "verdict_reason": pl.String(),
        "seen_at": pl.Datetime("us", "UTC"),
    }
)  # and one String column `fields.<name>` a custom field: what a row says
ACCEPTED_SCHEMA = pl.Schema({**VALUES_SCHEMA, **COPIES_SCHEMA})  # and the same: one row a match_key


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFacts:
    """What validation has to know about a batch and its source."""

    batch_id: int
    source: str
    seen_at: datetime
    columns: Mapping[str, str]
    tags: tuple[str, ...] = ()
    origin: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """Rows divided: ACCEPTED_SCHEMA or, before duplicates are merged, VALUES_SCHEMA; and REJECTED_SCHEMA."""

    accepted: pl.DataFrame
    rejected: pl.DataFrame
    notes: tuple[str, ...] = ()

    @property
    def reasons(self) -> dict[str, int]:
        return counted(self.rejected)


def divided(raw: Iterable[pl.DataFrame], facts: BatchFacts, buckets: Buckets) -> Iterator[Checked]:
    """A batch divided, piece by piece; of each person one row is accepted.

    In:     RAW_SCHEMA with the source's columns.
    Out:    ACCEPTED_SCHEMA with custom fields as each piece has them, no match_key in two of them.
    Raises: Misconfigured when the source's columns do not say where an address is (columns.mapped).
    """
    nobody = pl.DataFrame(schema=ACCEPTED_SCHEMA)
    notes: tuple[str, ...] | None = None
    for frame in raw:
        checked = validate(frame, facts)
        buckets.add(checked.accepted)
        yield Checked(accepted=nobody, rejected=checked.rejected, notes=checked.notes if notes is None else ())
        notes = checked.notes
    nothing = pl.DataFrame(schema=REJECTED_SCHEMA)
    for rows in buckets.merged():
        yield Checked(accepted=rows, rejected=nothing)


def validate(raw: pl.DataFrame, facts: BatchFacts) -> Checked:
    """Divide rows, each for itself.

    In:     RAW_SCHEMA with the source's columns.
    Out:    VALUES_SCHEMA with custom fields.
    Raises: Misconfigured when the source's columns do not say where an address is (columns.mapped).
    """
    names = [name.removeprefix(CELL) for name in raw.columns if name.startswith(CELL)]
    if not names:
        return _divided(raw.head(0), raw, ColumnMap(known={}, custom={}), facts)
    columns = mapped(names, facts.columns, place=facts.origin)
    readable = raw.filter(pl.col("problem").is_null())
    return _divided(_examined(readable, columns, facts), raw, columns, facts)


def _divided(rows: pl.DataFrame, raw: pl.DataFrame, columns: ColumnMap, facts: BatchFacts) -> Checked:
    if rows.is_empty():
        rows = rows.head(0).with_columns(_empty()).select(VALUES_SCHEMA.names() + ["field", "reason"])
    good = rows.filter(pl.col("reason").is_null())
    custom = sorted(name for name in rows.columns if name.startswith(FIELD))
    accepted = good.select(*VALUES_SCHEMA.names(), *custom)
    bad = rows.filter(pl.col("reason").is_not_null()).select("line", "field", "reason")
    texts = raw.join(bad.select("line"), on="line", how="semi").select("line", raw=raw_text(raw))
    bad = bad.join(texts, on="line", how="left")
    unread = raw.filter(pl.col("problem").is_not_null())
    unread = unread.select("line", field=pl.lit(None, pl.String), reason="problem", raw="raw")
    rejected = pl.concat([unread, bad]).sort("line").select(
        batch_id=pl.lit(facts.batch_id, pl.Int64), source=pl.lit(facts.source), line="line", field="field",
        reason="reason", raw=pl.col("raw").str.slice(0, RAW_TEXT_LIMIT + 8),
    )  # fmt: skip
    return Checked(accepted=accepted, rejected=rejected.match_to_schema(REJECTED_SCHEMA), notes=columns.notes)


def _empty() -> list[pl.Expr]:
    schema = {**VALUES_SCHEMA, "field": pl.String(), "reason": pl.String()}
    return [pl.lit(None, dtype).alias(name) for name, dtype in schema.items()]


def _examined(raw: pl.DataFrame, columns: ColumnMap, facts: BatchFacts) -> pl.DataFrame:
    """VALUES_SCHEMA, custom fields, and for what is wrong `field` and `reason`."""
    values = raw.select(
        "line",
        *(cells.clean(header).alias(field) for field, header in columns.known.items()),
        *(cells.clean(header).alias(FIELD + field) for field, header in columns.custom.items()),
    )
    missing = [name for name in _KNOWN if name not in values.columns]
    values = values.with_columns(pl.lit(None, pl.String).alias(name) for name in missing)
    values = values.with_columns(cells.given("email"), cells.given("phone"))
    values = values.hstack(addresses.examine(values["email"]))
    values = values.with_columns(cells.country(), cells.language(), cells.time_zone())
    values = values.with_columns(e164=phones.examine(values["phone"], values["country_code"]))
    rows = values.with_columns(_fault(values)).with_columns(_contact(values, facts))
    return _with_custom(rows, columns)


_KNOWN = ("email", "phone", "name", "first_name", "last_name", "language", "category", "country", "time_zone", "tags",
          "seen_at")  # fmt: skip


def _fault(values: pl.DataFrame) -> list[pl.Expr]:
    """field and reason of the first thing that refuses the row; both null when nothing does."""
    checks: list[tuple[pl.Expr, pl.Expr, pl.Expr]] = []
    for name in values.columns:
        if values[name].dtype == pl.String and (name in _KNOWN or name.startswith(FIELD)):
            long = pl.col(name).str.len_bytes() > MAX_VALUE
            checks.append((long, pl.lit(name.removeprefix(FIELD)), pl.lit("value_too_long")))
    checks.append((pl.col("verdict") == "invalid", pl.lit("email"), pl.col("verdict_reason")))
    reached = pl.col("address").is_not_null() | pl.col("e164").is_not_null()
    checks.append((~reached & pl.col("phone").is_not_null(), pl.lit("phone"), pl.lit("phone_syntax")))
    checks.append((~reached, pl.lit("email"), pl.lit("no_address")))
    hit = pl.coalesce(*(pl.when(condition).then(index) for index, (condition, _, _) in enumerate(checks)))
    field, reason = pl.lit(None, pl.String), pl.lit(None, pl.String)
    for index, (_, where, why) in enumerate(checks):
        field = pl.when(hit == index).then(where).otherwise(field)
        reason = pl.when(hit == index).then(why).otherwise(reason)
    return [field.alias("field"), reason.alias("reason")]


def _contact(values: pl.DataFrame, facts: BatchFacts) -> list[pl.Expr]:
    """The columns of VALUES_SCHEMA."""
    both = pl.concat_str(pl.col("first_name"), pl.col("last_name"), separator=" ", ignore_nulls=True)
    whole = pl.when(both != "").then(both)
    seen = cells.time(pl.col("seen_at"))
    limit = pl.lit(facts.seen_at).cast(pl.Datetime("us", "UTC"))
    return [
        pl.coalesce("address_key", "e164").alias("match_key"),
        pl.col("address").alias("email"),
        pl.col("e164").alias("phone"),
        pl.coalesce("name", whole, "display_name").alias("name"),
        pl.col("language_code").alias("language"),
        pl.col("category"),
        pl.col("country_code").alias("country"),
        pl.col("zone").alias("time_zone"),
        cells.tags(facts.tags).alias("tags"),
        pl.col("verdict").fill_null("valid"),
        pl.col("verdict_reason"),
        # a time in the future would win against everything for ever
        pl.min_horizontal(seen.fill_null(limit), limit).alias("seen_at"),
        *(_as_given(field, found) for field, found in _AS_GIVEN.items()),
        _as_given("seen_at", seen),
    ]


_AS_GIVEN: dict[str, pl.Expr] = {
    "language": pl.col("language_code"),
    "country": pl.col("country_code"),
    "time_zone": pl.col("zone"),
    "phone": pl.col("e164"),
}


def _as_given(field: str, found: pl.Expr) -> pl.Expr:
    return pl.when(found.is_null()).then(pl.col(field)).alias(f"{FIELD}{field}_as_given")


def _with_custom(rows: pl.DataFrame, columns: ColumnMap) -> pl.DataFrame:
    """Custom fields beside the contact; a column that is empty throughout is left out."""
    for part in ("first_name", "last_name"):
        if part in columns.known:
            rows = rows.with_columns(pl.col(part).alias(FIELD + part))
    empty = [name for name in rows.columns if name.startswith(FIELD) and rows[name].null_count() == rows.height]
    return rows.drop(empty)


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
