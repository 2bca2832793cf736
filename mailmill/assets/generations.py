"""A tenant's contacts as readers see them: generations in the lake, published also where no batch changed them."""

from datetime import UTC, datetime

import dagster as dg
import polars as pl

from mailmill.assets import partitions, reports
from mailmill.assets.contacts import OWNERS, contacts
from mailmill.assets.resources import Mill
from mailmill.errors import TransientError, told
from mailmill.io.postgres import generations
from mailmill.io.postgres.audiences import PostgresContacts
from mailmill.pipelines.ingest import stage
from mailmill.pipelines.ingest.generations import Published
from mailmill.pipelines.target.ports import Generation
from mailmill.pipelines.target.rereading import reread

# reported, never made: what segments follow, whoever published (sensor `publications`)
published_contacts = dg.AssetSpec(
    "published_contacts",
    deps=[contacts, "revalidated_contacts", "contact_generations"],
    partitions_def=partitions.tenants,
    group_name="ingest",
    kinds={"parquet"},
    owners=OWNERS,
    description="A tenant's contacts as its segments see them, whenever they have become others.",
)


@dg.asset(deps=[contacts], group_name="ingest", kinds={"parquet"}, owners=OWNERS)
def contact_generations(mill: dg.ResourceParam[Mill]) -> dg.MaterializeResult:
    """Every tenant's contacts as they are now: reactions and suppressions change them without any new batch.

    What is wrong with one tenant's holds up nobody else's.
    """
    with mill.database.transaction() as conn:
        tenants = generations.tenants(conn)
    published, failed = dict[str, Published](), dict[str, Exception]()
    for slug, number in tenants.items():
        try:
            published[slug] = stage.publish_contacts(number, mill.ingest, now=datetime.now(UTC))
        except Exception as error:
            failed[slug] = error
    if failed:
        said = [f"{slug}: {told(error)}" for slug, error in failed.items()]
        passing = all(isinstance(error, TransientError) for error in failed.values())
        raise dg.Failure("; ".join(said), allow_retries=passing) from next(iter(failed.values()))
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": sum(one.rows for one in published.values()),
            "files_written": sum(one.files_written for one in published.values()),
            "tenants": reports.table(
                [
                    {
                        "tenant": slug, "contacts": one.rows, "merged": one.merged, "files_written": one.files_written,
                        "files_kept": one.files_kept, "bytes_written": one.bytes_written,
                        "seconds": round(one.seconds, 2),
                    }
                    for slug, one in published.items()
                ]
            ),
        }
    )  # fmt: skip


@dg.asset_check(
    asset=contacts,
    blocking=True,
    partitions_def=partitions.sources,
    description="In the published generation no two contacts share an address or number they are known by.",
)
def contacts_are_unique(context: dg.AssetCheckExecutionContext, mill: dg.ResourceParam[Mill]) -> dg.AssetCheckResult:
    tenant_id = mill.source("/".join(partitions.parts(context.partition_key))).tenant_id
    store = PostgresContacts(database=mill.database, lake=mill.lake)
    counts = reread(lambda: _counts(store.generation(tenant_id)))
    if counts is None:
        return dg.AssetCheckResult(passed=False, description="no generation is published")
    contacts, ids, keys, distinct = counts
    return dg.AssetCheckResult(
        passed=keys == distinct and contacts == ids and keys >= contacts,
        metadata={"contacts": contacts, "keys": keys, "distinct_keys": distinct},
    )


def _counts(generation: Generation | None) -> tuple[int, int, int, int] | None:
    """Rows, ids, keys and distinct keys of a generation."""
    if generation is None:
        return None
    # hashes of them: ten million addresses fit into memory
    aliases = generation.contacts.select(alias=pl.col("aliases").explode(empty_as_null=False).hash())
    keys, distinct = aliases.select(keys=pl.len(), distinct=pl.col("alias").n_unique()).collect().row(0)
    rows, ids = generation.contacts.select(rows=pl.len(), ids=pl.col("contact_id").n_unique()).collect().row(0)
    return rows, ids, keys, distinct
