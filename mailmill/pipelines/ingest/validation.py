"""Raw rows of one batch -> accepted rows and rejected rows. Every row is in exactly one of the two.

A row is refused for what it is reached by: a wrong address, no address at all, an impossible phone number without an
address. A language, country, time zone or phone number that cannot be read does not cost the contact: the value stays
as the custom field `<field>_as_given`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

import polars as pl

from mailmill.pipelines.configuration.specs import FieldSpec
from mailmill.pipelines.ingest import cells, fields
from mailmill.pipelines.ingest.ahead import ahead, prefetched
from mailmill.pipelines.ingest.columns import ColumnMap, mapped
from mailmill.pipelines.ingest.duplicates import COPIES_SCHEMA, Buckets
from mailmill.pipelines.ingest.raw import CELL, few, raw_text
from mailmill.pipelines.ingest.rejects import MAX_VALUE, RAW_TEXT_LIMIT, REJECTED_SCHEMA, counted
from mailmill.pipelines.ingest.values import KNOWN, values_of

FIELD = fields.FIELD  # begins the column of a custom field
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

NAMED_SCHEMA = pl.Schema({"line": pl.Int64(), "address_key": pl.String(), "phone": pl.String()})
_FAULTS_SCHEMA = pl.Schema({"line": pl.Int64(), "field": pl.String(), "reason": pl.String()})


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFacts:
    """What validation has to know about a batch and its source."""

    batch_id: int
    source: str
    seen_at: datetime
    columns: Mapping[str, str]
    tags: tuple[str, ...] = ()
    country: str | None = None  # of rows that name none
    origin: str = ""
    fields: tuple[FieldSpec, ...] = ()  # the tenant's custom fields with a type
    sparse: bool = False  # each row names the fields it has, as the items of an API do


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """Rows divided: ACCEPTED_SCHEMA or, before duplicates are merged, VALUES_SCHEMA; and REJECTED_SCHEMA."""

    accepted: pl.DataFrame
    rejected: pl.DataFrame
    named: pl.DataFrame = field(default_factory=NAMED_SCHEMA.to_frame)  # whom rejected rows could be read to name
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
    for checked in ahead(lambda frame: validate(frame, facts), prefetched(raw)):
        buckets.add(checked.accepted)
        yield replace(checked, accepted=nobody, notes=checked.notes if notes is None else ())
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
    nobody, nothing = pl.DataFrame(schema=VALUES_SCHEMA), pl.DataFrame(schema=_FAULTS_SCHEMA)
    if not names:  # an API's items may have no field at all
        bare = raw.filter(pl.col("problem").is_null())
        bare = bare.select("line", field=pl.lit("email"), reason=pl.lit("no_address"))
        return Checked(accepted=nobody, rejected=_rejected(raw, bare, facts))
    columns = mapped(names, facts.columns, place=facts.origin, few=facts.sparse and few(raw))
    readable = raw.filter(pl.col("problem").is_null()) if raw["problem"].null_count() < raw.height else raw
    if readable.is_empty():
        return Checked(accepted=nobody, rejected=_rejected(raw, nothing, facts), notes=columns.notes)
    values = values_of(readable, columns, facts.country)
    wrong = values.select(_wrong(values)).to_series()
    accepted, faults = values, nothing
    if wrong.any():
        bad = values.filter(wrong)
        accepted, faults = values.filter(~wrong), bad.select("line", *_fault(bad))
    if facts.fields:
        accepted, misfits = fields.typed(accepted, facts.fields)
        faults = pl.concat([faults, misfits])
    contacts = accepted.select(*_contact(accepted, columns, facts), *_custom(columns))
    empty = [
        name for name in contacts.columns if name.startswith(FIELD) and contacts[name].null_count() == len(accepted)
    ]
    rejected = _rejected(raw, faults, facts)
    named = values.filter(pl.col("line").is_in(faults["line"].implode())).select("line", "address_key", phone="e164")
    return Checked(accepted=contacts.drop(empty), rejected=rejected, named=named, notes=columns.notes)


def match_keys(raw: pl.DataFrame, facts: BatchFacts) -> pl.Series:
    """Whom each row names by its address or number, whatever else is wrong with it; null where it names nobody.

    In, Raises: as validate; rows that could not be read have no cells.
    """
    names = [name.removeprefix(CELL) for name in raw.columns if name.startswith(CELL)]
    if not names or raw.is_empty():
        return pl.Series("match_key", [None] * raw.height, dtype=pl.String)
    known = mapped(names, facts.columns, place=facts.origin, few=facts.sparse and few(raw)).known
    reached = {field: header for field, header in known.items() if field in ("email", "phone", "country")}
    values = values_of(raw, ColumnMap(known=reached, custom={}), facts.country)
    return values.select(match_key=pl.coalesce("address_key", "e164")).to_series()


def _rejected(raw: pl.DataFrame, faults: pl.DataFrame, facts: BatchFacts) -> pl.DataFrame:
    """REJECTED_SCHEMA of what could not be read and of what is wrong, in order of the lines. In: _FAULTS_SCHEMA."""
    unread = raw.filter(pl.col("problem").is_not_null()).select("line", "raw", reason="problem")
    texts = raw.filter(pl.col("line").is_in(faults["line"].implode())).select("line", raw=raw_text(raw))
    bad = texts.join(faults, on="line", how="left")
    return pl.concat([unread, bad], how="diagonal").sort("line").select(
        batch_id=pl.lit(facts.batch_id, pl.Int64), source=pl.lit(facts.source), line="line", field="field",
        reason="reason", raw=pl.col("raw").str.slice(0, RAW_TEXT_LIMIT + 8),
    ).match_to_schema(REJECTED_SCHEMA)  # fmt: skip


def _written(values: pl.DataFrame) -> list[str]:
    """The columns of what a person wrote."""
    return [name for name in values.columns if name in KNOWN or name.startswith(FIELD)]


def _unreached() -> pl.Expr:
    return pl.col("address").is_null() & pl.col("e164").is_null()


def _wrong(values: pl.DataFrame) -> pl.Expr:
    """Whether anything refuses the row."""
    long = pl.any_horizontal(pl.col(name).str.len_bytes() > MAX_VALUE for name in _written(values))
    return long.fill_null(False) | (pl.col("verdict") == "invalid").fill_null(False) | _unreached()


def _fault(values: pl.DataFrame) -> list[pl.Expr]:
    """field and reason of the first thing that refuses the row."""
    checks: list[tuple[pl.Expr, pl.Expr, pl.Expr]] = []
    for name in _written(values):
        long = pl.col(name).str.len_bytes() > MAX_VALUE
        checks.append((long, pl.lit(name.removeprefix(FIELD)), pl.lit("value_too_long")))
    checks.append((pl.col("verdict") == "invalid", pl.lit("email"), pl.col("verdict_reason")))
    checks.append((_unreached() & pl.col("phone").is_not_null(), pl.lit("phone"), pl.lit("phone_syntax")))
    checks.append((_unreached(), pl.lit("email"), pl.lit("no_address")))
    return [
        pl.coalesce(pl.when(check).then(where) for check, where, _ in checks).alias("field"),
        pl.coalesce(pl.when(check).then(why) for check, _, why in checks).alias("reason"),
    ]


def _contact(values: pl.DataFrame, columns: ColumnMap, facts: BatchFacts) -> list[pl.Expr]:
    """The columns of VALUES_SCHEMA."""
    both = pl.concat_str(pl.col("first_name"), pl.col("last_name"), separator=" ", ignore_nulls=True)
    whole = pl.when(both != "").then(both)
    limit = pl.lit(facts.seen_at).cast(pl.Datetime("us", "UTC"))
    always = pl.lit(sorted(set(facts.tags)), dtype=pl.List(pl.String))
    return [
        pl.col("line"),
        pl.coalesce("address_key", "e164").alias("match_key"),
        pl.col("address").alias("email"),
        pl.col("e164").alias("phone"),
        pl.coalesce("name", *([whole] if columns.known.keys() & {"first_name", "last_name"} else []), "display_name")
        .alias("name"),
        pl.col("language_code").alias("language"),
        pl.col("category"),
        # a number says itself where it is: +1 416 on an American list is Canadian
        pl.coalesce("country_code", pl.when(pl.col("e164").is_null()).then(pl.lit(facts.country, pl.String)))
        .alias("country"),
        pl.col("zone").alias("time_zone"),
        (cells.tags(facts.tags) if "tags" in columns.known else always).alias("tags"),
        pl.col("verdict").fill_null("valid"),
        pl.col("verdict_reason"),
        # a time in the future would win against everything for ever
        pl.min_horizontal(pl.col("time").fill_null(limit), limit).alias("seen_at"),
    ]  # fmt: skip


_FOUND = {
    "language": "language_code",
    "country": "country_code",
    "time_zone": "zone",
    "phone": "e164",
    "seen_at": "time",
}


def _custom(columns: ColumnMap) -> list[pl.Expr]:
    """Custom fields: the source's own, the parts of a name, and what could not be read, as it was given.

    A source may have a column of that very name, as who reads contacts back has: then the field has what both say.
    """
    said = {name: pl.col(FIELD + name) for name in columns.custom}
    said |= {part: pl.col(part) for part in ("first_name", "last_name") if part in columns.known}
    for known, found in _FOUND.items():
        if known in columns.known:
            name, unread = f"{known}_as_given", pl.when(pl.col(found).is_null()).then(pl.col(known))
            said[name] = _both(unread, said[name]) if name in said else unread
    return [value.alias(FIELD + name) for name, value in sorted(said.items())]


def _both(one: pl.Expr, other: pl.Expr) -> pl.Expr:
    differ = one.is_not_null() & other.is_not_null() & (one != other)
    return pl.when(differ).then(pl.concat_str(one, other, separator="; ")).otherwise(pl.coalesce(one, other))
