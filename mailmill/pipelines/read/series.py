"""Series over time from hourly counters: no gaps, days as the tenant's calendar has them. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from mailmill.pipelines.read.answers import Day, Hour
from mailmill.pipelines.read.rates import Row, counts

HourRow = tuple[int, str, int, int]  # epoch hour, kind, distinct messages, distinct events


def hour_of(at: datetime) -> int:
    """The epoch hour `at` lies in."""
    return int(at.timestamp()) // 3600


def start_of(hour: int, zone: ZoneInfo) -> datetime:
    """When an epoch hour begins, in `zone`."""
    return datetime.fromtimestamp(hour * 3600, zone)


def last_days(now: datetime, days: int, zone: ZoneInfo) -> list[date]:
    """The last `days` days of `zone`'s calendar, today included, oldest first."""
    today = now.astimezone(zone).date()
    return [today - timedelta(days=back) for back in range(days - 1, -1, -1)]


def first_hour(day: date, zone: ZoneInfo) -> int:
    """The first epoch hour that begins on `day`; in a zone that is half an hour off it begins at half past."""
    midnight = datetime.combine(day, time(), zone).astimezone(UTC)
    return -(-int(midnight.timestamp()) // 3600)


def by_day(rows: Iterable[HourRow], days: list[date], zone: ZoneInfo) -> list[Day]:
    """One entry for each of `days`, in their order; rows of other days are left out."""
    found: dict[date, list[Row]] = {day: [] for day in days}
    for hour, kind, uniq, total in rows:
        day = start_of(hour, zone).date()
        if day in found:
            found[day].append((kind, uniq, total))
    return [Day(day=day, counts=counts(found[day])) for day in days]


def by_hour(rows: Iterable[HourRow], first: int, last: int, zone: ZoneInfo) -> list[Hour]:
    """One entry for each epoch hour from `first` to `last`, both included."""
    found: dict[int, list[Row]] = {hour: [] for hour in range(first, last + 1)}
    for hour, kind, uniq, total in rows:
        if hour in found:
            found[hour].append((kind, uniq, total))
    return [Hour(start=start_of(hour, zone), counts=counts(rows)) for hour, rows in found.items()]
