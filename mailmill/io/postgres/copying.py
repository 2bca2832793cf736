"""COPY … TO STDOUT as a frame: the fastest way out of PostgreSQL that the driver alone has."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, LiteralString

import polars as pl
import psycopg


def read(
    conn: psycopg.Connection, statement: LiteralString, schema: pl.Schema, facts: Mapping[str, Any]
) -> pl.DataFrame:
    """What a COPY … TO STDOUT (FORMAT csv) answers. All of it is in memory at once, twice for a moment."""
    text = io.BytesIO()
    with conn.cursor() as cursor, cursor.copy(statement, facts) as copy:
        for row in copy:
            text.write(row)
    if not text.tell():
        return pl.DataFrame(schema=schema)
    text.seek(0)
    return pl.read_csv(text, has_header=False, schema=schema)
