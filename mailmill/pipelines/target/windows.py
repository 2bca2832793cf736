"""The hours in which messages may start: pure `(window, now) -> open until, or closed until`.

Local times become instants by one rule (F34): a time in the gap of spring is the end of the gap; a time that autumn
has twice is the second one. A window's end is the first such time after its start, so that no window is longer than
it reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from mailmill.errors import Misconfigured
from mailmill.pipelines.configuration.specs import WindowSpec
from mailmill.pipelines.configuration.words import Day

_DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_HORIZON_DAYS = 9  # a week and the days around it: further ahead nothing new comes


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """Whether messages may start now, and when that changes (UTC; None: not within a week)."""

    open: bool
    changes_at: datetime | None


def opening(window: WindowSpec | None, now: datetime, *, zone: ZoneInfo | None = None) -> Opening:
    """The state of a window; no window is always open.

    In:     now, aware; zone is the tenant's, for a window that names none.
    """
    if window is None:
        return Opening(open=True, changes_at=None)
    now = now.astimezone(UTC)
    here = window.zone or zone or ZoneInfo("UTC")
    until: datetime | None = None
    for start, end in _spans(window, here, now.astimezone(here).date()):
        if until is None:
            if end <= now:
                continue
            if start > now:
                return Opening(open=False, changes_at=start)
        elif start > until:
            break
        until = end if until is None else max(until, end)
    if until is None:
        return Opening(open=False, changes_at=None)
    endless = until - now > timedelta(days=_HORIZON_DAYS - 2)
    return Opening(open=True, changes_at=None if endless else until)


def _spans(window: WindowSpec, zone: ZoneInfo, today: date) -> Iterator[tuple[datetime, datetime]]:
    """The window's times as pairs of instants, in order, from yesterday on (it may reach over midnight)."""
    for offset in range(-1, _HORIZON_DAYS):
        day = today + timedelta(days=offset)
        if _DAYS[day.weekday()] not in window.days:
            continue
        start = instant(datetime.combine(day, window.start), zone)
        over_midnight = window.end <= window.start
        last = datetime.combine(day + timedelta(days=1) if over_midnight else day, window.end)
        end = next((at for at in _readings(last, zone) if at > start), start)
        if end > start:
            yield start, end


def moment(text: str, time_zone: str) -> datetime:
    """A time a person typed; without an offset it is the tenant's local time. Out: UTC.

    Raises: Misconfigured when it is no time.
    """
    try:
        at = datetime.fromisoformat(text)
        return instant(at, ZoneInfo(time_zone)) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError):  # OverflowError: years that UTC does not have
        raise Misconfigured(
            f"{text!r} is no time", remedy="Write 2026-12-01T09:00, or with an offset 2026-12-01T09:00+01:00."
        ) from None


def instant(wall: datetime, zone: ZoneInfo) -> datetime:
    """The moment a clock on the wall shows a time: in a gap its end, of two the second. In: naive. Out: UTC."""
    return _readings(wall, zone)[-1]


def _readings(wall: datetime, zone: ZoneInfo) -> list[datetime]:
    """The one or two instants of a local time, in order; one that does not exist is the end of its gap."""
    first = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
    second = wall.replace(tzinfo=zone, fold=1).astimezone(UTC)
    if first == second:
        return [first]
    if first < second:
        return [first, second]
    return [_end_of_gap(second, first, zone)]


def _end_of_gap(before: datetime, after: datetime, zone: ZoneInfo) -> datetime:
    """The instant within (before, after] at which the offset changes. In: UTC, on either side of the gap's end."""
    old = before.astimezone(zone).utcoffset()
    while after - before > timedelta(seconds=1):
        middle = before + (after - before) / 2
        if middle.astimezone(zone).utcoffset() == old:
            before = middle
        else:
            after = middle
    return after.replace(microsecond=0)


def midnight(day: date, zone: ZoneInfo) -> datetime:
    """The first moment of a local day. Out: UTC."""
    return _readings(datetime.combine(day, time(0)), zone)[0]
