"""Sources and batches in PostgreSQL. The caller owns the transaction."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import psycopg
from psycopg.rows import class_row, dict_row
from psycopg.types.json import Jsonb

from mailmill.errors import Misconfigured
from mailmill.io.postgres.sql import statements
from mailmill.pipelines.configuration.specs import FieldSpec, SourceSpec
from mailmill.pipelines.ingest.columns import unreadable
from mailmill.pipelines.ingest.ports import (
    BatchRow,
    BatchState,
    Cursor,
    Held,
    Kept,
    LoadCounts,
    RawBatch,
    Recorded,
    SourceRow,
)

SQL = statements("ingest")


def sources(
    conn: psycopg.Connection,
    *,
    tenant: str | None = None,
    slug: str | None = None,
    kind: str | None = None,
    deleted: bool = False,
) -> list[SourceRow]:
    """Sources by tenant's slug, own slug and kind, None meaning any; ordered by name. deleted: also those that are."""
    with conn.cursor(row_factory=dict_row) as cursor:
        cursor.execute(SQL["sources"], {"tenant": tenant, "slug": slug, "kind": kind, "deleted": deleted})
        return [_source(row) for row in cursor]


def _source(row: dict[str, Any]) -> SourceRow:
    fields = tuple(FieldSpec.model_validate(spec) for spec in row["fields"])
    return SourceRow(**{**row, "spec": SourceSpec.model_validate(row["spec"]), "fields": fields})


def source(conn: psycopg.Connection, name: str, *, deleted: bool = False) -> SourceRow:
    """The source called `tenant/slug`; deleted: also one that is.

    Raises: Misconfigured naming the sources there are.
    """
    tenant, slash, slug = name.partition("/")
    found = sources(conn, tenant=tenant, slug=slug, deleted=deleted) if slash else []
    if found:
        return found[0]
    known = ", ".join(row.name for row in sources(conn)[:20]) or "none yet; apply a YAML file with one"
    raise Misconfigured(
        f"there is no source {name!r}", place="SOURCE", remedy=f"Sources are called tenant/source. There are: {known}."
    )


def keep_standing(conn: psycopg.Connection, row: SourceRow) -> None:
    """Nobody deletes it until the transaction ends. Raises: Misconfigured when somebody has."""
    if conn.execute(SQL["keep_standing"], {"tenant_id": row.tenant_id, "source_id": row.id}).fetchone() is None:
        source(conn, row.name)


def of_batch(conn: psycopg.Connection, batch_id: int, *, deleted: bool = False) -> SourceRow:
    """The source a batch is of; deleted: also one that is. Raises: Misconfigured when there is no such batch."""
    row = conn.execute(SQL["of_batch"], {"batch_id": batch_id}).fetchone()
    if row is None:
        raise Misconfigured(f"there is no batch {batch_id}", place="WHAT", remedy="`mailmill sources` lists sources.")
    return source(conn, row[0], deleted=deleted)


def cursor_of(conn: psycopg.Connection, source: SourceRow) -> Cursor | None:
    row = conn.execute(SQL["cursor"], {"tenant_id": source.tenant_id, "source_id": source.id}).fetchone()
    return row[0] if row else None


def move_cursor(conn: psycopg.Connection, source: SourceRow, cursor: Cursor, batch_id: int) -> None:
    """The source was read so far with this batch. Of a walk from its beginning that is to be compared, which batches
    are its first and its last is kept beside the cursor."""
    facts = {
        "tenant_id": source.tenant_id,
        "source_id": source.id,
        "cursor": Jsonb(cursor),
        "full": cursor.get("full"),
        "compare": source.spec.on_delete == "withdraw",
        "batch_id": batch_id,
        "url": source.spec.url,
    }
    conn.execute(SQL["move_cursor"], facts)


def find_batch(conn: psycopg.Connection, source: SourceRow, batch: RawBatch) -> Kept | None:
    """The source's batch with this content. What an API says is known only if it said so last: a state
    that returns after another one is news."""
    facts = {"tenant_id": source.tenant_id, "source_id": source.id, "key": batch.key}
    row = conn.execute(SQL["find_batch" if batch.cursor is None else "find_newest"], facts).fetchone()
    return Kept(batch_id=row[0], new=False, rows=row[1], discarded=row[2]) if row else None


def last_columns(conn: psycopg.Connection, source: SourceRow) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The columns of its newest batch that has any and is not held, and the usual ones."""
    row = conn.execute(SQL["last_columns"], {"tenant_id": source.tenant_id, "source_id": source.id}).fetchone()
    names, usual = row or ((), ())
    return tuple(names), tuple(names if usual is None else usual)


def release(conn: psycopg.Connection, source: SourceRow, *, accept: bool) -> int:
    batches = [one.batch for one in held(conn, source) if one.readable and (accept or one.due)]
    return conn.execute(SQL["release"], {"tenant_id": source.tenant_id, "batches": batches}).rowcount


def discard(conn: psycopg.Connection, source: SourceRow, batches: Sequence[int]) -> list[BatchRow]:
    """Raises: Misconfigured when one of them does not wait for a person."""
    facts = {"tenant_id": source.tenant_id, "source_id": source.id, "batches": list(batches)}
    with conn.cursor(row_factory=class_row(BatchRow)) as cursor:
        found = sorted(cursor.execute(SQL["discard"], facts).fetchall(), key=lambda batch: batch.id)
    if others := sorted(set(batches) - {batch.id for batch in found}):
        raise Misconfigured(
            f"no batch {', '.join(map(str, others))} of {source.name} is held or withheld that was never loaded",
            place="--discard",
            remedy="`mailmill sources` shows what waits for you. Nothing was discarded.",
        )
    for batch in found:  # what was accepted the raw rows can give again
        withdraw(conn, tenant_id=source.tenant_id, batch_id=batch.id, datasets=["validated"])
    return found


def remember(
    conn: psycopg.Connection, source: SourceRow, error: str | None, retry_after_s: float | None = None
) -> None:
    """In: source, as it was when the import began; error, which may quote what PostgreSQL's text cannot hold."""
    text = error and error.replace("\x00", "\ufffd").encode("utf-8", "backslashreplace").decode()
    facts = {"tenant_id": source.tenant_id, "source_id": source.id, "error": text, "retry_after_s": retry_after_s}
    conn.execute(SQL["remember"], {**facts, "failed_at": source.failed_at})


def held(conn: psycopg.Connection, source: SourceRow) -> list[Held]:
    found = []
    facts = {"tenant_id": source.tenant_id, "source_id": source.id}
    for batch_id, origin, surprise, names, mapping, few in conn.execute(SQL["held"], facts):
        problem = unreadable(names, source.spec.columns, few=few)
        due = problem is None and (surprise is None or mapping != source.spec.columns)
        why = problem or ("the next import takes it in" if due else surprise)
        found.append(Held(batch=batch_id, origin=origin, why=why, readable=problem is None, due=due))
    return found


def hold(conn: psycopg.Connection, source: SourceRow, batch: BatchRow) -> bool:
    """False: it was loaded before, or another process moved it on."""
    facts = {"tenant_id": source.tenant_id, "batch_id": batch.id, "from": batch.state}
    return conn.execute(SQL["hold"], facts | {"mapping": Jsonb(source.spec.columns)}).rowcount > 0


def add_batch(
    conn: psycopg.Connection, source: SourceRow, batch: RawBatch, *, rows: int, hold: bool = False
) -> int | None:
    """The id of the new batch; None when this content is already there."""
    facts = {
        "tenant_id": source.tenant_id,
        "source_id": source.id,
        "key": batch.key,
        "origin": batch.origin,
        "seen_at": batch.seen_at,
        "rows": rows,
        "hold": hold,
        "again": batch.cursor is not None,
    }
    row = conn.execute(SQL["add_batch"], facts).fetchone()
    return int(row[0]) if row else None


def batches(conn: psycopg.Connection, source: SourceRow, state: BatchState | None) -> list[BatchRow]:
    with conn.cursor(row_factory=class_row(BatchRow)) as cursor:
        cursor.execute(SQL["batches"], {"tenant_id": source.tenant_id, "source_id": source.id, "state": state})
        return cursor.fetchall()


def batch_files(
    conn: psycopg.Connection, *, tenant_id: int, dataset: str, batch_id: int
) -> list[tuple[str, dict[str, Any]]]:
    """(file, facts) of a batch in a dataset."""
    facts = {"tenant_id": tenant_id, "dataset": dataset, "batch_id": batch_id}
    return conn.execute(SQL["batch_files"], facts).fetchall()


def withdraw(conn: psycopg.Connection, *, tenant_id: int, batch_id: int, datasets: list[str]) -> None:
    """Take a batch's files out of sight."""
    conn.execute(SQL["withdraw"], {"tenant_id": tenant_id, "batch_id": batch_id, "datasets": datasets})


def mark_validated(
    conn: psycopg.Connection, source: SourceRow, batch: BatchRow, recorded: Recorded, rules: str
) -> bool:
    facts = {
        "tenant_id": source.tenant_id,
        "batch_id": batch.id,
        "from": batch.state,
        "accepted": recorded.accepted,
        "rejected": recorded.rejected,
        "reasons": Jsonb(dict(recorded.reasons)),
        "rules": rules,
    }
    return conn.execute(SQL["validated"], facts).fetchone() is not None


def naming_batches(
    conn: psycopg.Connection, source: SourceRow, first_us: int, last_us: int, *, also: Collection[int] = ()
) -> list[BatchRow]:
    """Loaded batches that can hold a row seen between these times, and those of `also`; oldest first."""
    facts = {
        "tenant_id": source.tenant_id,
        "source_id": source.id,
        "from": first_us,
        "until": last_us,
        "also": list(also),
    }
    with conn.cursor(row_factory=class_row(BatchRow)) as cursor:
        return cursor.execute(SQL["naming_batches"], facts).fetchall()


def mark_loaded(
    conn: psycopg.Connection, source: SourceRow, batch: BatchRow, counts: LoadCounts, seen_from: int | None
) -> bool:
    """False: somebody else loaded it, or divided it anew. In: seen_from, its earliest row, epoch microseconds."""
    facts = {
        "tenant_id": source.tenant_id,
        "batch_id": batch.id,
        "rules": batch.rules,
        "within": counts.duplicates_within,
        "across": counts.duplicates_across,
        "new": counts.new,
        "changed": counts.changed,
        "seen_from": seen_from,
    }
    return conn.execute(SQL["loaded"], facts).fetchone() is not None


def rejected_files(
    conn: psycopg.Connection, *, tenant: str | None = None, source: str | None = None, batch_id: int | None = None
) -> list[str]:
    """Files of REJECTED_SCHEMA of a tenant, a source or a batch, newest batch first; None means any."""
    facts = {"tenant": tenant, "source": source, "batch_id": batch_id}
    return [row[0] for row in conn.execute(SQL["rejected_files"], facts)]
