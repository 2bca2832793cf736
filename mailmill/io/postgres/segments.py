"""Segments: as applied in PostgreSQL, materialized in the lake (`Segments` of pipelines/target/ports.py)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import polars as pl
import psycopg
from psycopg.rows import class_row

from mailmill.errors import Misconfigured
from mailmill.io.lake import Lake
from mailmill.io.postgres import manifest
from mailmill.io.postgres.database import Database, driver_errors
from mailmill.io.postgres.sql import statements
from mailmill.pipelines.target.ports import Segment
from mailmill.pipelines.target.segments import SEGMENT_SCHEMA

SQL = statements("segments")


def of_tenant(conn: psycopg.Connection, tenant: str, slug: str | None = None) -> list[Segment]:
    """A tenant's segments, or the one of a slug."""
    with conn.cursor(row_factory=class_row(Segment)) as cursor:
        return cursor.execute(SQL["find"], {"tenant": tenant, "slug": slug}).fetchall()


def find(conn: psycopg.Connection, name: str) -> Segment:
    """The segment `tenant/slug`.

    Raises: Misconfigured when there is none.
    """
    tenant, _, slug = name.partition("/")
    found = of_tenant(conn, tenant, slug)
    if not found:
        raise Misconfigured(f"there is no segment {name!r}", remedy="Name it as tenant/segment, or apply it first.")
    return found[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresSegments:
    """Generations of segments: files in the lake, the visible one in the manifest."""

    database: Database
    lake: Lake

    @contextmanager
    def alone(self, name: str) -> Iterator[Segment]:
        """The segment `tenant/slug`, which nobody else makes anew until the block ends: they wait.

        Raises: Misconfigured when there is none.
        """
        with driver_errors(), self.database.connect(autocommit=True) as conn:
            conn.execute(SQL["lock"], {"name": name})
            yield find(conn, name)

    def last(self, segment: Segment) -> pl.DataFrame:
        files = self._files(segment)
        try:
            return self.lake.scan(files, SEGMENT_SCHEMA).collect()
        except FileNotFoundError:
            if self._files(segment) != files:  # a forget has put another one in its place
                raise
            return SEGMENT_SCHEMA.to_frame()  # lost, so it is made anew like the first one

    def _files(self, segment: Segment) -> list[str]:
        with self.database.transaction() as conn:
            files = manifest.listed(conn, tenant_id=segment.tenant_id, dataset="segments", part=segment.slug)
        return [file.file for file in files]

    def publish(self, segment: Segment, members: pl.DataFrame, facts: Mapping[str, Any]) -> None:
        file = self.lake.write(members, tenant_id=segment.tenant_id, dataset="segments")
        with self.database.transaction() as conn:
            manifest.replace(
                conn, [file], tenant_id=segment.tenant_id, dataset="segments", part=segment.slug, facts=facts
            )
