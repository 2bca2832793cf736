"""The items of an API's answer as raw rows, those it says it has deleted as rows that are rejected for that reason."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
import polars as pl

from mailmill.io.sources.manual import table_of
from mailmill.pipelines.ingest.columns import headers
from mailmill.pipelines.ingest.raw import RawTable
from mailmill.pipelines.ingest.rejects import WITHDRAWN

_DELETED = ("deleted", "deleted_at")


def content_key(items: Sequence[Mapping[str, Any]]) -> str:
    """The same for the same items in the same order, whatever the order of an item's fields."""
    return hashlib.sha256(_json(items, orjson.OPT_SORT_KEYS).encode()).hexdigest()


def items_table(items: Sequence[Mapping[str, Any]]) -> RawTable:
    """A row an item."""
    gone = [_says_deleted(item) for item in items]
    names = [name for name in dict.fromkeys(name for item in items for name in item) if name not in _DELETED]
    columns = dict(zip(names, headers(names), strict=True))
    rows = [{columns[name]: _text(value) for name, value in item.items() if name in columns} for item in items]
    table = table_of(rows)
    if not any(gone):
        return table
    told = [_json(item) if deleted else None for item, deleted in zip(items, gone, strict=True)]
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
    return _json(value)


def _json(value: Any, option: int = 0) -> str:
    """A JSON value as text, of any depth: orjson reads 1,024 levels and writes 254."""
    try:
        return orjson.dumps(value, option=option).decode()
    except TypeError:
        parts, waiting = list[bytes](), [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, bytes):  # what is written already: JSON has no such values
            parts.append(one)
        elif isinstance(one, dict):
            inner = [part for key, said in one.items() for part in (b",", orjson.dumps(key), b":", said)]
            waiting += reversed([b"{", *inner[1:], b"}"])
        elif isinstance(one, list):
            waiting += reversed([b"[", *[part for said in one for part in (b",", said)][1:], b"]"])
        else:
            parts.append(orjson.dumps(one))
    return b"".join(parts).decode()
