"""ingest.validate: one vectorised pass over messy addresses (syntax, lists, slips, verdict, reason, score) against
email-validator a row without DNS, over the same rows in the same run.

usage: make bench BENCH=ingest_validate      (ROWS and ROUNDS in the environment; 100,000 and 3 by default)
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import polars as pl
from email_validator import EmailNotValidError, validate_email

sys.path.insert(0, str(Path(__file__).parent))

import measure
from messy_addresses import sample

from mailmill.pipelines.ingest import addresses

ROWS, ROUNDS = int(os.environ.get("ROWS", "100000")), int(os.environ.get("ROUNDS", "3"))


def one_by_one(typed: list[str]) -> int:
    """The reference. Out: how many it takes."""
    taken = 0
    for address in typed:
        try:
            validate_email(
                address, check_deliverability=False, allow_quoted_local=True, allow_display_name=True, strict=True
            )
            taken += 1
        except EmailNotValidError:
            pass
    return taken


def run(rows: int = ROWS, rounds: int = ROUNDS) -> None:
    typed = sample(rows)
    column = pl.Series(typed, dtype=pl.String)
    addresses.examine(column.head(1_000))  # tables are made once a process
    ours, reference = [], []
    for _ in range(rounds):
        addresses._idna.cache_clear()  # a first batch, not the second of its kind
        ours.append(rows / measure.seconds(lambda: addresses.examine(column)))
        reference.append(rows / measure.seconds(lambda: one_by_one(typed)))
    measure.result("ingest.validate", "rows/s", ours, reference)


if __name__ == "__main__":
    run()
