"""From a due campaign to its deliveries: the audience is frozen, then the ledger is worked; a partition a campaign."""

import time

import dagster as dg

from mailmill.assets import partitions, progress, reports
from mailmill.assets.resources import Mill
from mailmill.io.postgres import campaigns as stored
from mailmill.io.postgres import control

BY = "dagster"
OWNERS = ["team:campaigns"]
WATCH_S = 2.0  # between looks at a campaign that workers send
URGENT = "dagster/priority"  # of a run that has a campaign to start


class SliceConfig(dg.Config):
    """How long one run works at a campaign before the next tick's run goes on."""

    max_seconds: float = 900.0


def _campaign(context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext, mill: Mill) -> stored.Campaign:
    with mill.database.transaction() as conn:
        return stored.find(conn, "/".join(partitions.parts(context.partition_key)))


@dg.asset(
    partitions_def=partitions.campaigns,
    deps=["segments"],
    group_name="target",
    kinds={"polars", "postgres", "parquet"},
    owners=OWNERS,
)
def audience(context: dg.AssetExecutionContext, mill: dg.ResourceParam[Mill]) -> dg.MaterializeResult:
    """Who is mailed and with what, frozen when the campaign starts; the ledger has one row for each of them.

    A campaign that was frozen before stays as it is; this then only reports it.
    """
    campaign = _campaign(context, mill)
    planned = mill.start_due(campaign.campaign_id, by=BY)
    if planned is not None and planned.state in ("failed", "missed"):
        raise dg.Failure(planned.reason or planned.state, allow_retries=False)
    with mill.database.transaction() as conn:
        facts = control.audience(conn, campaign.campaign_id)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": facts.planned,
            "state": facts.state,
            "exclusions": reports.counts(facts.exclusions, what="excluded because"),
            "chart": reports.bars({"planned": facts.planned, **facts.exclusions}, title="audience and exclusions"),
            "domains": reports.counts(facts.domains, what="domain"),
        }
    )


@dg.asset_check(
    asset=audience,
    blocking=True,
    partitions_def=partitions.campaigns,
    description="Nobody who is suppressed is waiting in the ledger: whoever was suppressed later is taken out at the "
    "claim, and nobody stands in it twice.",
)
def audience_is_clean(context: dg.AssetCheckExecutionContext, mill: dg.ResourceParam[Mill]) -> dg.AssetCheckResult:
    campaign = _campaign(context, mill)
    with mill.database.transaction() as conn:
        dirt = control.audience_dirt(conn, campaign.campaign_id)
    return dg.AssetCheckResult(
        passed=not dirt.duplicates and not dirt.suppressed_when_frozen,
        metadata={
            "duplicates": dirt.duplicates,
            "suppressed_when_frozen": dirt.suppressed_when_frozen,
            "suppressed_since": dirt.suppressed_since,
        },
    )


@dg.asset(
    partitions_def=partitions.campaigns,
    deps=[audience],
    group_name="send",
    kinds={"postgres", "smtp"},
    owners=OWNERS,
    pool="send",
)
def deliveries(
    context: dg.AssetExecutionContext, config: SliceConfig, mill: dg.ResourceParam[Mill]
) -> dg.MaterializeResult:
    """A slice of a campaign's ledger, handed over to its relay. Killed at any moment, the next run goes on.

    Where send workers run (`mailmill send`), they send and this watches.
    """
    campaign = _campaign(context, mill)
    deadline = time.monotonic() + config.max_seconds
    sent: dict[str, int] = {}
    mill.settle(by=BY)  # what was cancelled or has ended is no work
    with progress.followed(context, mill, campaign.campaign_id):
        watched = _watch(context.instance, campaign, mill, deadline)
        left = deadline - time.monotonic()
        if left > 0 and mill.account(campaign.campaign_id).open and not _workers(campaign, mill):
            sent = mill.send_slice(campaign.name, max_seconds=left, progress=context.log.info)
    found = progress.look(mill, campaign.campaign_id)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": found.planned,
            **progress.metadata(found),
            "this_run": reports.counts(sent, what="became"),
            "chart": reports.bars(found.by_state, title="the ledger by state"),
            "open": found.open,
            "sent_by": "workers" if watched and not sent else "this run",
        }
    )


def _watch(instance: dg.DagsterInstance, campaign: stored.Campaign, mill: Mill, deadline: float) -> bool:
    """Look on while workers live that may send it, it runs and something is open; whoever waits for a place among the
    runs gets ours, unless it is to look on as well. Out: whether any worker lived."""
    watched = False
    while time.monotonic() < deadline and _workers(campaign, mill):
        account = mill.account(campaign.campaign_id)
        if account.state != "running" or not account.open or _somebody_waits(instance):
            return True
        watched = True
        time.sleep(WATCH_S)
    return watched


def _workers(campaign: stored.Campaign, mill: Mill) -> bool:
    with mill.database.transaction() as conn:
        return control.live_workers(conn, campaign.name) > 0


def _somebody_waits(instance: dg.DagsterInstance) -> bool:
    queued = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.QUEUED]))
    return any(run.job_name != "campaign" or URGENT in run.tags for run in queued)


@dg.asset_check(
    asset=deliveries,
    partitions_def=partitions.campaigns,
    description="The ledger adds up: every recipient of the frozen audience is in exactly one state.",
)
def every_recipient_is_accounted_for(
    context: dg.AssetCheckExecutionContext, mill: dg.ResourceParam[Mill]
) -> dg.AssetCheckResult:
    account = mill.account(_campaign(context, mill).campaign_id)
    return dg.AssetCheckResult(
        passed=sum(account.by_state.values()) == account.planned,
        metadata={"planned": account.planned, **account.by_state},
    )


@dg.asset_check(
    asset=deliveries,
    partitions_def=partitions.campaigns,
    description="Bounces and complaints stay where a sender's reputation survives: hard bounces at most 5 %, "
    "complaints at most 0.3 % of what was accepted (Gmail's and Yahoo's limit; from 0.1 % it warns).",
)
def reputation_is_safe(context: dg.AssetCheckExecutionContext, mill: dg.ResourceParam[Mill]) -> dg.AssetCheckResult:
    with mill.database.transaction() as conn:
        rates = control.reputation(conn, _campaign(context, mill).campaign_id)
    accepted = max(1, rates.accepted)
    bounced, complained = rates.bounced_hard / accepted, rates.complained / accepted
    severe = bounced > 0.05 or complained > 0.003
    return dg.AssetCheckResult(
        passed=not severe and complained <= 0.001,
        severity=dg.AssetCheckSeverity.ERROR if severe else dg.AssetCheckSeverity.WARN,
        metadata={
            "accepted": rates.accepted,
            "bounced_hard": rates.bounced_hard,
            "complained": rates.complained,
            "bounce_rate": bounced,
            "complaint_rate": complained,
        },
    )
