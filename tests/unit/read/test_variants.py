"""A/B as decisions: what is more than chance, and which templates are compared."""

from __future__ import annotations

import pytest

from mailmill.pipelines.read.variants import KINDS, Tally, ahead, by_template, share


def a_tally(variant: str, accepted: int, clicked: int) -> Tally:
    return Tally(
        variant=variant,
        counts={**dict.fromkeys(KINDS, 0), "planned": accepted, "accepted": accepted, "clicked": clicked},
    )


@pytest.mark.parametrize(
    ("hits", "of", "low", "high"), [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962)]
)
def test_the_interval_is_wilsons(hits: int, of: int, low: float, high: float) -> None:
    found = share(hits, of)
    assert (found.value, round(found.low or 0, 4), round(found.high or 0, 4)) == (hits / of, low, high)
    assert share(0, 0).value is None


def test_somebody_is_ahead_only_where_it_can_hardly_be_chance() -> None:
    assert ahead([a_tally("a", 20, 5), a_tally("b", 20, 4)], "clicked") is None
    assert ahead([a_tally("a", 2000, 300), a_tally("b", 2000, 200)], "clicked") == "a"
    assert ahead([a_tally("a", 2000, 300), a_tally("b", 0, 0)], "clicked") is None
    assert ahead([a_tally("a", 2000, 300)], "clicked") is None and ahead([], "clicked") is None


def test_templates_are_compared_with_all_their_variants() -> None:
    rows = [("a", a_tally("a", 10, 1)), ("a", a_tally("a:de", 20, 2)), ("b", a_tally("b", 30, 3))]
    assert [(one.variant, one.counts["accepted"], one.counts["clicked"]) for one in by_template(rows)] == [
        ("a", 30, 3), ("b", 30, 3),
    ]  # fmt: skip
