"""What sources have taken back. The caller owns the transaction."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import psycopg
from psycopg.rows import class_row

from mailmill.io.lake import Lake
from mailmill.io.postgres import batch_files
from mailmill.io.postgres.sql import statements
from mailmill.pipelines.ingest.batches import batch_facts
from mailmill.pipelines.ingest.ports import BatchRow, SourceRow
from mailmill.pipelines.ingest.withdrawals import last_words

SQL = statements("withdrawals")


def follow(conn: psycopg.Connection, lake: Lake, source: SourceRow, batch: BatchRow, also: set[int]) -> int:
    """Heed what a batch says of deletions. In: also, the batches that are loaded with it. Out: contacts withdrawn."""
    heeded = source.spec.on_delete == "withdraw"
    if not any_of(conn, source) and not (heeded and batch.withdrawn):
        return 0
    raw = batch_files.raw(lake, batch_files.listed(conn, source, batch, "raw"))
    words = last_words([(raw, batch_facts(source, batch))])
    take_back(conn, source, batch.id, words.filter("there")["match_key"])
    if not heeded:
        return 0
    gone = words.filter(~pl.col("there"))
    if batch.loaded_before:  # those of this load follow in their order
        gone = batch_files.still_gone(conn, lake, source, batch, gone, besides=also)
    return withdraw(conn, source, batch.id, gone["match_key"])


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


def asked(conn: psycopg.Connection, source: SourceRow) -> int | None:
    """How many contacts a walk that waits for a person did not show; None where none waits."""
    row = conn.execute(SQL["asked"], _facts(source)).fetchone()
    return row[0] if row else None


def compare(
    conn: psycopg.Connection, source: SourceRow, read: Sequence[BatchRow], present: pl.Series, max_share: float
) -> tuple[int, bool] | None:
    """Withdraw the source's contacts that are not among these match keys, as of the last batch of its walk. Where they
    are more than `max_share`, nobody is withdrawn and the walk waits for a person.

    In:  read, the walk as it was when the keys were read from it.
    Out: how many are absent; whether they were withdrawn. None: the walk is another by now.
    """
    if [batch.id for batch in walk(conn, source)] != [batch.id for batch in read]:
        return None
    facts = _facts(source)
    _stage(conn, present)
    known, absent = conn.execute(SQL["absent"], facts).fetchone() or (0, 0)
    few = absent <= max_share * known
    if few:
        conn.execute(SQL["withdraw_absent"], facts)
    conn.execute("DROP TABLE named")
    conn.execute(SQL["compared" if few else "ask"], facts | {"absent": absent})
    return absent, few


def _facts(source: SourceRow) -> dict[str, object]:
    return {"tenant_id": source.tenant_id, "source_id": source.id}


def _stage(conn: psycopg.Connection, keys: pl.Series) -> None:
    conn.execute(SQL["stage"])
    with conn.cursor() as cursor, cursor.copy(SQL["copy_named"]) as copy:
        copy.write(keys.to_frame().write_csv(include_header=False))
    conn.execute("ANALYZE named")
