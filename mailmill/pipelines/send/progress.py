"""How far a campaign is: what is done of it, at which pace, and about when it will be over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

TERMINAL = ("sent", "failed", "invalid", "suppressed", "cancelled", "expired", "in_doubt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """The ledger of a campaign at one moment, `now` by the database's clock."""

    state: str
    planned: int
    by_state: Mapping[str, int]
    recent: int  # messages that came to their end in the last minute
    now: datetime
    since: datetime | None  # when the first of those did

    @property
    def done(self) -> int:
        """In a terminal state."""
        return sum(n for state, n in self.by_state.items() if state in TERMINAL)

    @property
    def open(self) -> int:
        return sum(self.by_state.values()) - self.done

    @property
    def rate(self) -> float:
        """Messages a second over the last minute, from the first of them on: a wait before it does not count."""
        if self.since is None:
            return 0.0
        return self.recent / max(1.0, (self.now - self.since).total_seconds())

    @property
    def ends_about(self) -> datetime | None:
        """When the rest is done at this pace; None when nothing is open, nothing moves or it is farther than a year."""
        if self.state != "running" or not self.open or not self.rate:
            return None
        left = timedelta(seconds=min(self.open / self.rate, 1e9))
        return self.now + left if left < timedelta(days=365) else None

    def __str__(self) -> str:
        """In one line, for a log."""
        share = f" ({100 * self.done / self.planned:.0f} %)" if self.planned else ""
        told = f"{self.done:,} of {self.planned:,}{share}, {self.rate:,.1f} messages/s"
        if self.ends_about is not None:
            told += (
                f", the rest until about {self.ends_about:%Y-%m-%d %H:%M:%S %Z} ({spell(self.ends_about - self.now)})"
            )
        elif self.open:
            told += f", {self.open:,} open" if self.state == "running" else f", {self.open:,} open, {self.state}"
        return told


def spell(duration: timedelta) -> str:
    """A duration as people say it, to the two largest units."""
    left = max(0, round(duration.total_seconds()))
    parts = []
    for unit, seconds in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        n, left = divmod(left, seconds)
        if n:
            parts.append(f"{n} {unit}")
    return " ".join(parts[:2]) or "0 s"
