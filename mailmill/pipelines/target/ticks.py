"""The tick: starts everything that is due, finishes everything that is done. Any number may run at once (F35)."""

from __future__ import annotations

from mailmill.errors import TransientError
from mailmill.pipelines.target.identities import Preflight
from mailmill.pipelines.target.lifecycle import timeliness
from mailmill.pipelines.target.planning import Planned, plan
from mailmill.pipelines.target.ports import Campaigns, Contacts, Due, Schedule


def tick(
    *, schedule: Schedule, campaigns: Campaigns, contacts: Contacts, preflight: Preflight, public_url: str, by: str
) -> list[Planned]:
    """Plan every campaign whose time has come, and settle what is over. Out: what became of each.

    One campaign's fault keeps no other from starting.

    Raises: StoreUnavailable after all were tried; what could not be planned stays for the next tick.
    """
    results, broken = [], None
    for due in schedule.due():
        try:
            results.append(start_due(due, schedule, campaigns, contacts, preflight, public_url, by))
        except TransientError as error:
            broken = error
    schedule.settle(by=by)
    if broken is not None:
        raise broken
    return [result for result in results if result is not None]


def start_due(
    due: Due,
    schedule: Schedule,
    campaigns: Campaigns,
    contacts: Contacts,
    preflight: Preflight,
    public_url: str,
    by: str,
) -> Planned | None:
    """Plan one campaign, or call it missed when its time passed longer ago than its grace; also one that was left."""
    when = timeliness(
        scheduled_at=due.scheduled_at, now=due.now, misfire_grace_s=due.misfire_grace_s, ends_at=due.ends_at
    )
    if when == "missed":
        if not schedule.miss(due, by=by):
            return None
        reason = f"was due at {due.scheduled_at.isoformat()} and is too late; schedule it again or start it by hand"
        return Planned(campaign_id=due.campaign_id, name=due.name, state="missed", reason=reason)
    return plan(
        due.campaign_id, campaigns=campaigns, contacts=contacts, preflight=preflight, public_url=public_url, by=by
    )
