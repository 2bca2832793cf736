"""The ports of validating again, over PostgreSQL: each call is one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import polars as pl
import psycopg
from psycopg.rows import class_row

from mailmill.io.postgres import contacts, domains
from mailmill.io.postgres.control import Thing
from mailmill.io.postgres.copying import read
from mailmill.io.postgres.database import Database
from mailmill.io.postgres.sql import statements
from mailmill.pipelines.ingest.domains import Answer, settled
from mailmill.pipelines.ingest.revalidation import HELD_SCHEMA

SQL = statements("revalidation")


def tenants_due(conn: psycopg.Connection, rules: str, now: datetime | None) -> list[Thing]:
    """Tenants with contacts that were last examined by other rules than these or, where DNS is asked (now), at domains
    that were never asked for or whose answer has run out."""
    with conn.cursor(row_factory=class_row(Thing)) as cursor:
        return cursor.execute(SQL["tenants_due"], {"rules": rules, "now": now}).fetchall()


@dataclass(frozen=True, slots=True, kw_only=True)
class RevalidationStore:
    """DomainStore and HeldStore."""

    database: Database

    def due(self, tenant_id: int, now: datetime) -> list[str]:
        with self.database.transaction() as conn:
            return domains.due(conn, tenant_id, now)

    def settle(self, answers: Sequence[Answer], now: datetime) -> int:
        with self.database.transaction() as conn:
            before = domains.find(conn, [answer.domain for answer in answers])
            return domains.keep(conn, [settled(before.get(answer.domain), answer, now) for answer in answers])

    def outdated(self, tenant_id: int, rules: str) -> bool:
        with self.database.transaction() as conn:
            row = conn.execute(SQL["outdated"], {"tenant_id": tenant_id, "rules": rules}).fetchone()
            return row is not None and bool(row[0])

    def held(self, tenant_id: int, after: int, limit: int) -> pl.DataFrame:
        with self.database.transaction() as conn:
            facts = {"tenant_id": tenant_id, "after": after, "limit": limit}
            return read(conn, SQL["held"], HELD_SCHEMA, facts)

    def correct(self, tenant_id: int, changed: pl.DataFrame) -> int:
        if changed.is_empty():
            return 0
        with self.database.transaction() as conn:
            conn.execute(contacts.SQL["lock"], {"tenant_id": tenant_id})  # imports write verdicts under it
            facts = {
                "tenant_id": tenant_id,
                "ids": changed["contact_id"].to_list(),
                "emails": changed["email"].to_list(),
                "verdicts": changed["verdict"].to_list(),
                "reasons": changed["verdict_reason"].to_list(),
            }
            return conn.execute(SQL["correct"], facts).rowcount

    def finish(self, tenant_id: int, rules: str) -> None:
        with self.database.transaction() as conn:
            conn.execute(SQL["finish"], {"tenant_id": tenant_id, "rules": rules})
