"""From a source's rows to contacts: raw -> validated and rejected -> contacts; a partition a source."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime

import dagster as dg
from pydantic import Field

from mailmill.assets import partitions, reports
from mailmill.assets.resources import Mill
from mailmill.errors import MailmillError, SourceUnavailable, StoreUnavailable, TransientError, unforeseen
from mailmill.pipelines.ingest import batches, stage
from mailmill.pipelines.ingest.ports import SourceRow

PAUSE_S = 300.0  # before what failed for a passing reason is tried again
OWNERS = ["team:data"]


class ReadConfig(dg.Config):
    """What to read. Without files: what is new in the source's folder, or at its API."""

    files: list[str] = Field(default_factory=list)  # relative ones lie in the project folder
    full: bool = False  # an API from its beginning, so that what it has no more is seen
    accept_columns: bool = False  # let in what is held because its columns changed
    discard: list[int] = Field(default_factory=list)  # batches that are held or withheld, and wrong


class ValidateConfig(dg.Config):
    """What to divide. By default what is new."""

    again: bool = False  # every batch that is kept, by the rules of today
    retry: bool = False  # of these only what has rejected rows
    batch: int = 0  # of these this one alone; 0: all of them


class LoadConfig(dg.Config):
    force: bool = False  # also where more rows were rejected, or contacts withdrawn, than is allowed without a person


@contextmanager
def _work(context: dg.AssetExecutionContext, mill: Mill) -> Iterator[SourceRow]:
    """The source of this partition. What goes wrong is remembered with it, and said without a stack trace.

    Of what nobody foresaw the kind alone is said, and what it befell: its text may hold a row. The run has it, with its
    trace.
    """
    source = mill.source("/".join(partitions.parts(context.partition_key)))
    try:
        yield source
    except MailmillError as error:
        wait = error.retry_after_s if isinstance(error, SourceUnavailable) else None
        if wait is None and isinstance(error, TransientError):
            wait = PAUSE_S
        _remember(context, mill, source, str(error), wait)
        raise dg.Failure(str(error), allow_retries=isinstance(error, TransientError)) from error
    except Exception as error:
        text = f"{unforeseen(error)}: see run {context.run_id}"
        _remember(context, mill, source, text)
        raise dg.Failure(text, allow_retries=False) from error


def _remember(
    context: dg.AssetExecutionContext, mill: Mill, source: SourceRow, error: str, retry_after_s: float | None = None
) -> None:
    """With the source, unless the database is what is wrong: then the first error is still the one that is told."""
    try:
        mill.ingest.remember(source, error, retry_after_s=retry_after_s)
    except StoreUnavailable:
        context.log.warning(f"what went wrong is not remembered with {source.name}: the database does not answer")


@dg.asset(partitions_def=partitions.sources, group_name="ingest", kinds={"parquet"}, owners=OWNERS)
def raw_contacts(
    context: dg.AssetExecutionContext, config: ReadConfig, mill: dg.ResourceParam[Mill]
) -> dg.MaterializeResult:
    """What a source said, as it said it, batch by batch. The same content twice is one batch."""
    with _work(context, mill) as source:
        feed = mill.feed(source, [mill.project / file for file in config.files], full=config.full)
        received = stage.receive(
            source, feed, mill.ingest, accept_columns=config.accept_columns, discard=config.discard,
            progress=context.log.info,
        )  # fmt: skip
        broken = received.broken_off
        said = [*([str(broken)] if broken else []), *(refusal.text for refusal in received.refused)]
        mill.ingest.remember(source, "; ".join(said) or None, retry_after_s=broken.retry_after_s if broken else None)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": received.rows,
            "batches": len(received.batches),
            "known_before": received.known,
            "refused": reports.table([{"origin": r.origin, "why": r.text} for r in received.refused]),
            "held": reports.table([asdict(held) for held in received.held]),
            "broken_off": str(broken or ""),
            "notes": list(received.notes),
        }
    )


@dg.asset_check(
    asset=raw_contacts,
    partitions_def=partitions.sources,
    description="No batch is held because of its columns: they are not those of the batch before (on_change: hold), or "
    "the source's mapping cannot read them.",
)
def columns_are_known(context: dg.AssetCheckExecutionContext, mill: dg.ResourceParam[Mill]) -> dg.AssetCheckResult:
    held = mill.ingest.held(mill.source("/".join(partitions.parts(context.partition_key))))
    return dg.AssetCheckResult(
        passed=not held,
        severity=dg.AssetCheckSeverity.WARN,  # what is not held goes on
        metadata={
            "held": reports.table([asdict(batch) for batch in held]),
            "remedy": "Look at the file, then correct `columns` of the source and apply it, let it in as it is "
            "(`accept_columns`), or say that it is wrong (`discard`): "
            f"mailmill ingest {'/'.join(partitions.parts(context.partition_key))} --accept-columns, or --discard BATCH",
        },
    )


@dg.multi_asset(
    specs=[
        dg.AssetSpec(
            "validated_contacts",
            deps=[raw_contacts],
            group_name="ingest",
            kinds={"polars"},
            owners=OWNERS,
            description="Rows with an address or phone number that can be written to, normalised, with a verdict.",
        ),
        dg.AssetSpec(
            "rejected_contacts",
            deps=[raw_contacts],
            group_name="ingest",
            kinds={"polars"},
            owners=OWNERS,
            description="Rows that cannot be used, with source, line, field, reason and the text as it came.",
        ),
    ],
    partitions_def=partitions.sources,
    name="validate_contacts",
)
def validate_contacts(
    context: dg.AssetExecutionContext, config: ValidateConfig, mill: dg.ResourceParam[Mill]
) -> Iterator[dg.MaterializeResult]:
    """Divide raw rows into those that hold and those that do not; nothing is dropped."""
    with _work(context, mill) as source:
        if config.again or config.retry:
            validated = stage.validate_again(
                source, mill.ingest, rejected=config.retry, batch_id=config.batch or None, progress=context.log.info
            )
        else:
            validated = stage.validate(source, mill.ingest, progress=context.log.info)
    share = validated.rejected / validated.read if validated.read else 0.0
    yield dg.MaterializeResult(
        asset_key="validated_contacts",
        metadata={
            "dagster/row_count": validated.accepted,
            "read": validated.read,
            "masked_sample": reports.table(validated.sample),
            "notes": list(validated.notes),
            "held": list(validated.held),
        },
    )
    yield dg.MaterializeResult(
        asset_key="rejected_contacts",
        metadata={
            "dagster/row_count": validated.rejected,
            "share": share,
            "share_allowed": source.spec.max_reject_share,
            "reasons": reports.counts(validated.reasons, what="reason"),
            # an empty picture says nothing
            **({"chart": reports.bars(validated.reasons, title="rejected by reason")} if validated.reasons else {}),
        },
    )


@dg.asset_check(
    asset=dg.AssetKey("validated_contacts"),
    blocking=True,
    partitions_def=partitions.sources,
    description="No batch that waits to be loaded has more rejected rows than its source allows (max_reject_share).",
)
def rejects_are_few(
    context: dg.AssetCheckExecutionContext, config: LoadConfig, mill: dg.ResourceParam[Mill]
) -> dg.AssetCheckResult:
    source = mill.source("/".join(partitions.parts(context.partition_key)))
    waiting = mill.ingest.batches(source, "validated")
    over = batches.withheld(source, waiting)
    # one bad file does not hold up the others: it is withheld, and loaded by hand or after a correction, or discarded
    stops = len(over) == len(waiting) and not config.force
    return dg.AssetCheckResult(
        passed=not over,
        severity=dg.AssetCheckSeverity.ERROR if stops else dg.AssetCheckSeverity.WARN,
        metadata={
            "waiting": len(waiting),
            "share_allowed": source.spec.max_reject_share,
            "withheld": reports.table(
                [{"batch": b.id, "origin": b.origin, "read": b.shown, "rejected": b.refused} for b in over]
            ),
        },
    )


@dg.asset(
    partitions_def=partitions.sources,
    deps=["validated_contacts"],
    group_name="ingest",
    kinds={"postgres", "parquet"},
    owners=OWNERS,
)
def contacts(
    context: dg.AssetExecutionContext, config: LoadConfig, mill: dg.ResourceParam[Mill]
) -> dg.MaterializeResult:
    """One person, one contact, across all sources of the tenant; each field says which source and batch it is from."""
    with _work(context, mill) as source:
        loaded = stage.load(source, mill.ingest, mill.ingest, force=config.force, progress=context.log.info)
        published = stage.publish_contacts(source.tenant_id, mill.ingest, now=datetime.now(UTC))
    counts = loaded.counts
    what_became = {
        "new": counts.new,
        "changed": counts.changed,
        "duplicates_within": counts.duplicates_within,
        "duplicates_across": counts.duplicates_across,
    }
    return dg.MaterializeResult(
        metadata={
            "batches_loaded": counts.batches,
            "batches_withheld": len(loaded.withheld),
            "accepted": counts.accepted,
            **what_became,
            "withdrawn": counts.withdrawn,
            "removed": counts.removed,
            "notes": list(loaded.notes),
            # an empty picture says nothing
            **({"chart": reports.bars(what_became, title="accepted rows")} if any(what_became.values()) else {}),
            **reports.publication(published),
        }
    )
