"""Phone numbers: known plans all at once, the rest by libphonenumber; both say the same."""

from __future__ import annotations

import re

import phonenumbers
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailmill.pipelines.ingest import phone_places, phones
from mailmill.pipelines.ingest.phones import PLANS, examine


def one(typed: str | None, region: str | None = None) -> str | None:
    return examine(pl.Series([typed], dtype=pl.String), pl.Series([region], dtype=pl.String))[0]


@pytest.mark.parametrize(
    ("typed", "region", "number"),
    [
        ("+12025550123", None, "+12025550123"),
        ("+1 (202) 555-0123", None, "+12025550123"),
        ("2025550123", "US", "+12025550123"),
        ("5551234567", "US", "+15551234567"),
        ("1-416-555-0123", "CA", "+14165550123"),
        ("416.555.0123", "CA", "+14165550123"),
        ("2025550123", None, None),
        ("5551234", "US", None),  # can be dialled in its town only
        ("+1202555012", None, None),
        ("1125550123", "US", None),  # no area code begins with 0 or 1
        ("+1 112 555 0123", None, None),
        ("0043 660 1234567", None, "+436601234567"),  # 00 is a + nearly everywhere that has no country
        ("(00) 43 660 1234567", None, "+436601234567"),
        ("tel:0043 660 1234567", None, "+436601234567"),
        ("030 1234567", "DE", "+49301234567"),
        ("+49 (0)30 1234567", None, "+49301234567"),
        ("0049 30 1234567", "DE", "+49301234567"),
        ("07911 123456", "GB", "+447911123456"),
        ("01 23 45 67 89", "FR", "+33123456789"),
        ("612 345 678", "ES", "+34612345678"),
        ("06 1234 5678", "IT", "+390612345678"),
        ("2025550123.0", "US", "+12025550123"),  # a column of numbers with gaps, as programs write it
        ("436601234567.0", "AT", "+436601234567"),
        ("+12025550123.0", None, "+12025550123"),
        ("4.91511E+11", "DE", None),
        ("4915112345678", "DE", "+4915112345678"),  # a mobile number whose + was left out
        ("04915 112345678", "DE", "+494915112345678"),
        ("49151234567", "DE", "+4949151234567"),  # too short for one: a number of Leer's, 0491
        ("01 5337031 / 0664 1234567", "AT", None),
        ("030 12345/040 12345", "DE", None),
        ("030123/040123", "DE", None),
        ("0621 1234567/0", "DE", "+4962112345670"),
        ("030/1234567", "DE", "+49301234567"),
        ("12", "DE", None),
        ("call me", "DE", None),
        ("", "DE", None),
        (None, "DE", None),
        ("tel:+49-30-1234567", None, "+49301234567"),
    ],
)
def test_a_number_is_read_by_its_country(typed, region, number):
    assert one(typed, region) == number


def by_library(typed: str, region: str | None) -> str | None:
    return phones._e164(re.sub(r"^00([1-9])", r"+\1", typed) if region is None else typed, region)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["+", "", "0", "1", "+ ", "00"]),
            st.sampled_from([*(str(plan.code) for plan in PLANS.values()), "", ""]),
            st.from_regex(r"\A[0-9]{3,14}\Z"),
            st.sampled_from([*PLANS, None]),
        ),
        max_size=60,
    )
)
def test_the_plans_say_what_libphonenumber_says(parts):
    typed = [sign + code + number for sign, code, number, _ in parts]
    regions = [region for *_, region in parts]
    found = examine(pl.Series(typed, dtype=pl.String), pl.Series(regions, dtype=pl.String)).to_list()
    assert found == [by_library(*pair) for pair in zip(typed, regions, strict=True)]


@pytest.mark.parametrize("region", PLANS)
def test_a_plan_takes_the_examples_of_its_country(region, monkeypatch):
    """At once and not by the library: most numbers of a country must not need a closer look."""
    monkeypatch.setattr(phones, "_e164", lambda typed, region: "by the library")
    kinds = (phonenumbers.PhoneNumberType.MOBILE, phonenumbers.PhoneNumberType.FIXED_LINE)
    for kind in kinds:
        example = phonenumbers.example_number_for_type(region, kind)
        whole = phonenumbers.format_number(example, phonenumbers.PhoneNumberFormat.E164)
        home = phonenumbers.format_number(example, phonenumbers.PhoneNumberFormat.NATIONAL)
        assert (one(whole), one(home, region)) == (whole, whole)


@given(st.lists(st.tuples(st.one_of(st.none(), st.text(max_size=25)), st.sampled_from(["DE", "US", "XX", None]))))
def test_any_text_gives_a_number_or_none(pairs):
    typed, regions = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    found = examine(pl.Series(typed, dtype=pl.String), pl.Series(regions, dtype=pl.String))
    assert len(found) == len(pairs)
    assert found.drop_nulls().str.contains(r"^\+[1-9][0-9]{6,16}$").all()
    assert examine(found, pl.Series([None] * len(found), dtype=pl.String)).equals(found, null_equal=True)


def test_code_country_and_time_zone_follow_from_a_number():
    numbers = ["+12025550123", "+14165550123", "+18765550123", "+49301234567", "+77012345678", "+74951234567", None,
               "+80012345678"]  # fmt: skip
    number = pl.col("phone")
    said = [phone_places.calling_code(number), phone_places.country(number), phone_places.zone(number)]
    found = pl.DataFrame({"phone": numbers}, schema={"phone": pl.String})
    assert [found.select(one).to_series().to_list() for one in said] == [list(one) for one in zip(*[
        ("+1", "US", "America/New_York"), ("+1", "CA", "America/Toronto"), ("+1", "JM", "America/Jamaica"),
        ("+49", "DE", "Europe/Berlin"), ("+7", "KZ", None), ("+7", "RU", "Europe/Moscow"), (None, None, None),
        ("+800", None, None),
    ], strict=True)]  # fmt: skip
