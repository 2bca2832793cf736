"""Reports that the ingress does not take yet."""

from __future__ import annotations

from mailmill.sandbox.reports import LONGEST_PAUSE_S, pause_s


def test_pauses_grow_to_the_longest_and_stay_there_however_long_the_ingress_is_away() -> None:
    """After a night it was a number too large for a float, and nothing was reported any more."""
    assert [pause_s(attempt) for attempt in range(4)] == [0.2, 0.4, 0.8, 1.6]
    assert pause_s(10) == pause_s(5000) == LONGEST_PAUSE_S
