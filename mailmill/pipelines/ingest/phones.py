"""Phone numbers as people type them -> E.164. One call of `phonenumbers` for each distinct number and country."""

from __future__ import annotations

import polars as pl

SHORTEST = 8  # characters of a number that can be reached from abroad, with its +


def examine(typed: pl.Series, region: pl.Series) -> pl.Series:
    """E.164, null where nothing was typed or the number is impossible.

    In:     typed as the source has it; region, ISO 3166-1 alpha-2 or null, is where a number without + belongs.
    Out:    String, one value an element in the same order.
    Source: ITU-T E.164; the lengths possible in each country are those of libphonenumber.
    """
    pairs = pl.DataFrame({"typed": typed, "region": region}, schema={"typed": pl.String, "region": pl.String})
    distinct = pairs.filter(pl.col("typed") != "").unique()
    if distinct.is_empty():
        return pl.Series(typed.name, [None] * len(typed), dtype=pl.String)
    found = distinct.with_columns(phone=pl.Series([_e164(*row) for row in distinct.iter_rows()], dtype=pl.String))
    return pairs.join(found, on=["typed", "region"], how="left", nulls_equal=True, maintain_order="left")["phone"]


def _e164(typed: str, region: str | None) -> str | None:
    import phonenumbers  # its tables take a while to load, and most batches have no phone at all

    try:
        number = phonenumbers.parse(typed.removeprefix("tel:"), region)
    except phonenumbers.NumberParseException:
        return None
    text = str(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164))
    # libphonenumber holds +49 12 for possible, since such numbers exist inside a country
    return text if phonenumbers.is_possible_number(number) and len(text) >= SHORTEST else None
