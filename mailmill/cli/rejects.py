"""The verbs about rows that were not taken in: show them, export them, read them again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import polars as pl
import typer

from mailmill.cli import imports
from mailmill.cli.app import Json, OrShow, answer_json, answer_table, app, installation
from mailmill.composition import Installation
from mailmill.errors import Misconfigured
from mailmill.io.postgres import campaigns
from mailmill.io.postgres import ingest as sources
from mailmill.pipelines.ingest import rejects
from mailmill.pipelines.target.rereading import reread

LAST_BATCH = 2**63 - 1  # PostgreSQL's bigint
LOST = "a file of rejected rows is gone; `mailmill ingest SOURCE --again` makes it anew, or restore it from a backup"
group = typer.Typer(
    cls=OrShow, help="Rows that were not taken in: WHAT, or `show WHAT`, shows them; `retry` reads again."
)
app.add_typer(group, name="rejects")


@group.command("show")
def show(
    what: Annotated[str | None, typer.Argument(help="tenant, tenant/source, or a batch's number")] = None,
    reason: Annotated[str | None, typer.Option(help="Only those rejected for this reason.")] = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write them to this file, for a spreadsheet.")] = None,
    limit: Annotated[int, typer.Option(help="How many to show.", min=1)] = 50,
    json: Json = False,
) -> None:
    """Rows that were not taken in: source, line, field, reason and the text as it came."""
    if reason is not None and reason not in rejects.REASONS:
        known = ", ".join(rejects.REASONS)
        raise Misconfigured(f"there is no reason {reason!r}", place="--reason", remedy=f"There are: {known}.")
    mill = installation()
    _must_exist(mill, what)

    def found() -> pl.LazyFrame:
        rows = mill.ingest.rejected(**_scope(what))
        return rows if reason is None else rows.filter(pl.col("reason") == reason)

    def looked() -> tuple[dict[str, int], list[dict[str, Any]]]:
        rows = found()
        return rejects.counted(rows.select("reason").collect()), rows.head(limit).collect().to_dicts()

    if csv is not None:
        _export(reread(lambda: found().collect(), lost=LOST), csv, json)
        return
    counts, shown = reread(looked, lost=LOST)
    if json:
        answer_json({"reasons": counts, "rows": shown})
        return
    answer_table([{"rows": n, "reason": reason, "meaning": rejects.REASONS.get(reason, "")}
                  for reason, n in counts.items()], title="rejected, by reason")  # fmt: skip
    if shown:
        answer_table([{**row, "raw": str(row["raw"])[:60]} for row in shown], title=f"the newest {len(shown)}")


def _must_exist(mill: Installation, what: str | None) -> None:
    """Raises: Misconfigured when there is no such tenant, source or batch: "nothing" would be no answer.

    A source that was deleted keeps its rejects.
    """
    scope = _scope(what)
    with mill.database.transaction() as conn:
        if "batch_id" in scope:
            sources.of_batch(conn, scope["batch_id"], deleted=True)
        elif what is not None and scope["source"] is None:
            campaigns.tenant_id(conn, what.removesuffix("/"))
        elif what is not None:
            sources.source(conn, what, deleted=True)


def _export(rows: pl.DataFrame, csv: Path, json: bool) -> None:
    try:
        csv.write_bytes(rejects.as_csv(rows))
    except OSError as error:
        raise Misconfigured(f"cannot be written: {error.strerror}", place=str(csv)) from None
    answer_json({"rows": rows.height, "file": str(csv)}) if json else print(f"{rows.height:,} rejected rows in {csv}")


@group.command("retry")
def retry(
    what: Annotated[str, typer.Argument(help="tenant/source, or a batch's number")],
    force: Annotated[bool, typer.Option("--force", help="Load also where more than max_reject_share is bad.")] = False,
    json: Json = False,
) -> None:
    """Divide batches with rejected rows again, as the source is applied now: what holds comes in, and contacts from
    accepted rows of these batches change, or go, as the rules of today say. A run that the UI shows."""
    mill = installation()
    batch = _scope(what).get("batch_id", 0)
    with mill.database.transaction() as conn:
        row = sources.of_batch(conn, batch) if batch else sources.source(conn, what)
    done = [imports.again(mill, row, rejected=True, batch=batch, force=force)]
    imports.show(done, json)
    imports.complain(done)


def _scope(what: str | None) -> dict[str, Any]:
    if what is None:
        return {}
    if what.isascii() and what.isdecimal():
        if int(what) > LAST_BATCH:
            raise Misconfigured(f"there is no batch {what}", place="WHAT")
        return {"batch_id": int(what)}
    tenant, _, source = what.partition("/")
    return {"tenant": tenant, "source": source or None}
