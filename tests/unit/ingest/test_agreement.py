"""The vectorised pass against email-validator, address by address."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import polars as pl
import pytest
from disagreements import DISAGREEMENTS, Disagreement
from email_validator import EmailNotValidError, validate_email
from hypothesis import given, settings
from hypothesis import strategies as st

from mailmill.pipelines.ingest.addresses import check, examine

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))

from messy_addresses import sample


def by_the_other(typed: str) -> str | None:
    """The address in ASCII as email-validator normalises it, its local part as typed; None when it refuses."""
    try:
        found = validate_email(
            typed, check_deliverability=False, allow_quoted_local=True, allow_display_name=True, strict=True
        )
    except EmailNotValidError:
        return None
    return f"{found.local_part}@{found.ascii_domain}"


def explained(typed: str, taken: bool) -> bool:
    return any(row.taken == taken and re.search(row.pattern, typed) for row in DISAGREEMENTS)


def unexplained(texts: list[str]) -> list[tuple[str, str | None, str | None]]:
    found = examine(pl.Series(texts, dtype=pl.String))["address"]
    return [
        (typed, ours, other)
        for typed, ours in zip(texts, found, strict=True)
        if (ours is None) != ((other := by_the_other(typed)) is None) and not explained(typed, ours is not None)
    ]


def test_the_verdicts_agree_on_a_messy_list_but_for_the_reasons_listed() -> None:
    assert unexplained(sample(3_000)) == []


@pytest.mark.parametrize("row", DISAGREEMENTS, ids=lambda row: row.example)
def test_each_listed_disagreement_is_one(row: Disagreement) -> None:
    assert re.search(row.pattern, row.example)
    assert (check(row.example).address is not None) is row.taken
    assert (by_the_other(row.example) is None) is row.taken


_LOCAL = st.from_regex(r"\A[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,66}\Z")
_DOMAIN = st.from_regex(r"\A[A-Za-z0-9-]{1,20}(\.[A-Za-z0-9-]{1,20}){1,3}\Z")


@settings(max_examples=40)
@given(st.lists(st.one_of(st.emails(), st.tuples(_LOCAL, _DOMAIN).map("@".join)), max_size=20))
def test_the_verdicts_agree_on_generated_addresses(texts: list[str]) -> None:
    assert unexplained(texts) == []


@settings(max_examples=40)
@given(st.lists(st.emails(), max_size=20))
def test_an_address_that_both_take_is_the_same_address(texts: list[str]) -> None:
    for typed, ours in zip(texts, examine(pl.Series(texts, dtype=pl.String))["address"], strict=True):
        other = by_the_other(typed)
        assert ours is None or other is None or ours == other
