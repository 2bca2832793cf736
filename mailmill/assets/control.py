"""A person's word about a campaign, from Dagster's launchpad: start, pause, resume, cancel, reschedule."""

from enum import Enum

import dagster as dg
from pydantic import Field

from mailmill.assets import reports
from mailmill.assets.resources import Mill
from mailmill.errors import MailmillError, Misconfigured
from mailmill.io.postgres import campaigns
from mailmill.pipelines.target import windows

EXAMPLE = {"ops": {"control": {"config": {"campaign": "tenant/campaign", "op": "pause", "at": "", "reason": ""}}}}


class Op(Enum):
    """What to do."""

    start = "start"
    pause = "pause"
    resume = "resume"
    cancel = "cancel"
    reschedule = "reschedule"


class ControlConfig(dg.Config):
    """One step of one campaign."""

    campaign: str = Field(description="Which one: tenant/campaign.")
    op: Op = Field(
        description="start: freeze the audience and send, now or at a time. pause: hand over nothing more, within a "
        "second. resume: go on. cancel: send nothing more, for ever. reschedule: start at another time."
    )
    at: str = Field(
        default="",
        description="For start and reschedule: 2026-12-01T09:00 (the tenant's time zone) or with an offset. "
        "Empty: start now.",
    )
    reason: str = Field(default="", description="For pause, resume and cancel: noted in the campaign's history.")


@dg.op(description="Takes the step and shows the campaign's history. Taken twice it is taken once.")
def control(context: dg.OpExecutionContext, config: ControlConfig, mill: dg.ResourceParam[Mill]) -> None:
    try:
        said = _take(config, mill, by=f"dagster run {context.run_id[:8]}")
        with mill.database.transaction() as conn:
            campaign = campaigns.find(conn, config.campaign)
            steps = campaigns.history(conn, campaign)
    except MailmillError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    context.log.info(f"{config.campaign}: {said}")
    context.add_output_metadata(
        {
            "campaign": config.campaign,
            "state": campaign.state,
            "done": said,
            "history": reports.table(steps),
        }
    )


def _take(config: ControlConfig, mill: Mill, *, by: str) -> str:
    """Out: what was done, in words. Raises: MailmillError."""
    with mill.database.transaction() as conn:
        campaign = campaigns.find(conn, config.campaign)
        if config.op is Op.pause or config.op is Op.resume:
            taken = campaigns.require(conn, campaign, config.op.value, by=by, reason=config.reason or None)
            return f"{'paused' if config.op is Op.pause else 'running'}{'' if taken else ' already'}"
    if config.op is Op.cancel:
        n = campaigns.cancel(mill.database, campaign, by=by, reason=config.reason or None)
        return f"cancelled, {n:,} messages will not be sent"
    return _start(config, campaign, mill, by)


def _start(config: ControlConfig, campaign: campaigns.Campaign, mill: Mill, by: str) -> str:
    if config.op is Op.start and campaign.state == "running":
        return "running already"
    if config.op is Op.reschedule and not config.at:
        raise Misconfigured(
            "a time is needed", place="at", remedy="Write 2026-12-01T09:00, or start it now with start."
        )
    if config.op is Op.reschedule or campaign.state != "planning":  # a planning that was left is taken up
        at = windows.moment(config.at, campaign.time_zone) if config.at else None
        with mill.database.transaction() as conn:
            start = campaigns.schedule(conn, campaign, at, by=by)
        if at is not None:
            return f"scheduled, starts at {start:%Y-%m-%d %H:%M:%S} UTC"
    planned = mill.plan(campaign.campaign_id, by=by)
    if planned is None:
        return "is being planned by somebody else"
    if planned.state in ("failed", "missed"):
        raise Misconfigured(planned.reason or planned.state, place=f"campaign {campaign.name}")
    said = f"running, {planned.planned:,} recipients; workers or the next tick's run send"
    return f"{said}; warning: {planned.reason}" if planned.reason else said


@dg.job(
    config=EXAMPLE,
    description="Start, pause, resume, cancel or reschedule one campaign: name it and the op in the launchpad. "
    "Safe to launch twice; what cannot be done is refused with what to do instead.",
)
def campaign_control() -> None:
    control()
