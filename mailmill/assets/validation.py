"""Contacts validated again: by today's rules where older ones examined them, and by what DNS says of their domains."""

from datetime import UTC, datetime

import dagster as dg
from pydantic import Field

from mailmill.assets import partitions, reports
from mailmill.assets.contacts import OWNERS, contacts
from mailmill.assets.resources import Mill
from mailmill.errors import Misconfigured
from mailmill.io.postgres import campaigns, domains
from mailmill.io.postgres.revalidation import RevalidationStore
from mailmill.pipelines.ingest import stage
from mailmill.pipelines.ingest.generations import Published
from mailmill.pipelines.ingest.revalidation import Revalidated, revalidate


class AskConfig(dg.Config):
    """What to ask DNS for although its last answer still holds, as after a resolver that said what is not so."""

    domains: list[str] = Field(default_factory=list)  # in ASCII
    all_domains: bool = False


@dg.asset(
    partitions_def=partitions.tenants,
    deps=[contacts],
    group_name="ingest",
    kinds={"postgres", "polars"},
    owners=OWNERS,
)
def revalidated_contacts(
    context: dg.AssetExecutionContext, config: AskConfig, mill: dg.ResourceParam[Mill]
) -> dg.MaterializeResult:
    """What is thought of a tenant's addresses, brought up to date; what changed is published. Safe to kill.

    Published is also what a run that was killed has found out: to look whether there is any costs seconds.
    """
    with mill.database.transaction() as conn:
        tenant_id = campaigns.tenant_id(conn, context.partition_key)
        if config.domains or config.all_domains:
            if mill.resolver is None:
                raise Misconfigured("no resolver is set, so no DNS can be asked", place="MAILMILL_RESOLVER")
            domains.ask_again(conn, tenant_id, () if config.all_domains else config.domains, _now())
    store = RevalidationStore(database=mill.database)
    done = revalidate(
        tenant_id, domains=store, contacts=store, resolver=mill.resolver, now=_now, progress=context.log.info
    )
    published = stage.publish_contacts(tenant_id, mill.ingest, now=_now())
    return dg.MaterializeResult(metadata=_numbers(done, published))


def _now() -> datetime:
    return datetime.now(UTC)


def _numbers(done: Revalidated, published: Published) -> dict[str, dg.MetadataValue | int | bool]:
    return {
        "asked_dns": done.asked_dns,
        "domains_asked": done.domains_asked,
        "domains_changed": done.domains_changed,
        "contacts_examined": done.contacts_examined,
        "contacts_changed": done.contacts_changed,
        "published": published.files_written > 0,
        "states": dg.MetadataValue.json(dict(done.states)),
        "problems": dg.MetadataValue.json(dict(done.problems)),
        "chart": reports.bars(done.states, title="domains by what DNS said"),
    }
