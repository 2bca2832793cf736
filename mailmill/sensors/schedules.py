"""What starts by the clock. There is no schedule per campaign: one tick starts every due one."""

from collections.abc import Iterator

import dagster as dg

from mailmill.assets import partitions
from mailmill.assets.resources import Mill
from mailmill.io.postgres import control
from mailmill.sensors import jobs

BUSY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]


def busy(instance: dg.DagsterInstance, tag: str) -> set[str]:
    """Values of a tag for which a run waits or works already."""
    runs = instance.get_runs(dg.RunsFilter(statuses=BUSY))
    return {run.tags[tag] for run in runs if tag in run.tags}


@dg.schedule(
    job=jobs.campaign,
    cron_schedule="* * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Every minute: a run for each campaign that is due, or runs and has messages to send.",
)
def campaign_tick(context: dg.ScheduleEvaluationContext, mill: dg.ResourceParam[Mill]) -> Iterator[dg.RunRequest]:
    with mill.database.transaction("owner") as conn:
        due = control.campaigns_with_work(conn)
    at_work = busy(context.instance, "mailmill/campaign")
    for campaign in due:
        if campaign.key not in at_work:
            partitions.add(context.instance, partitions.campaigns, [campaign.key])
            yield dg.RunRequest(
                run_key=f"{campaign.key}:{context.scheduled_execution_time:%FT%R}",
                partition_key=campaign.key,
                tags={"mailmill/campaign": campaign.key},
            )


@dg.schedule(
    job=jobs.ingest,
    cron_schedule="15 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Every hour: synchronize every source that is an HTTP API.",
)
def source_sync(context: dg.ScheduleEvaluationContext, mill: dg.ResourceParam[Mill]) -> Iterator[dg.RunRequest]:
    with mill.database.transaction("owner") as conn:
        sources = [source for source in control.sources(conn) if source.kind in ("scraper_pro", "backlink_engine")]
    at_work = busy(context.instance, "mailmill/source")
    for source in sources:
        if source.key not in at_work:
            partitions.add(context.instance, partitions.sources, [source.key])
            yield dg.RunRequest(
                run_key=f"{source.key}:{context.scheduled_execution_time:%FT%R}",
                partition_key=source.key,
                tags={"mailmill/source": source.key},
            )


warehouse_schedule = dg.ScheduleDefinition(
    job=jobs.publish,
    cron_schedule="*/10 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Every ten minutes: publish what analysts open.",
)
ALL = [campaign_tick, source_sync, warehouse_schedule]
