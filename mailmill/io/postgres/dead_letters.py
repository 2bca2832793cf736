"""Dead letters: records of the event log that were no events, or of no message we know."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg.rows import class_row

from mailmill.io.event_log import postgres as event_log
from mailmill.io.postgres.database import Database
from mailmill.io.postgres.sql import statements

SQL = statements("dead_letters")
REPLAY_AT_ONCE = 10_000
REPLAY_BYTES = 32 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """One record as it lay on the log; its value stays in the table."""

    id: int
    topic: str
    part: int
    off: int
    reason: str
    bytes: int
    at: datetime
    replayed_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """How many there are of one reason, and how many of them were never replayed."""

    reason: str
    n: int
    waiting: int


def listed(conn: psycopg.Connection, *, replayed: bool = False, limit: int = 1000) -> list[DeadLetter]:
    """The oldest first; with `replayed` those too that were replayed."""
    with conn.cursor(row_factory=class_row(DeadLetter)) as cursor:
        return cursor.execute(SQL["list"], {"all": replayed, "limit": limit}).fetchall()


def tally(conn: psycopg.Connection) -> list[Tally]:
    with conn.cursor(row_factory=class_row(Tally)) as cursor:
        return cursor.execute(SQL["tally"]).fetchall()


def replay(database: Database, *, topic: str = event_log.TOPIC) -> int:
    """Put every waiting dead letter back on table `log`, each once. Out: how many.

    What is still no event becomes a new dead letter; what has become one is counted like any other.
    """
    replayed = 0
    with database.transaction("listener") as conn:
        row = conn.execute(SQL["last"]).fetchone()
    while True:
        with database.transaction("listener") as conn:
            bounds = {"last": row[0] if row else 0, "limit": REPLAY_AT_ONCE, "max_bytes": REPLAY_BYTES}
            taken = conn.execute(SQL["take"], bounds, binary=True).fetchall()
            event_log.append(conn, taken, topic=topic)
        if not taken:
            return replayed
        replayed += len(taken)
