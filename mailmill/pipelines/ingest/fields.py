"""Custom fields with types: a value that fits is written in one form, one that does not rejects its row. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from mailmill.pipelines.configuration.specs import FieldSpec

FIELD = "fields."  # begins the column of a custom field
REASON = "field_type"
_TRUE = ("true", "yes", "y", "t", "1", "on", "ja", "wahr", "oui", "si", "sí", "x")
_FALSE = ("false", "no", "n", "f", "0", "off", "nein", "falsch", "non")


def typed(rows: pl.DataFrame, specs: Sequence[FieldSpec]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows whose typed fields fit, in their one form, and the others.

    In:  rows with `line` and String columns `fields.<name>`; a null fits every type.
    Out: the rows that stay; line, field and reason of the first misfit of each row that does not.
    """
    of = {FIELD + spec.slug: spec for spec in specs if FIELD + spec.slug in rows.columns and spec.type != "text"}
    nothing = pl.DataFrame(schema={"line": pl.Int64, "field": pl.String, "reason": pl.String})
    if not of:
        return rows, nothing
    found = rows.select(_read(pl.col(name), spec).alias(name) for name, spec in of.items())
    misfit = pl.DataFrame({name: rows[name].is_not_null() & found[name].is_null() for name in of})
    wrong = misfit.select(pl.any_horizontal(pl.all())).to_series()
    rows = rows.with_columns(found)
    if not wrong.any():
        return rows, nothing
    where = pl.coalesce(pl.when(pl.col(name)).then(pl.lit(spec.slug)) for name, spec in of.items())
    faults = misfit.select(line=rows["line"], field=where, reason=pl.lit(REASON)).filter(wrong)
    return rows.filter(~wrong), faults


def _read(text: pl.Expr, spec: FieldSpec) -> pl.Expr:
    """The value in its one form, null where it does not fit."""
    match spec.type:
        case "number":
            return number(text)
        case "date":
            return date(text)
        case "boolean":
            words = dict.fromkeys(_TRUE, "true") | dict.fromkeys(_FALSE, "false")
            return text.str.to_lowercase().replace_strict(words, default=None, return_dtype=pl.String)
        case "choice":
            values = {value.lower(): value for value in spec.values}
            return text.str.to_lowercase().replace_strict(values, default=None, return_dtype=pl.String)
    return text


def number(text: pl.Expr) -> pl.Expr:
    """`1234.5` of 1234.50, 1,234.50, 1.234,50 and 1 234,5. A single comma before three digits separates thousands,
    but for 0,001."""
    bare = text.str.replace_all("[\u0020\u00a0\u202f']", "")
    commas = bare.str.contains(r"^[+-]?[1-9][0-9]{0,2}(,[0-9]{3})+(\.[0-9]+)?$")
    points = bare.str.contains(
        r"^[+-]?[0-9]{1,3}(\.[0-9]{3})+,[0-9]+$|^[+-]?[0-9]{1,3}(\.[0-9]{3}){2,}$|^[+-]?[0-9]+,[0-9]+$"
    )
    plain = (
        pl.when(commas).then(bare.str.replace_all(",", "", literal=True))
        .when(points).then(bare.str.replace_all(".", "", literal=True).str.replace(",", ".", literal=True))
        .otherwise(bare)
    )  # fmt: skip
    fits = plain.str.contains(r"^[+-]?[0-9]+(\.[0-9]+)?$")
    short = plain.str.strip_prefix("+").str.replace(r"^(-?)0+(\d)", "${1}${2}")
    short = pl.when(short.str.contains(".", literal=True)).then(
        short.str.strip_chars_end("0").str.strip_suffix(".")
    ).otherwise(short)  # fmt: skip
    return pl.when(fits).then(pl.when(short == "-0").then(pl.lit("0")).otherwise(short))


def date(text: pl.Expr) -> pl.Expr:
    """`2026-05-02` of 2026-05-02 (with or without a time), 2026/5/2 and 2.5.2026. With slashes the year comes first:
    what 5/2/2026 means depends on who wrote it. The year has four digits: 2.5.26 is none."""
    iso = text.str.extract("^([0-9]{4}[-/][0-9]{1,2}[-/][0-9]{1,2})(?:[T ].*)?$").str.replace_all(
        "/", "-", literal=True
    )
    other = text.str.replace_all(" ", "", literal=True).str.extract(r"^([0-9]{1,2}\.[0-9]{1,2}\.[0-9]{4})$")
    read = pl.coalesce(iso.str.to_date("%Y-%m-%d", strict=False), other.str.to_date("%d.%m.%Y", strict=False))
    return pl.when(read.dt.year() > 0).then(read.dt.strftime("%Y-%m-%d"))
