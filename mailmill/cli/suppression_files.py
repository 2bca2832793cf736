"""Suppressions as a CSV file: as they are written for a spreadsheet, and read back from one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import polars as pl

from mailmill.cli import targeting
from mailmill.errors import Misconfigured
from mailmill.io.postgres.suppressions import ENDLESS, Reason
from mailmill.pipelines.ingest import cells
from mailmill.pipelines.ingest.rejects import defused

COLUMNS = ("address", "channel", "reason", "scope", "tenant", "campaign", "created_at", "expires_at", "note")
EVERY_TENANT = "every tenant"  # in the place of a tenant's slug
# what is to be suppressed, by line of the file; reason, end and note are null where the file says nothing of them
ASKED_SCHEMA = pl.Schema(
    {
        "line": pl.Int64(),
        "text": pl.String(),
        "reason": pl.String(),
        "until": pl.Datetime("us", "UTC"),
        "note": pl.String(),
    }
)


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> int:
    """UTF-8 with BOM, formulas defused. Out: how many. Raises: Misconfigured when it cannot be written."""
    columns = {name: [None if row[name] is None else str(row[name]) for row in rows] for name in COLUMNS}
    frame = pl.DataFrame(columns, schema=dict.fromkeys(COLUMNS, pl.String)).with_columns(defused(pl.col(pl.String)))
    try:
        path.write_bytes(b"\xef\xbb\xbf" + frame.write_csv(line_terminator="\r\n").encode())
    except OSError as error:
        raise Misconfigured(f"cannot be written: {error.strerror}", place=str(path)) from None
    return frame.height


def read(path: Path, tenant: str | None, now: datetime) -> tuple[pl.DataFrame, dict[str, int]]:
    """What of a file is for this tenant (None: for every tenant), by reason and end where it is one that `write` wrote.

    Out:    ASKED_SCHEMA; and how many of its rows are not for it, or count no more, by why.
    Raises: Misconfigured for a file that cannot be read, a reason there is none, or an end that is no time.
    """
    table = targeting.table(path, COLUMNS)
    if table is None:
        return asked(targeting.lines(path)), {}
    rows = table.with_columns(
        until=cells.time(table["expires_at"]),
        note=pl.col("note").str.replace(r"^'([=+\-@\t])", "$1"),
        line=pl.int_range(pl.len(), dtype=pl.Int64) + 2,
    )
    _refuse(path, rows, pl.col("until").is_null() & pl.col("expires_at").is_not_null(), "expires_at", "no time")
    _refuse(path, rows, ~pl.col("reason").is_in(get_args(Reason)), "reason", "no reason for a suppression")
    theirs = (pl.col("tenant") == EVERY_TENANT) if tenant is None else (pl.col("tenant") == tenant).fill_null(True)
    rows = rows.with_columns(
        skipped=pl.when(pl.col("reason") == "forgotten").then(pl.lit("forgotten"))
        .when(~theirs & (pl.col("scope") == "all")).then(pl.lit("for every tenant"))
        .when(~theirs.fill_null(False)).then(pl.lit("of another tenant"))
        .when(pl.col("scope") == "campaign").then(pl.lit("for one campaign"))
        .when(pl.col("until") <= now).then(pl.lit("ended"))
    )  # fmt: skip
    endless = pl.col("reason").is_in(ENDLESS)
    kept = rows.filter(pl.col("skipped").is_null()).with_columns(
        text=pl.col("address").fill_null(""), until=pl.when(~endless).then("until")
    )
    counted = rows.drop_nulls("skipped").group_by("skipped").len().sort("skipped")
    return kept.match_to_schema(ASKED_SCHEMA, extra_columns="ignore"), dict(counted.iter_rows())


def asked(
    typed: Sequence[str], reason: Reason | None = None, until: datetime | None = None, note: str | None = None
) -> pl.DataFrame:
    """Addresses, all for one reason. Out: ASKED_SCHEMA."""
    named = {"line": range(1, len(typed) + 1), "text": typed}
    return pl.DataFrame(named | {"reason": reason, "until": until, "note": note}, schema=ASKED_SCHEMA)


def _refuse(path: Path, rows: pl.DataFrame, wrong: pl.Expr, column: str, what: str) -> None:
    for line, text in rows.filter(wrong).head(1).select("line", column).iter_rows():
        raise Misconfigured(f"{column}: {text!r} is {what}", place=f"{path}, row {line}")
