"""What an E.164 number says about where it is: its country calling code, and its time zone where there is only one."""

from __future__ import annotations

from functools import cache

import polars as pl


def calling_code(phone: pl.Expr) -> pl.Expr:
    """'+49' of '+4930123456', null without a number or for a code nobody has.

    Source: ITU-T E.164; calling codes are prefix-free.
    """
    return phone.str.extract(_codes())


def country(phone: pl.Expr) -> pl.Expr:
    """The country of a number, ISO 3166-1 alpha-2; null for a code of no country.

    Countries that share a calling code are told apart where they are large: those of +1 by the area code, Kazakhstan
    from Russia. Else it is the largest of them (a number of Jersey counts as British).
    """
    area = phone.str.slice(0, 5).replace_strict(_areas(), default=None, return_dtype=pl.String)
    code = calling_code(phone).replace_strict(_countries(), default=None, return_dtype=pl.String)
    kazakh = phone.str.contains(r"^\+7[67]")
    by_code = pl.when(kazakh).then(pl.lit("KZ")).otherwise(code)
    return pl.when(phone.str.starts_with("+1")).then(area).otherwise(by_code)


def zone(phone: pl.Expr) -> pl.Expr:
    """The time zone of a number, null where its prefix is in use in several.

    In:     E.164.
    Source: libphonenumber's map of prefixes; the longest prefix that it knows decides.
    """
    # '' stands for several zones, and keeps a shorter prefix from answering
    found = [phone.str.slice(1, length).replace_strict(known, default=None) for length, known in _zones()]
    first = pl.coalesce(found)
    return pl.when(first != "").then(first)


@cache
def _codes() -> str:
    from phonenumbers import COUNTRY_CODE_TO_REGION_CODE  # its tables take a while to load

    return rf"^(\+(?:{'|'.join(map(str, sorted(COUNTRY_CODE_TO_REGION_CODE)))}))"


@cache
def _countries() -> dict[str, str]:
    from phonenumbers import COUNTRY_CODE_TO_REGION_CODE

    return {f"+{code}": regions[0] for code, regions in COUNTRY_CODE_TO_REGION_CODE.items() if regions[0] != "001"}


@cache
def _areas() -> dict[str, str]:
    """'+1415' -> US: the country of each area code of the North American plan, by a number that it may have."""
    from phonenumbers import parse, region_code_for_number

    found = {f"+1{area}": region_code_for_number(parse(f"+1{area}2345678")) for area in range(200, 1000)}
    return {prefix: region for prefix, region in found.items() if region}


@cache
def _zones() -> list[tuple[int, dict[str, str]]]:
    """Length of the prefix -> prefix -> zone, the longest first."""
    from phonenumbers.tzdata import TIMEZONE_DATA

    by_length: dict[int, dict[str, str]] = {}
    for prefix, zones in TIMEZONE_DATA.items():
        by_length.setdefault(len(prefix), {})[prefix] = zones[0] if len(zones) == 1 else ""
    return sorted(by_length.items(), reverse=True)
