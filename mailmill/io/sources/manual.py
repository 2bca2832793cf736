"""Contacts that a person types: the same way in as every other source."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import orjson
import polars as pl

from mailmill.pipelines.ingest.ports import Cursor, RawBatch, Refusal
from mailmill.pipelines.ingest.raw import CELL, RawTable, few, usual

ORIGIN = "manual"


@dataclass(frozen=True, slots=True, kw_only=True)
class Typed:
    """Contacts as typed, each a mapping of column -> text. Saying the same again later is a new statement."""

    rows: Sequence[Mapping[str, str]]
    at: datetime

    def batches(self, cursor: Cursor | None) -> Iterator[RawBatch | Refusal]:
        """One batch with all rows."""
        table = table_of(self.rows)
        said = orjson.dumps([self.at.isoformat(), [dict(row) for row in self.rows]], option=orjson.OPT_SORT_KEYS)
        key = hashlib.sha256(said).hexdigest()
        yield RawBatch(
            key=key, origin=ORIGIN, seen_at=self.at, table=table, few=few(table.frame), usual=usual(table.frame)
        )


def table_of(rows: Sequence[Mapping[str, str | None]]) -> RawTable:
    """Rows of text as a raw table; the line is the row's number, from 1; columns in order of first appearance."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = {CELL + name: pl.Series([row.get(name) for row in rows], dtype=pl.String) for name in names}
    frame = pl.DataFrame(
        {
            "line": pl.int_range(1, len(rows) + 1, dtype=pl.Int64, eager=True),
            "problem": pl.repeat(None, len(rows), dtype=pl.String, eager=True),
            "raw": pl.repeat(None, len(rows), dtype=pl.String, eager=True),
            **cells,
        }
    )
    return RawTable(frames=[frame], columns=tuple(names))
