"""Segments: rules over contacts, materialized; a partition a segment."""

from datetime import UTC, datetime

import dagster as dg

from mailmill.assets import conditions, partitions, reports
from mailmill.assets.resources import Mill
from mailmill.io.postgres import segments as stored
from mailmill.io.postgres.audiences import PostgresContacts
from mailmill.io.postgres.segments import PostgresSegments
from mailmill.pipelines.target import planning


@dg.asset(
    partitions_def=partitions.segments,
    deps=["contacts", "revalidated_contacts"],
    group_name="target",
    kinds={"polars", "parquet"},
    owners=["team:data"],
    automation_condition=conditions.refreshed_with_contacts(),
)
def segments(context: dg.AssetExecutionContext, mill: dg.ResourceParam[Mill]) -> dg.MaterializeResult:
    """The contacts a rule takes in, as of now, against the time before."""
    with mill.database.transaction() as conn:
        segment = stored.find(conn, "/".join(partitions.parts(context.partition_key)))
    generation = PostgresContacts(database=mill.database, lake=mill.lake).generation(segment.tenant_id)
    if generation is None:
        raise dg.Failure(str(planning.no_contacts(segment.tenant)), allow_retries=False)
    store = PostgresSegments(database=mill.database, lake=mill.lake)
    change = planning.refresh_segment(segment, store=store, generation=generation, now=datetime.now(UTC))
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": change.rows,
            "joined": change.joined,
            "left": change.left,
            "contacts_as_of": dg.MetadataValue.timestamp(generation.as_of),
            "rule": dg.MetadataValue.json(dict(segment.rule)),
            "chart": reports.bars(
                {"in the segment": change.rows, "joined": change.joined, "left": change.left}, title=segment.slug
            ),
        }
    )
