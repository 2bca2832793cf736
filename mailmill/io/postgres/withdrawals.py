"""What sources have taken back. The caller owns the transaction."""

from __future__ import annotations

import polars as pl
import psycopg
from psycopg.rows import class_row

from mailmill.io.postgres.sql import statements
from mailmill.pipelines.ingest.ports import BatchRow, SourceRow

SQL = statements("withdrawals")


def any_of(conn: psycopg.Connection, source: SourceRow) -> bool:
    """Whether the source has taken anything back."""
    row = conn.execute(SQL["any"], _facts(source)).fetchone()
    return bool(row and row[0])


def take_back(conn: psycopg.Connection, source: SourceRow, batch_id: int, named: pl.Series) -> None:
    """Whom a batch names again is back. In: match keys."""
    _stage(conn, named)
    conn.execute(SQL["take_back"], _facts(source) | {"batch_id": batch_id})
    conn.execute("DROP TABLE named")


def withdraw(conn: psycopg.Connection, source: SourceRow, batch_id: int, gone: pl.Series) -> int:
    """Whom a batch says to be deleted is withdrawn, unless a later one names them.

    In: match keys. Out: how many who were not before.
    """
    _stage(conn, gone)
    (withdrawn,) = conn.execute(SQL["withdraw"], _facts(source) | {"batch_id": batch_id}).fetchone() or (0,)
    conn.execute("DROP TABLE named")
    return int(withdrawn)


def walk(conn: psycopg.Connection, source: SourceRow) -> list[BatchRow]:
    """The batches of a walk from the beginning that waits to be compared and those loaded since, oldest first; none
    where there is no such walk."""
    with conn.cursor(row_factory=class_row(BatchRow)) as cursor:
        return cursor.execute(SQL["walk"], _facts(source)).fetchall()


def compared(conn: psycopg.Connection, source: SourceRow) -> None:
    conn.execute(SQL["compared"], _facts(source))


def ask(conn: psycopg.Connection, source: SourceRow, absent: int) -> None:
    """The walk waits for a person, who has to say whether it is meant that so many contacts are absent."""
    conn.execute(SQL["ask"], _facts(source) | {"absent": absent})


def asked(conn: psycopg.Connection, source: SourceRow) -> int | None:
    """How many contacts a walk that waits for a person did not show; None where none waits."""
    row = conn.execute(SQL["asked"], _facts(source)).fetchone()
    return row[0] if row else None


def withdraw_absent(
    conn: psycopg.Connection, source: SourceRow, present: pl.Series, max_share: float
) -> tuple[int, bool]:
    """Withdraw the source's contacts that are not among these match keys, as of the last batch of its walk.

    Out: how many are absent; whether they were withdrawn, which they are not where they are more than `max_share`.
    """
    facts = _facts(source)
    _stage(conn, present)
    known, absent = conn.execute(SQL["absent"], facts).fetchone() or (0, 0)
    within = absent <= max_share * known
    if within:
        conn.execute(SQL["withdraw_absent"], facts)
    conn.execute("DROP TABLE named")
    return absent, within


def _facts(source: SourceRow) -> dict[str, object]:
    return {"tenant_id": source.tenant_id, "source_id": source.id}


def _stage(conn: psycopg.Connection, keys: pl.Series) -> None:
    conn.execute(SQL["stage"])
    with conn.cursor() as cursor, cursor.copy(SQL["copy_named"]) as copy:
        copy.write(keys.to_frame().write_csv(include_header=False))
    conn.execute("ANALYZE named")
