"""Days and hours without gaps, on the tenant's calendar."""

from __future__ import annotations

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest

from mailmill.pipelines.read.series import by_day, by_hour, first_hour, hour_of, last_days

BERLIN, KOLKATA = ZoneInfo("Europe/Berlin"), ZoneInfo("Asia/Kolkata")


@pytest.mark.parametrize(
    ("now", "zone", "days"),
    [
        (datetime(2026, 11, 20, 22, 59, tzinfo=UTC), BERLIN, [date(2026, 11, 19), date(2026, 11, 20)]),
        (datetime(2026, 11, 20, 23, 0, tzinfo=UTC), BERLIN, [date(2026, 11, 20), date(2026, 11, 21)]),
        (datetime(2026, 3, 1, 12, 0, tzinfo=UTC), BERLIN, [date(2026, 2, 28), date(2026, 3, 1)]),
    ],
)
def test_the_last_days_end_with_today_where_the_tenant_is(now: datetime, zone: ZoneInfo, days: list[date]) -> None:
    assert last_days(now, 2, zone) == days


@pytest.mark.parametrize(
    ("day", "zone", "hours"),
    [
        (date(2026, 11, 20), BERLIN, 24),
        (date(2026, 3, 29), BERLIN, 23),  # clocks go forward
        (date(2026, 10, 25), BERLIN, 25),  # and back
        (date(2026, 11, 20), KOLKATA, 24),
    ],
)
def test_a_day_has_as_many_hours_as_the_calendar_gives_it(day: date, zone: ZoneInfo, hours: int) -> None:
    first = first_hour(day, zone)
    rows = [(hour, "opened", 1, 1) for hour in range(first - 30, first + 55)]
    assert by_day(rows, [day], zone)[0].counts.opened.messages == hours
    assert first_hour(date.fromordinal(day.toordinal() + 1), zone) - first == hours


def test_days_and_hours_without_events_are_there_with_zeros() -> None:
    now = datetime(2026, 11, 20, 12, 30, tzinfo=UTC)
    days = by_day([(hour_of(now), "clicked", 2, 5)], last_days(now, 3, BERLIN), BERLIN)
    assert [day.counts.clicked.events for day in days] == [0, 0, 5]
    hours = by_hour([(hour_of(now), "clicked", 2, 5)], hour_of(now) - 2, hour_of(now), BERLIN)
    assert [hour.counts.clicked.messages for hour in hours] == [0, 0, 2]
    assert hours[-1].start.isoformat() == "2026-11-20T13:00:00+01:00"
