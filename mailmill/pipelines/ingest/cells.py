"""What a cell says: text without control characters, a country, a language, a time zone, a time, tags.

Each is an expression over columns of text; what cannot be read is null.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from zoneinfo import available_timezones

import polars as pl

from mailmill.pipelines.ingest.wordlists import countries, languages

_NOTHING = ("", "-", "--", "n/a", "na", "none", "null", "nil", "k.a.", "unknown", "#n/a")
_APART = r"[^\p{L}\p{M}\p{N}][^\p{L}\p{N}]*|^\p{M}+"  # between a tag's words; a mark belongs to the letter before it
_CONTROL = "[\u0000-\u001f\u007f\u0085\u2028\u2029]+"


def clean(cell: pl.Series) -> pl.Series:
    """Without control characters (each run of them becomes a space) and outer space; null when empty."""
    # most columns of a chunk hold none: that shows at once in all of their text, and costs a tenth of a look at each
    if cell.str.join("").str.contains(_CONTROL).item():
        cell = cell.str.replace_all(_CONTROL, " ")
    text = cell.str.strip_chars()
    return text.set(text == "", None)


def given(field: str) -> pl.Expr:
    """Null for what people write to say that there is nothing."""
    return pl.when(~pl.col(field).str.to_lowercase().is_in(list(_NOTHING))).then(field).alias(field)


def _word(field: str, known: Mapping[str, str], typed: pl.Expr) -> pl.Expr:
    return typed.str.to_lowercase().replace_strict(known, default=None, return_dtype=pl.String).alias(field)


def country() -> pl.Expr:
    return _word("country_code", countries(), pl.col("country"))


def language() -> pl.Expr:
    """'de', 'German', 'de-AT' and 'de_AT.UTF-8' are all de."""
    first = pl.col("language").str.extract(r"^([A-Za-z]{2,3})(?:[-_].*)?$")
    return _word("language_code", languages(), pl.coalesce(first, "language"))


@cache
def _zones() -> dict[str, str]:
    return {name.lower(): name for name in available_timezones()}


def time_zone() -> pl.Expr:
    return _word("zone", _zones(), pl.col("time_zone"))


def time(text: pl.Series) -> pl.Series:
    """ISO 8601 with or without time and offset (UTC when it says none); null for anything else, and up to 1970-01-01,
    where lie the times by which programs say that they know none: 0001-01-01, 1900-01-01, and the Unix epoch itself."""
    day = text.str.len_bytes() == 10
    seen = text.str.to_datetime("%Y-%m-%d", time_unit="us", time_zone="UTC", strict=False).set(~day, None)
    if not day.all():
        seen = pl.select(pl.coalesce(seen, _moment(pl.lit(text)))).to_series()
    return seen.set(seen.dt.epoch("us") <= 0, None)


_MOMENT = r"^(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d)(:\d\d(?:\.\d+)?)? ?(?:[Zz]|UTC|([+-]\d\d)(?::?(\d\d))?)?$"


def _moment(text: pl.Expr) -> pl.Expr:
    day, clock, seconds, hours, minutes = (text.str.extract(_MOMENT, group) for group in range(1, 6))
    offset = hours.fill_null("+00") + minutes.fill_null("00")
    whole = day + "T" + clock + seconds.fill_null(":00") + offset
    return whole.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%z", time_unit="us", strict=False)


def tags(source_tags: tuple[str, ...]) -> pl.Expr:
    """The row's tags as slugs, with those of the source."""
    words = pl.col("tags").str.split(",").list.eval(_slug(pl.element())).list.drop_nulls()
    words = pl.when(pl.col("tags").str.contains(r"[;|]|:::")).then(
        pl.col("tags").str.replace_all(r"[;|]|:::", ",").str.split(",").list.eval(_slug(pl.element())).list.drop_nulls()
    ).otherwise(words)  # fmt: skip
    always = pl.lit(list(source_tags), dtype=pl.List(pl.String))
    return pl.concat_list(words.fill_null(pl.lit([], dtype=pl.List(pl.String))), always).list.unique().list.sort()


def _slug(word: pl.Expr) -> pl.Expr:
    """As words.tag_slug, which a test compares it with."""
    text = word.str.to_lowercase().str.normalize("NFC")
    slug = text.str.replace_all(_APART, "-").str.strip_chars("-").str.slice(0, 63).str.strip_chars_end("-")
    return pl.when(slug != "").then(slug)
