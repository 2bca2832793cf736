"""Why nothing is going out: what stands between a campaign and its next message, the nearest obstacle first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from mailmill.pipelines.configuration.specs import WindowSpec
from mailmill.pipelines.target.windows import opening

HEARD_S = 30.0  # a worker that was silent longer does not send


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What the database knows of a campaign; `now` is its clock."""

    campaign: str
    state: str
    now: datetime
    transport: str | None  # tenant/transport
    kind: str | None  # the transport's of today
    held: str | None
    scheduled_at: datetime | None
    ends_at: datetime | None
    last_step: str  # by whom and why the campaign is in its state
    window: Mapping[str, Any] | None = field(repr=False, default=None)
    sandbox: bool | None = None  # what it was planned for
    ready: bool = False  # a message is queued and due
    next_due_at: datetime | None = None  # of those that wait
    waiting_for: str | None = None  # the most frequent reason of those
    leased: int = 0  # under leases of workers that live
    orphaned: int = 0  # leases of workers that do not
    spent: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # minute, day -> used, cap
    workers: int = 0  # that live and may send it
    elsewhere: int = 0  # that live and were started for other campaigns
    held_for: Mapping[str, str] = field(default_factory=dict)  # provider -> why the transport is held for it
    held_back: bool = False  # some wait for such a provider's release
    trouble: str | None = None  # what a worker says of the transport
    unusable: str | None = None  # what a worker says of the campaign's content; where none lives, one that has ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Obstacle:
    what: str
    remedy: str = ""
    until: datetime | None = None


_BEFORE = {
    "draft": ("it has not been started", "`mailmill campaign start {campaign}`, or `schedule`."),
    "scheduled": ("its time has not come", ""),
    "planning": (
        "its audience is being frozen",
        "A planning that was left is taken up by the next tick, or by `mailmill campaign start {campaign}`, which says "
        "what it waits for.",
    ),
    "paused": ("it is paused", "`mailmill campaign resume {campaign}`"),
    "finished": ("it is finished: every recipient has an end", ""),
    "cancelled": ("it was cancelled", ""),
    "failed": ("it could not be planned", "Correct what the reason names, then start it again."),
    "missed": ("its time passed before it could start", "Schedule it again, or raise `misfire_grace_s`."),
}


def obstacles(now: Situation) -> list[Obstacle]:
    """Everything that keeps messages from starting; empty when they should be going out."""
    if now.state in _BEFORE:
        what, remedy = _BEFORE[now.state]
        words = f"{what} ({now.last_step})" if now.last_step else what
        remedy = remedy.format(campaign=now.campaign)
        return [Obstacle(what=words, remedy=remedy, until=now.scheduled_at if now.state == "scheduled" else None)]
    found = [*_closed(now), *_road(now), *_hands(now)]
    return [*_of_some(now), *(found or _waiting(now))]


def _closed(now: Situation) -> list[Obstacle]:
    if now.ends_at is not None and now.ends_at <= now.now:
        return [Obstacle(what="its end has passed; what is open expires", until=now.ends_at)]
    window = None if now.window is None or now.kind == "sandbox" else WindowSpec.model_validate(now.window)
    hours = opening(window, now.now)
    return [] if hours.open else [Obstacle(what="its window is closed", until=hours.changes_at)]


def _of_some(now: Situation) -> list[Obstacle]:
    """What keeps mail from some recipients of this campaign, while others may get it."""
    remedy = f"Mend it, then `mailmill release {now.transport}`; all others are sent to."
    return [
        Obstacle(what=f"its transport {now.transport} is held for recipients at {provider}: {why}", remedy=remedy)
        for provider, why in now.held_for.items()
        if now.held_back and now.held is None
    ]


def _road(now: Situation) -> list[Obstacle]:
    found = []
    if now.held is not None:
        remedy = (
            f"Mend it, then `mailmill release {now.transport}`; `mailmill transport test {now.transport}` tries it."
        )
        found.append(Obstacle(what=f"its transport {now.transport} is held: {now.held}", remedy=remedy))
    elif now.trouble is not None:
        remedy = f"`mailmill transport test {now.transport}` says which step fails."
        found.append(Obstacle(what=f"a worker says: {now.trouble}", remedy=remedy))
    found += [
        Obstacle(what=f"the limit of {cap:,} a {period} of {now.transport} is spent", remedy=f"Raise `per_{period}`.")
        for period, (used, cap) in now.spent.items()
        if used >= cap
    ]
    return found


def _hands(now: Situation) -> list[Obstacle]:
    if now.unusable is not None:
        remedy = "Mend it where that worker runs (`mailmill workers`); it looks again by itself."
        if now.sandbox is not None and now.sandbox != (now.kind == "sandbox"):
            was = "sandbox" if now.sandbox else "smtp"
            remedy = f"Apply {now.transport} with `type: {was}` again, or `mailmill campaign cancel {now.campaign}`."
        return [Obstacle(what=f"a worker says: {now.unusable}", remedy=remedy)]
    if now.workers == 0 and (now.ready or now.next_due_at is None):  # Dagster's runs begin when something is due
        words = "no send worker runs"
        if now.elsewhere:
            words = f"no send worker runs that may send it: {now.elsewhere:,} were started for other campaigns alone"
        return [Obstacle(what=words, remedy="Start `mailmill send --forever`, or let `mailmill up` run.")]
    return []


def _waiting(now: Situation) -> list[Obstacle]:
    if now.ready:
        return []
    if now.leased:
        return [Obstacle(what=f"{now.leased:,} leases are being worked at; nothing else is due")]
    if now.orphaned:
        return [
            Obstacle(
                what=f"{now.orphaned:,} leases belong to workers that are gone; their journals know what was sent",
                remedy="Start the worker again where it ran; if that is lost: `mailmill doubts --declare-lost WORKER`.",
            )
        ]
    if now.next_due_at is not None:
        return [Obstacle(what=f"what is left waits for its next attempt ({now.waiting_for})", until=now.next_due_at)]
    return []
