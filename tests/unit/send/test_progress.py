"""How far a campaign is, how fast, and about when the rest is done."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from mailmill.pipelines.send.progress import Progress, spell

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def a_progress(*, state: str = "running", recent: int = 300, since_s: float | None = 30, **by_state: int) -> Progress:
    since = None if since_s is None else NOW - timedelta(seconds=since_s)
    return Progress(state=state, planned=1000, by_state=by_state, recent=recent, now=NOW, since=since)


def test_the_rest_is_done_at_the_pace_of_the_last_minute():
    found = a_progress(sent=350, failed=30, in_doubt=20, queued=500, leased=60, deferred=40)
    assert (found.done, found.open, found.rate) == (400, 600, 10.0)
    assert found.ends_about == NOW + timedelta(seconds=60)
    assert str(found) == (
        "400 of 1,000 (40 %), 10.0 messages/s, the rest until about 2026-11-20 12:01:00 UTC (1 min)"
    )  # fmt: skip


@pytest.mark.parametrize(
    "found",
    [
        a_progress(recent=0, since_s=None, queued=1000),  # nothing moves
        a_progress(state="paused", sent=400, queued=600),
        a_progress(sent=1000),  # over
        a_progress(recent=1, since_s=60, queued=10**9),  # in sixty years
    ],
)
def test_an_end_is_only_told_where_there_is_one(found):
    assert found.ends_about is None


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (3600, "1 h"), (90_061, "1 d 1 h")]
)
def test_a_duration_is_said_in_its_two_largest_units(seconds, words):
    assert spell(timedelta(seconds=seconds)) == words
