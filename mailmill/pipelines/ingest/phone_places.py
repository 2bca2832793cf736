"""What an E.164 number says about where it is: its country calling code, and its time zone where there is only one."""

from __future__ import annotations

from functools import cache

import polars as pl


def calling_code(phone: pl.Expr) -> pl.Expr:
    """'+49' of '+4930123456', null without a number or for a code nobody has.

    Source: ITU-T E.164; calling codes are prefix-free.
    """
    return phone.str.extract(_codes())


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
def _zones() -> list[tuple[int, dict[str, str]]]:
    """Length of the prefix -> prefix -> zone, the longest first."""
    from phonenumbers.tzdata import TIMEZONE_DATA

    by_length: dict[int, dict[str, str]] = {}
    for prefix, zones in TIMEZONE_DATA.items():
        by_length.setdefault(len(prefix), {})[prefix] = zones[0] if len(zones) == 1 else ""
    return sorted(by_length.items(), reverse=True)
