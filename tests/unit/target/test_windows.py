"""When a window is open, through midnights, weeks and the two nights a year that are odd."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailmill.errors import Misconfigured
from mailmill.pipelines.configuration.specs import WindowSpec
from mailmill.pipelines.target.windows import instant, moment, opening

BERLIN = ZoneInfo("Europe/Berlin")
WEEKDAYS = {"days": ("mon", "tue", "wed", "thu", "fri")}
OFFICE = {**WEEKDAYS, "start": time(9), "end": time(17)}
NIGHT = {"days": ("fri",), "start": time(22), "end": time(6)}


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("window", "now", "is_open", "changes_at"),
    [
        (OFFICE, "2026-11-20T07:59:59", False, "2026-11-20T08:00"),  # Friday, Berlin is UTC+1
        (OFFICE, "2026-11-20T08:00", True, "2026-11-20T16:00"),
        (OFFICE, "2026-11-20T15:59:59", True, "2026-11-20T16:00"),
        (OFFICE, "2026-11-20T16:00", False, "2026-11-23T08:00"),  # over the weekend
        (NIGHT, "2026-11-20T20:59", False, "2026-11-20T21:00"),
        (NIGHT, "2026-11-21T03:00", True, "2026-11-21T05:00"),  # Saturday, but the window is Friday's
        (NIGHT, "2026-11-21T21:30", False, "2026-11-27T21:00"),
        ({**WEEKDAYS}, "2026-11-20T12:00", True, "2026-11-20T23:00"),  # days without hours: to the end of Friday
        ({}, "2026-11-20T12:00", True, None),  # every day, all day
        ({"start": time(9), "end": time(9)}, "2026-11-20T12:00", True, None),  # around the clock
        # F34, spring: 02:00 to 03:00 does not exist on 29 March
        ({"start": time(2, 30), "end": time(5)}, "2026-03-29T00:59:59", False, "2026-03-29T01:00"),
        ({"start": time(2, 30), "end": time(5)}, "2026-03-29T01:00", True, "2026-03-29T03:00"),
        ({"start": time(1), "end": time(2, 30)}, "2026-03-29T00:30", True, "2026-03-29T01:00"),
        (
            {"start": time(2, 15), "end": time(2, 45)},
            "2026-03-28T23:00",
            False,
            "2026-03-30T00:15",
        ),  # no such time today
        # F34, autumn: 02:00 to 03:00 is there twice on 25 October
        ({"start": time(2, 30), "end": time(5)}, "2026-10-25T00:30", False, "2026-10-25T01:30"),
        ({"start": time(2, 30), "end": time(5)}, "2026-10-25T01:30", True, "2026-10-25T04:00"),
        (
            {"start": time(1), "end": time(2, 30)},
            "2026-10-25T00:29",
            True,
            "2026-10-25T00:30",
        ),  # no longer than it reads
        ({"start": time(1), "end": time(2, 30)}, "2026-10-25T00:31", False, "2026-10-26T00:00"),
        ({"start": time(2, 15), "end": time(2, 45)}, "2026-10-25T00:20", False, "2026-10-25T01:15"),
        ({"start": time(2, 15), "end": time(2, 45)}, "2026-10-25T01:20", True, "2026-10-25T01:45"),
    ],
    ids=str,
)
def test_F34_a_window_is_open(window, now, is_open, changes_at):
    found = opening(WindowSpec(**window), at(now), zone=BERLIN)
    assert (found.open, found.changes_at) == (is_open, changes_at and at(changes_at))


def test_no_window_is_always_open():
    assert opening(None, at("2026-11-20T12:00")).open


def test_a_windows_own_zone_wins_over_the_tenants():
    window = WindowSpec(start=time(9), end=time(17), time_zone="America/New_York")
    assert opening(window, at("2026-11-20T13:00"), zone=BERLIN).changes_at == at("2026-11-20T14:00")


@pytest.mark.parametrize(
    ("wall", "zone", "utc"),
    [
        ("2026-03-29T02:30", "Europe/Berlin", "2026-03-29T01:00"),
        ("2026-10-25T02:30", "Europe/Berlin", "2026-10-25T01:30"),
        ("2026-10-25T03:00", "Europe/Berlin", "2026-10-25T02:00"),
        ("2026-10-04T02:10", "Australia/Lord_Howe", "2026-10-03T15:30"),  # half an hour of summer time
        ("2026-04-24T00:30", "Africa/Cairo", "2026-04-23T22:00"),  # the gap is at midnight
        ("2026-07-01T12:00", "Asia/Kathmandu", "2026-07-01T06:15"),
    ],
)
def test_F34_a_time_in_the_gap_is_its_end_and_one_that_is_there_twice_the_second(wall, zone, utc):
    assert instant(datetime.fromisoformat(wall), ZoneInfo(zone)) == at(utc)


def test_a_time_that_no_calendar_in_UTC_has_is_no_time():
    for text in ("0001-01-01T00:00+05:00", "9999-12-31T23:00-05:00", "0001-01-01T00:00"):
        with pytest.raises(Misconfigured, match="is no time"):
            moment(text, "Asia/Tokyo")


@settings(max_examples=150, deadline=None)
@given(
    start=st.times().map(lambda t: t.replace(second=0, microsecond=0)),
    end=st.times().map(lambda t: t.replace(second=0, microsecond=0)),
    days=st.sets(st.sampled_from(["mon", "wed", "sun"]), min_size=1),
    now=st.integers(0, 235 * 86400).map(lambda s: at("2026-03-20") + timedelta(seconds=s)),
)
def test_what_a_window_says_holds_until_the_moment_it_names(start, end, days, now):
    window = WindowSpec(start=start, end=end, days=tuple(days))
    found = opening(window, now, zone=BERLIN)
    if found.changes_at is not None:
        assert found.changes_at > now
        assert opening(window, found.changes_at, zone=BERLIN).open is not found.open
        before = max(now, found.changes_at - timedelta(microseconds=1))
        assert opening(window, before, zone=BERLIN).open is found.open
