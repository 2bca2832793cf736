"""What starts by the clock. There is no schedule per campaign: one tick starts every due one."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import dagster as dg

from mailmill.assets import campaigns, partitions
from mailmill.assets.resources import Mill
from mailmill.io.postgres import control
from mailmill.io.postgres import revalidation as stored
from mailmill.pipelines.ingest import addresses
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


def requests(
    context: dg.ScheduleEvaluationContext,
    things: Sequence[control.Thing],
    definition: dg.DynamicPartitionsDefinition,
    tag: str,
) -> Iterator[dg.RunRequest]:
    """A run for each thing that no run works at already."""
    at_work = busy(context.instance, tag)
    for thing in things:
        if thing.key not in at_work:
            partitions.add(context.instance, definition, [thing.key])
            yield dg.RunRequest(
                run_key=f"{thing.key}:{context.scheduled_execution_time:%FT%R}",
                partition_key=thing.key,
                tags={tag: thing.key},
            )


@dg.schedule(
    job=jobs.campaign,
    cron_schedule="* * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Every minute: a run for each campaign that is due, or runs and has messages to send.",
)
def campaign_tick(context: dg.ScheduleEvaluationContext, mill: dg.ResourceParam[Mill]) -> Iterator[dg.RunRequest]:
    with mill.database.transaction("owner") as conn:
        found = control.campaigns_with_work(conn)
    to_start = {one.key for one in found if one.kind in ("scheduled", "planning")}
    for request in requests(context, found, partitions.campaigns, "mailmill/campaign"):
        urgent = {campaigns.URGENT: "1"} if request.partition_key in to_start else {}
        yield request.with_replaced_attrs(tags={**request.tags, **urgent})


@dg.schedule(
    job=jobs.ingest,
    cron_schedule="15 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Every hour: synchronize every source that is an HTTP API, after the time that it asked to wait.",
)
def source_sync(context: dg.ScheduleEvaluationContext, mill: dg.ResourceParam[Mill]) -> Iterator[dg.RunRequest]:
    with mill.database.transaction("owner") as conn:
        sources = control.apis_due(conn)
    yield from requests(context, sources, partitions.sources, "mailmill/source")


warehouse_schedule = dg.ScheduleDefinition(
    name="publication",
    job=jobs.publish,
    cron_schedule="*/10 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Every ten minutes: publish what analysts open.",
)
contacts_schedule = dg.ScheduleDefinition(
    name="contact_refresh",
    job=jobs.refresh,
    cron_schedule="45 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Every hour: publish contacts whose reactions, suppressions or merge rule changed.",
)


@dg.schedule(
    job=jobs.revalidate,
    cron_schedule="30 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Every hour: validate contacts again where rules changed, or domains are to be asked for.",
)
def revalidation(
    context: dg.ScheduleEvaluationContext, mill: dg.ResourceParam[Mill]
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    asked = mill.resolver is not None
    with mill.database.transaction("owner") as conn:
        tenants = stored.tenants_due(conn, addresses.rules_version(), datetime.now(UTC) if asked else None)
    if not tenants:
        domains = "what DNS said of every domain still holds" if asked else "no DNS is asked (MAILMILL_RESOLVER)"
        yield dg.SkipReason(f"nothing is due: today's rules have examined every contact, and {domains}")
    yield from requests(context, tenants, partitions.tenants, "mailmill/tenant")


ALL = [campaign_tick, source_sync, warehouse_schedule, contacts_schedule, revalidation]
