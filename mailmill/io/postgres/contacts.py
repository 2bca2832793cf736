"""Contacts in PostgreSQL, in sets: a batch goes in. The caller owns the transaction."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl
import psycopg

from mailmill.io.postgres import consents, copying, sightings
from mailmill.io.postgres.again import Doubted
from mailmill.io.postgres.sql import statements
from mailmill.pipelines.ingest import contacts as rules
from mailmill.pipelines.ingest.contacts import STATE_SCHEMA, Origin
from mailmill.pipelines.ingest.merging import merged
from mailmill.pipelines.ingest.ports import BatchRow, LoadCounts, SourceRow
from mailmill.pipelines.ingest.sightings import compared, in_question, moved

SQL = statements("contacts")
SLICE = 50_000  # rows a piece of COPY
FEW_TIMES, MOST_AT_ONCE = 4, 5_000_000  # contacts read as a whole: by a batch of a quarter of them, 100 bytes each
MERGED_AT_ONCE = 100_000  # contacts; a merge takes some kilobytes a contact
_SEPARATOR = "\x1f"


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What a batch did. `seen_from`: the earliest of its rows, epoch microseconds."""

    counts: LoadCounts
    seen_from: int | None


def take_in(
    conn: psycopg.Connection,
    source: SourceRow,
    batch: BatchRow,
    files: Iterable[pl.DataFrame],
    doubted: Doubted,
) -> Taken:
    """Merge a batch's accepted rows into the tenant's contacts.

    In:  frames of ACCEPTED_SCHEMA with custom fields, no match_key in two of them.
    What is new is written as it comes; of what a source only repeats nothing but the sighting moves; the rest is read
    back and merged. Of a batch that was loaded before, and was validated anew since, nothing but what is new is taken
    in: whoever it may say something else of, or nothing, is added to `doubted`, for recompute(). Memory is that of one
    frame. The tenant's lock is taken first, here as wherever contacts change.
    """
    lock(conn, source.tenant_id)
    conn.execute(SQL["stage"])
    facts = {"tenant_id": source.tenant_id, "batch_id": batch.id}
    without_tags = deleted_tags(conn, source.tenant_id)
    again = bool((conn.execute(SQL["was_loaded"], facts).fetchone() or [False])[0])
    origin = Origin(priority=source.priority, source_id=source.id, batch_id=batch.id)
    everybody = _everybody(conn, source.tenant_id, batch.rows_accepted)
    unnamed = doubted.named_before(batch) if again else _no_ids()
    counts, earliest = LoadCounts(batches=1), list[int]()
    for frame in files:
        rows = rules.said(frame, origin, without_tags=without_tags)
        if rows.is_empty():
            continue
        part = _take_in(conn, source.tenant_id, origin, rows, again, everybody)
        counts += part.counts
        doubted.add(part.doubted)
        unnamed = unnamed.filter(~unnamed.is_in(part.named.implode()))
        earliest.append(rows.select(pl.col("first_us").min()).item())
    doubted.add(unnamed)
    return Taken(counts=counts, seen_from=min(earliest, default=None))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    counts: LoadCounts
    named: pl.Series
    doubted: pl.Series


def _take_in(
    conn: psycopg.Connection,
    tenant_id: int,
    origin: Origin,
    rows: pl.DataFrame,
    again: bool,
    everybody: pl.DataFrame | None,
) -> _Part:
    rows = _with_ids(conn, tenant_id, rows, everybody)
    known, new = rows.filter(pl.col("id").is_not_null()), rows.filter(pl.col("id").is_null())
    new = new.sort("match_key").with_columns(id=_drawn(conn, new.height))
    _add(conn, tenant_id, new)
    ids = pl.concat([known["id"], new["id"]])
    before = sightings.of_contacts(conn, tenant_id, ids, batch_id=origin.batch_id)
    mine = pl.col("source_id") == origin.source_id
    seen = compared(before.sightings.filter(mine), pl.concat([known, new]), origin.batch_id)
    doubted = _no_ids()
    if again:  # what the batch says as before stays; what the source did not name before comes in as ever
        doubted = seen.filter(pl.col("before").is_not_null() & ~(pl.col("repeats") & pl.col("between")))["id"]
        seen = seen.filter(pl.col("before").is_null())
    asked = in_question(seen.filter(pl.col("id").is_in(known["id"].implode())), before.sightings.filter(~mine))
    changed = 0
    for part in asked.iter_slices(MERGED_AT_ONCE):
        changed += _merge(conn, tenant_id, origin, part, before.sightings)
    after = moved(seen, origin.source_id, origin.batch_id)
    consents.keep_vouched(conn, origin.batch_id, seen, after)
    sightings.write(conn, tenant_id, origin.source_id, before, after)
    within = int(rows["copies"].sum()) - rows.height
    counts = LoadCounts(
        accepted=rows.height + within, new=new.height, changed=changed, duplicates_within=within,
        duplicates_across=known.height,
    )  # fmt: skip
    return _Part(counts=counts, named=known["id"], doubted=doubted)


def _merge(conn: psycopg.Connection, tenant_id: int, origin: Origin, rows: pl.DataFrame, before: pl.DataFrame) -> int:
    """Weigh what a batch says against what won so far. Out: contacts whose values changed."""
    of_these = before.join(rows.select("id"), on="id", how="semi")
    written = merged(states(conn, tenant_id, rows["id"]), rows, of_these, origin)
    update(conn, tenant_id, written)
    return int(written["changed"].sum())


# ---------------------------------------------------------------- contacts by id


def lock(conn: psycopg.Connection, tenant_id: int) -> None:
    """Hold the tenant's contacts until the transaction ends. Whoever changes contacts or sightings takes this first."""
    conn.execute(SQL["lock"], {"tenant_id": tenant_id})


def deleted_tags(conn: psycopg.Connection, tenant_id: int) -> list[str]:
    """Tags that the operator took off every contact: no load brings them back."""
    return [slug for (slug,) in conn.execute(SQL["deleted_tags"], {"tenant_id": tenant_id})]


def states(conn: psycopg.Connection, tenant_id: int, ids: pl.Series) -> pl.DataFrame:
    """Contacts as they are. Out: STATE_SCHEMA with id."""
    _want(conn, ids)
    schema = pl.Schema({"id": pl.Int64(), **STATE_SCHEMA})
    text = {name: pl.String() if isinstance(kind, pl.List) else kind for name, kind in schema.items()}
    with sightings.by_index(conn):
        frame = copying.read(conn, SQL["states"], pl.Schema(text), {"tenant_id": tenant_id})
    return frame.with_columns(_list(pl.col("tags")).alias("tags")).match_to_schema(schema)


def update(conn: psycopg.Connection, tenant_id: int, contacts: pl.DataFrame) -> None:
    """Give contacts these values. In: STATE_SCHEMA with id."""
    if contacts.is_empty():
        return
    _stage(conn, contacts)
    with sightings.by_index(conn):
        conn.execute(SQL["update_contacts"], {"tenant_id": tenant_id})


def remove(conn: psycopg.Connection, tenant_id: int, ids: pl.Series) -> int:
    """Delete contacts and what was seen of them. Needs the tenant's lock. Out: how many there were."""
    _want(conn, ids)
    sightings.remove(conn, tenant_id, ids)
    return conn.execute(SQL["delete_contacts"], {"tenant_id": tenant_id}).rowcount


def _everybody(conn: psycopg.Connection, tenant_id: int, rows: int) -> pl.DataFrame | None:
    """match_key and id of all the tenant's contacts, where reading them costs less than asking for so many rows.

    It stays true while a batch is loaded: the tenant's lock is held, and no match_key comes twice in a batch.
    """
    row = conn.execute(SQL["how_many"], {"tenant_id": tenant_id}).fetchone()
    contacts = int(row[0]) if row else 0
    if contacts > min(FEW_TIMES * rows, MOST_AT_ONCE):
        return None
    with conn.cursor(binary=True) as cursor:
        return _keyed(cursor.execute(SQL["everybody"], {"tenant_id": tenant_id}).fetchone())


def _with_ids(
    conn: psycopg.Connection, tenant_id: int, rows: pl.DataFrame, everybody: pl.DataFrame | None
) -> pl.DataFrame:
    """Rows with the id of their contact, null where there is none yet."""
    if everybody is None:
        keys = rows["match_key"].sort().str.join(_SEPARATOR).item()  # near in the index, near in time
        with sightings.by_index(conn), conn.cursor(binary=True) as cursor:
            everybody = _keyed(cursor.execute(SQL["known"], {"tenant_id": tenant_id, "keys": keys}).fetchone())
    return rows.join(everybody, on="match_key", how="left", maintain_order="left")


def _keyed(found: tuple[bytes | None, str | None] | None) -> pl.DataFrame:
    """In: ids, eight bytes each, and their keys, joined."""
    ids, keys = found or (None, None)
    if not ids:
        return pl.DataFrame(schema={"match_key": pl.String(), "id": pl.Int64()})
    column = pl.Series("match_key", [keys]).str.split(_SEPARATOR).explode()
    return pl.DataFrame({"match_key": column, "id": np.frombuffer(ids, ">i8").astype(np.int64)})


def _drawn(conn: psycopg.Connection, n: int) -> pl.Series:
    if not n:
        return _no_ids()
    with conn.cursor(binary=True) as cursor:
        row = cursor.execute(SQL["draw_ids"], {"n": n}).fetchone()
    assert row is not None
    return pl.Series("id", np.frombuffer(row[0], ">i8").astype(np.int64))


def _add(conn: psycopg.Connection, tenant_id: int, contacts: pl.DataFrame) -> None:
    """In: ordered by match_key.

    In two passes: a pass splits each page of the key's index in halves and goes on in the second; the next fills both.
    In one, half of the index would stay empty, for ever where a list's keys lie together.
    """
    if not contacts.is_empty():
        first = pl.int_range(pl.len()) * 4 % 7 < 4  # as much as leaves room for the rest
        _stage(conn, pl.concat([contacts.filter(first), contacts.filter(~first)]))
        conn.execute(SQL["add_contacts"], {"tenant_id": tenant_id})


def _stage(conn: psycopg.Connection, contacts: pl.DataFrame) -> None:
    conn.execute(SQL["stage"])
    conn.execute(SQL["clear"])
    _copy_in(conn, "copy_incoming", contacts.select("id", *_written(STATE_SCHEMA.names())))


def _written(names: Iterable[str]) -> list[pl.Expr]:
    """Lists as PostgreSQL's arrays; tags are letters, digits and hyphens."""
    array = pl.lit('{"') + pl.col("tags").list.join('","') + '"}'
    tags = pl.when(pl.col("tags").list.len() > 0).then(array).otherwise(pl.lit("{}"))
    return [tags.alias("tags") if name == "tags" else pl.col(name) for name in names]


def _want(conn: psycopg.Connection, ids: pl.Series) -> None:
    conn.execute(SQL["stage"])
    conn.execute(SQL["clear"])
    _copy_in(conn, "copy_wanted", ids.unique().sort().to_frame())


def _no_ids() -> pl.Series:
    return pl.Series("id", [], dtype=pl.Int64)


def _list(joined: pl.Expr) -> pl.Expr:
    empty = pl.lit([], dtype=pl.List(pl.String))
    return pl.when(joined != "").then(joined.str.split(_SEPARATOR)).otherwise(empty)


def _copy_in(conn: psycopg.Connection, statement: str, frame: pl.DataFrame) -> None:
    with conn.cursor() as cursor, cursor.copy(SQL[statement]) as copy:
        for part in frame.iter_slices(SLICE):
            copy.write(part.write_csv(include_header=False, datetime_format="%Y-%m-%d %H:%M:%S%.6f%z"))
