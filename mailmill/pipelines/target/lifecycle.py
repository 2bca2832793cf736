"""The life of a campaign, as data: which state may follow which, and at whose word."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

CampaignState = Literal[
    "draft", "scheduled", "planning", "running", "paused", "finished", "cancelled", "failed", "missed"
]
Move = Literal[
    "schedule", "plan", "run", "pause", "resume", "finish", "cancel", "fail", "miss", "reopen"
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Transition:
    """One step of a campaign: allowed from these states, and only by compare-and-set."""

    sources: tuple[CampaignState, ...]
    target: CampaignState


# Nothing was planned in `missed` and `failed`, so a person may schedule them again; nobody is mailed twice by it.
# Restoring a backup (backup.sql) does what no move does: what was to start by itself becomes a draft again.
TRANSITIONS: dict[Move, Transition] = {
    "schedule": Transition(("draft", "scheduled", "missed", "failed"), "scheduled"),
    "plan": Transition(("scheduled",), "planning"),
    "run": Transition(("planning",), "running"),
    "pause": Transition(("running",), "paused"),
    "resume": Transition(("paused",), "running"),
    "finish": Transition(("running", "paused"), "finished"),
    "cancel": Transition(("draft", "scheduled", "planning", "running", "paused"), "cancelled"),
    "fail": Transition(("planning",), "failed"),
    "miss": Transition(("scheduled", "planning"), "missed"),
    "reopen": Transition(("finished",), "running"),  # doubts are sent again, at a person's word
}

# Nothing is frozen yet: a campaign has no recipients, so whom it will have may still be changed.
UNPLANNED: tuple[CampaignState, ...] = TRANSITIONS["schedule"].sources


def instead(step: Move, state: CampaignState) -> str:
    """What to do where a state does not allow a step, in words for a person."""
    if step == "schedule" and state not in UNPLANNED:
        if state == "paused":
            return "Its audience is frozen: `mailmill campaign resume` goes on with it."
        if state == "planning":
            return "Its audience is being frozen: cancel it, or wait until it runs."
        return "A campaign is sent once: give it another `slug` in its file, and apply that."
    return f"{step} is for campaigns that are {' or '.join(TRANSITIONS[step].sources)}."


def timeliness(
    *, scheduled_at: datetime, now: datetime, misfire_grace_s: int, ends_at: datetime | None
) -> Literal["early", "due", "missed"]:
    """Whether a scheduled campaign starts now (F35): late within the grace, never after its own end.

    In:     now by the database's clock.
    """
    if now < scheduled_at:
        return "early"
    if ends_at is not None and now >= ends_at:
        return "missed"
    return "due" if now <= scheduled_at + timedelta(seconds=misfire_grace_s) else "missed"
