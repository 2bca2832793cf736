"""Whose refusals in a row hold what."""

from __future__ import annotations

import pytest

from mailmill.pipelines.send.refusals import Refusals


@pytest.mark.parametrize(
    ("answers", "held"),
    [
        ("a" * 9, None),
        ("a" * 10, "provider"),
        ("aB" * 9 + "a", "provider"),  # B takes its messages: of a that says nothing
        ("a" * 9 + "A" + "a" * 9, None),  # it took one, or knew no such person
        ("abcdefghij", "route"),  # it is said to everybody
        ("ab" * 5, "route"),
        ("a" * 9 + "bc", None),  # two others do not make it the route's
        ("a" * 9 + "bbbbb" + "a", "provider"),
        ("abcdefghiX" + "jklm", None),
    ],
)
def test_P13_a_run_holds_whom_it_comes_from(answers: str, held: str | None) -> None:
    """In: one letter a recipient's provider, upper case where it took the message."""
    refusals = Refusals()
    found = None
    for one in answers:
        assert found is None, "too early"
        if one.isupper():
            refusals.otherwise(one.lower())
        else:
            found = refusals.refused(one)
    assert found == held
