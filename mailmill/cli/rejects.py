"""The verb about rows that were not taken in: show them, export them, read them again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mailmill.cli.app import Json, answer_json, answer_table, app, installation
from mailmill.cli.ingest import complain, run_again, show
from mailmill.composition import Installation
from mailmill.errors import Misconfigured
from mailmill.io.postgres import ingest as sources
from mailmill.io.postgres.ingest_store import IngestStore
from mailmill.pipelines.ingest import rejects

LAST_BATCH = 2**63 - 1  # PostgreSQL's bigint


@app.command("rejects")
def show_rejects(
    what: Annotated[str | None, typer.Argument(help="tenant, tenant/source, or a batch's number")] = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write them to this file, for a spreadsheet.")] = None,
    limit: Annotated[int, typer.Option(help="How many to show.", min=1)] = 50,
    retry: Annotated[
        bool, typer.Option("--retry", help="Read a source's rejected rows again, as it is applied now.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="With --retry: load also where more than max_reject_share is bad.")
    ] = False,
    json: Json = False,
) -> None:
    """Rows that were not taken in: source, line, field, reason and the text as it came."""
    mill = installation()
    if retry or force:
        if not retry or csv is not None:
            raise Misconfigured("--force goes with --retry, and --csv without it")
        _retry(mill, what, force, json)
        return
    found = IngestStore(database=mill.database, lake=mill.lake).rejected(**_scope(what))
    if csv is not None:
        rows = found.collect()
        try:
            csv.write_bytes(rejects.as_csv(rows))
        except OSError as error:
            raise Misconfigured(f"cannot be written: {error.strerror}", place=str(csv)) from None
        print(f"{rows.height:,} rejected rows in {csv}")
        return
    counts = rejects.counted(found.select("reason").collect())
    shown = found.head(limit).collect().to_dicts()
    if json:
        answer_json({"reasons": counts, "rows": shown})
        return
    answer_table([{"rows": n, "reason": reason, "meaning": rejects.REASONS.get(reason, "")}
                  for reason, n in counts.items()], title="rejected, by reason")  # fmt: skip
    if shown:
        answer_table([{**row, "raw": str(row["raw"])[:60]} for row in shown], title=f"the newest {len(shown)}")


def _retry(mill: Installation, what: str | None, force: bool, json: bool) -> None:
    with mill.database.transaction() as conn:
        row = sources.source(conn, what or "")
    done = run_again(mill, row, force=force)
    show(done, json)
    complain(done)


def _scope(what: str | None) -> dict[str, Any]:
    if what is None:
        return {}
    if what.isascii() and what.isdecimal():
        if int(what) > LAST_BATCH:
            raise Misconfigured(f"there is no batch {what}", place="WHAT")
        return {"batch_id": int(what)}
    tenant, _, source = what.partition("/")
    return {"tenant": tenant, "source": source or None}
