"""The items of an API's answer as raw rows, those it says it has deleted as rows that are rejected for that reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import polars as pl

from mailmill.io.sources.manual import table_of
from mailmill.pipelines.ingest.raw import RawTable
from mailmill.pipelines.ingest.rejects import WITHDRAWN

_DELETED = ("deleted", "deleted_at")
_FEW = 20  # items that say nothing about a field which all of them lack


def items_table(items: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> RawTable:
    """A row an item. In: fields, the documented ones, which are columns although nobody has them."""
    gone = [_says_deleted(item) for item in items]
    rows = [{name: _text(value) for name, value in item.items() if name not in _DELETED} for item in items]
    if rows and len(items) < _FEW:  # an API may leave out what is null
        rows[0] = rows[0] | {name: None for name in fields if name not in rows[0]}
    table = table_of(rows)
    if not any(gone):
        return table
    told = [orjson.dumps(item).decode() if deleted else None for item, deleted in zip(items, gone, strict=True)]
    raw = pl.Series(told, dtype=pl.String)
    problem = pl.when(raw.is_not_null()).then(pl.lit(WITHDRAWN)).alias("problem")
    return RawTable(frames=[table.frame.with_columns(problem, raw=raw)], columns=table.columns)


def _says_deleted(item: Mapping[str, Any]) -> bool:
    deleted = item.get("deleted")
    return bool(item.get("deleted_at")) or deleted is True or str(deleted).lower() in ("true", "1")


def _text(value: Any) -> str | None:
    """A JSON value as a cell: lists of words joined by semicolons, what is nested as JSON."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ";".join(value)
    return orjson.dumps(value).decode()
