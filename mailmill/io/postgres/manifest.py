"""The manifest: which files of the lake are visible. The caller owns the transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from mailmill.io.lake import LakeFile
from mailmill.io.postgres.sql import statements

SQL = statements("manifest")


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedFile:
    """One visible file."""

    file: str
    part: str
    batch_id: int | None
    rows: int
    facts: dict[str, Any]
    published_at: datetime


def all_files(conn: psycopg.Connection) -> set[str]:
    """Every visible file, of whatever dataset and tenant."""
    return {file for (file,) in conn.execute(SQL["all_files"]).fetchall()}


def add(
    conn: psycopg.Connection,
    file: LakeFile,
    *,
    tenant_id: int,
    dataset: str,
    part: str = "",
    batch_id: int | None = None,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """List one more file of a dataset."""
    conn.execute(
        SQL["add"],
        {
            "file": file.file,
            "tenant_id": tenant_id,
            "dataset": dataset,
            "part": part,
            "batch_id": batch_id,
            "rows": file.rows,
            "bytes": file.bytes,
            "facts": Jsonb(dict(facts or {})),
        },
    )


def replace(
    conn: psycopg.Connection,
    files: Sequence[LakeFile],
    *,
    tenant_id: int,
    dataset: str,
    part: str = "",
    facts: Mapping[str, Any] | None = None,
) -> None:
    """Put a new generation in the place of the old one. Readers see the old or the new, never both."""
    conn.execute(SQL["withdraw"], {"tenant_id": tenant_id, "dataset": dataset, "part": part})
    for file in files:
        add(conn, file, tenant_id=tenant_id, dataset=dataset, part=part, facts=facts)


def listed(conn: psycopg.Connection, *, tenant_id: int, dataset: str, part: str | None = None) -> list[ListedFile]:
    """The visible files of a dataset, oldest first; `part=None` means of all its parts."""
    with conn.cursor(row_factory=class_row(ListedFile)) as cursor:
        cursor.execute(SQL["files"], {"tenant_id": tenant_id, "dataset": dataset, "part": part})
        return cursor.fetchall()
