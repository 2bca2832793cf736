"""Cursors come back as they went out, and nothing else is one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailmill.errors import Misconfigured
from mailmill.pipelines.read.cursors import FIRST_PAGE, below, cursor


@given(st.integers(min_value=1, max_value=FIRST_PAGE))
def test_a_cursor_comes_back(number: int) -> None:
    assert below("campaigns", cursor("campaigns", number)) == number


def test_no_cursor_is_the_first_page() -> None:
    assert below("campaigns", None) == FIRST_PAGE


@pytest.mark.parametrize(
    "given_", ["", "x", "ä", "AAAA", cursor("batches", 5), "Y2FtcGFpZ25zOi0x", "=" * 9, "a" * 10_000]
)
def test_anything_else_is_refused_in_words(given_: str) -> None:
    with pytest.raises(Misconfigured, match="not a cursor of campaigns"):
        below("campaigns", given_)


@given(st.text())
def test_no_text_breaks_it(text: str) -> None:
    try:
        assert 0 < below("campaigns", text) <= FIRST_PAGE
    except Misconfigured:
        pass
