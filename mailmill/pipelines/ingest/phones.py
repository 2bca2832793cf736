"""Phone numbers as people type them -> E.164.

Numbers of known plans (+1 and ten digits above all) are examined all at once. What else is typed costs one call of
`phonenumbers` for each distinct number and country.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import polars as pl

SHORTEST = 8  # characters of a number that can be reached from abroad, with its +


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A numbering plan: how many digits a number has after the calling code, and what is dialled before it at home."""

    code: int
    lengths: tuple[int, ...]
    first: str = "[1-9]"  # what a number may begin with to be taken without a closer look
    trunk: bool = False  # '0' at home


# A test compares them with libphonenumber. Countries that need a closer look (Italy, Luxembourg …) are not here.
PLANS: dict[str, Plan] = {
    "US": Plan(code=1, lengths=(10,), first="[2-9]"),
    "CA": Plan(code=1, lengths=(10,), first="[2-9]"),
    "DE": Plan(code=49, lengths=(7, 8, 9, 10, 11, 12, 13), trunk=True),
    "AT": Plan(code=43, lengths=(7, 8, 9, 10, 11, 12, 13), trunk=True),
    "CH": Plan(code=41, lengths=(9,), trunk=True),
    "FR": Plan(code=33, lengths=(9,), trunk=True),
    "GB": Plan(code=44, lengths=(9, 10), trunk=True),
    "NL": Plan(code=31, lengths=(9,), trunk=True),
    "BE": Plan(code=32, lengths=(8, 9), trunk=True),
    "SE": Plan(code=46, lengths=(7, 8, 9), trunk=True),
    "FI": Plan(code=358, lengths=(7, 8, 9, 10), trunk=True),
    "IE": Plan(code=353, lengths=(7, 8, 9), trunk=True),
    "RO": Plan(code=40, lengths=(9,), trunk=True),
    "SK": Plan(code=421, lengths=(9,), trunk=True),
    "SI": Plan(code=386, lengths=(8,), trunk=True),
    "HR": Plan(code=385, lengths=(8, 9), trunk=True),
    "BG": Plan(code=359, lengths=(7, 8, 9), trunk=True),
    "ES": Plan(code=34, lengths=(9,), first="[5-9]"),
    "PT": Plan(code=351, lengths=(9,), first="[2-9]"),
    "DK": Plan(code=45, lengths=(8,), first="[2-9]"),
    "NO": Plan(code=47, lengths=(8,), first="[2-9]"),
    "PL": Plan(code=48, lengths=(9,)),
    "CZ": Plan(code=420, lengths=(9,), first="[2-9]"),
    "GR": Plan(code=30, lengths=(10,), first="[2-9]"),
    "LV": Plan(code=371, lengths=(8,), first="[2-9]"),
}
_RELAYED = "+44180020"  # a British prefix that is no part of a number
_DIALLED = r"^\s*(?:tel:\s*)?\(?00\)?[ \x{a0}./-]*([1-9])"  # 00 for +, as most of the world dials (ITU-T E.123)
_BETWEEN = "[ \u00a0().\\-/]"  # what people put between the digits
_FRACTION = r"^(\+?[0-9]{6,})\.0+$"  # 2025550123.0: what programs make of a column of numbers with a gap in it
# 01 5337031 / 0664 1234567: together they would be a number of nobody's; 0621 1234567/0 is one with its extension
_SEVERAL = r"(?:[0-9][^0-9/]*){6,}/\s*[0+](?:[^0-9/]*[0-9]){5}"


def examine(typed: pl.Series, region: pl.Series) -> pl.Series:
    """E.164, null where nothing was typed or the number is impossible.

    In:     typed as the source has it; region, ISO 3166-1 alpha-2 or null, is where a number without + belongs.
    Out:    String, one value an element in the same order.
    Source: ITU-T E.164; the lengths possible in each country are those of libphonenumber.
    """
    pairs = pl.DataFrame({"typed": typed, "region": region}, schema={"typed": pl.String, "region": pl.String})
    if pairs["typed"].null_count() == pairs.height:
        return pl.Series(typed.name, [None] * len(typed), dtype=pl.String)
    pairs = pairs.with_columns(pl.col("typed").str.replace(_FRACTION, "$1"))
    if pairs["region"].null_count():
        abroad = pl.col("typed").str.replace(_DIALLED, "+$1")
        pairs = pairs.with_columns(pl.when(pl.col("region").is_null()).then(abroad).otherwise("typed"))
    bare = pl.col("typed").str.replace(r"^tel:", "").str.replace_all(_BETWEEN, "")
    several = pl.col("typed").str.contains(_SEVERAL)
    pairs = pairs.with_columns(bare=bare).with_columns(phone=pl.when(~several).then(_planned()))
    # without a + and without a country nobody can say whose number it is
    hopeless = pl.col("region").is_null() & ~pl.col("typed").str.contains("[+\uff0b]")
    rest = pairs.filter(pl.col("phone").is_null() & (pl.col("typed") != "") & ~hopeless & ~several)
    if rest.is_empty():
        return pairs["phone"].alias(typed.name)
    distinct = rest.select("typed", "region").unique()
    found = distinct.with_columns(looked_up=pl.Series([_e164(*row) for row in distinct.iter_rows()], dtype=pl.String))
    pairs = pairs.join(found, on=["typed", "region"], how="left", nulls_equal=True, maintain_order="left")
    return pairs.select(pl.coalesce("phone", "looked_up")).to_series().alias(typed.name)


def _planned() -> pl.Expr:
    """The number where a plan decides, from `bare` and `region`; null where it needs a closer look."""
    bare, region = pl.col("bare"), pl.col("region")
    facts = {name: plan.code for name, plan in PLANS.items()}
    code = region.replace_strict(facts, default=None, return_dtype=pl.Int64)
    at_home = [name for name, plan in PLANS.items() if plan.trunk]
    trunk = region.is_in(at_home)
    number = pl.when(trunk).then(bare.str.strip_prefix("0")).otherwise(
        pl.when(code == 1).then(bare.str.replace(r"^1([2-9]\d{9})$", "$1")).otherwise(bare)
    )  # fmt: skip
    whole = pl.lit("+") + code.cast(pl.String) + number
    shaped = pl.when(trunk).then(bare.str.contains(r"^0[1-9]\d+$")).otherwise(bare.str.contains(r"^[1-9]\d+$"))
    # digits that begin with the calling code may be a number with its + left out
    ambiguous = ~trunk & (code != 1) & bare.str.starts_with(code.cast(pl.String))
    candidate = pl.when(bare.str.starts_with("+")).then(bare).when(shaped & ~ambiguous).then(whole)
    return pl.when(candidate.str.contains(_international()) & ~candidate.str.starts_with(_RELAYED)).then(candidate)


@cache
def _international() -> str:
    """What is a number of one of the plans, with its calling code."""
    ways = {
        rf"{plan.code}{plan.first}(?:{'|'.join(rf'[0-9]{{{n - 1}}}' for n in plan.lengths)})" for plan in PLANS.values()
    }
    return rf"^\+(?:{'|'.join(sorted(ways))})$"


def _e164(typed: str, region: str | None) -> str | None:
    import phonenumbers  # its tables take a while to load, and most batches have no phone at all

    try:
        number = phonenumbers.parse(typed.removeprefix("tel:"), region)
    except phonenumbers.NumberParseException:
        return None
    digits = phonenumbers.normalize_digits_only(typed)
    # 4915112345678 in Germany: the library takes it for a number of the area 04915, but it is a mobile's without its +
    if digits == str(number.national_number) and digits.startswith(str(number.country_code)):
        abroad = phonenumbers.parse("+" + digits)
        mobile = phonenumbers.number_type(abroad) == phonenumbers.PhoneNumberType.MOBILE
        number = abroad if mobile else number
    text = str(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164))
    # a number that can only be dialled within its town is none; +49 12 is possible by its length, and nobody's
    possible = phonenumbers.is_possible_number_with_reason(number) == phonenumbers.ValidationResult.IS_POSSIBLE
    # nor has an area of the North American plan a code that begins with 0 or 1, which the library does not mind
    possible = possible and not text.startswith(("+10", "+11"))
    return text if possible and len(text) >= SHORTEST else None
