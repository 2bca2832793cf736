"""Segments: rules over contacts, materialized; a partition a segment."""

from datetime import UTC, datetime
from typing import Any

import dagster as dg
import polars as pl

from mailmill.assets import conditions, partitions, reports
from mailmill.assets.resources import Mill
from mailmill.errors import MailmillError, TransientError
from mailmill.io.postgres import segments as stored
from mailmill.io.postgres.audiences import PostgresContacts
from mailmill.io.postgres.segments import PostgresSegments
from mailmill.pipelines.ingest.masks import mask
from mailmill.pipelines.target import refreshing
from mailmill.pipelines.target.ports import Segment
from mailmill.pipelines.target.rereading import reread


@dg.asset(
    partitions_def=partitions.segments,
    deps=["published_contacts"],
    group_name="target",
    kinds={"polars", "parquet"},
    owners=["team:data"],
    automation_condition=conditions.refreshed_with_contacts(),
    retry_policy=dg.RetryPolicy(max_retries=3, delay=10, backoff=dg.Backoff.EXPONENTIAL),
)
def segments(context: dg.AssetExecutionContext, mill: dg.ResourceParam[Mill]) -> dg.MaterializeResult:
    """The contacts a rule takes in, as of now, against the time before."""
    store = PostgresSegments(database=mill.database, lake=mill.lake)
    try:
        with store.alone("/".join(partitions.parts(context.partition_key))) as segment:
            made = refreshing.refresh_segment(segment, store=store, contacts=_contacts(mill), now=datetime.now(UTC))
    except MailmillError as error:  # only a request settles a change, so what passes is tried again by this run
        raise dg.Failure(str(error), allow_retries=isinstance(error, TransientError)) from error
    change = made.change
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": change.rows,
            "joined": change.joined,
            "left": change.left,
            "share_of_contacts": change.rows / made.contacts if made.contacts else 0.0,
            "contacts_as_of": dg.MetadataValue.timestamp(made.contacts_as_of),
            "rule": dg.MetadataValue.json(_shown(dict(segment.rule))),
            "chart": reports.bars(
                {"in the segment": change.rows, "joined": change.joined, "left": change.left}, title=segment.slug
            ),
        }
    )


@dg.asset_check(
    asset=segments,
    partitions_def=partitions.segments,
    description="A segment holds contacts of the present generation, each once.",
)
def members_are_contacts(context: dg.AssetCheckExecutionContext, mill: dg.ResourceParam[Mill]) -> dg.AssetCheckResult:
    unknown, twice = reread(lambda: _strangers(context, mill))
    # contacts may have changed since the segment was made; then it is about to be made anew
    severity = dg.AssetCheckSeverity.ERROR if twice else dg.AssetCheckSeverity.WARN
    return dg.AssetCheckResult(
        passed=not unknown and not twice, severity=severity, metadata={"unknown": unknown, "twice": twice}
    )


@dg.asset_check(
    asset=segments,
    partitions_def=partitions.segments,
    description="A segment takes somebody in; one that takes in nobody is most often a slip in its rule.",
)
def somebody_is_in_it(context: dg.AssetCheckExecutionContext, mill: dg.ResourceParam[Mill]) -> dg.AssetCheckResult:
    _, members = reread(lambda: _materialized(context, mill))
    return dg.AssetCheckResult(
        passed=members.height > 0, severity=dg.AssetCheckSeverity.WARN, metadata={"contacts": members.height}
    )


def _shown(rule: Any) -> Any:
    """A rule with whom it names masked: Dagster's database holds no address."""
    match rule:
        case dict():
            return {subject: _shown(asked) for subject, asked in rule.items()}
        case list():
            return [_shown(one) for one in rule]
        case str() if "@" in rule or (rule.startswith("+") and sum(map(str.isdigit, rule)) > 6):
            return mask(rule)
    return rule


def _materialized(context: dg.AssetCheckExecutionContext, mill: Mill) -> tuple[Segment, pl.DataFrame]:
    with mill.database.transaction() as conn:
        segment = stored.find(conn, "/".join(partitions.parts(context.partition_key)))
    return segment, PostgresSegments(database=mill.database, lake=mill.lake).last(segment)


def _strangers(context: dg.AssetCheckExecutionContext, mill: Mill) -> tuple[int, int]:
    """How many members are no contacts, and how many are there twice."""
    segment, members = _materialized(context, mill)
    generation = _contacts(mill).generation(segment.tenant_id)
    assert generation is not None
    unknown = members.lazy().join(generation.contacts, on="contact_id", how="anti").select(pl.len()).collect().item()
    return unknown, members.height - members["contact_id"].n_unique()


def _contacts(mill: Mill) -> PostgresContacts:
    return PostgresContacts(database=mill.database, lake=mill.lake)
