"""Sightings in PostgreSQL: blocks of 64 contacts, a row a block and source; and over them the lone ones, a row each.

A batch that names much of a block rewrites it. One that names few of its contacts writes a lone sighting for each that
the block knows already, so that its cost does not grow with the contacts there are; now and then such a batch rewrites
the block all the same, with what it has collected. Whoever stands in lone_sightings stands in a block as well.

The caller owns the transaction and holds the tenant's lock (contacts.lock), without which two writers of a block would
lose one's part.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import psycopg

from mailmill.io.postgres import bigints
from mailmill.io.postgres.sql import statements
from mailmill.pipelines.ingest.sightings import SIGHTINGS_SCHEMA, can_hold

SQL = statements("sightings")
SHIFT = 6  # contacts.id >> SHIFT is the block
FEW = 8  # contacts of a block from which on it is read and written as a whole: as many lone ones cost about the same
BLOCKS_AT_ONCE = 10_000  # made anew at once: 640,000 contacts at most, 72 bytes each and source, whoever is named
LONE = 128  # contacts that batches name of a block, a few each, until one of them rewrites it; on average, by chance
_COLUMNS = tuple(SIGHTINGS_SCHEMA.names())
_ARRAYS = _COLUMNS[2:]
_PIECE = 1_000_000  # bytes of COPY at once
_BLOCK = pl.col("id") // (1 << SHIFT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What every source saw of the contacts asked for, SIGHTINGS_SCHEMA; in the blocks of `whole` of all contacts."""

    sightings: pl.DataFrame
    whole: pl.Series


def of_contacts(conn: psycopg.Connection, tenant_id: int, ids: pl.Series, *, batch_id: int | None = None) -> Seen:
    """In: batch_id, when what a batch says is to be written: a few blocks whose turn it is are read as a whole."""
    asked = ids.cast(pl.Int64).sort().unique().to_frame("id").with_columns(block=_BLOCK)
    turn = pl.lit(False) if batch_id is None else pl.col("block").hash(seed=batch_id) % LONE < pl.col("named")
    whole = asked.group_by("block").len("named").filter((pl.col("named") >= FEW) | turn)["block"].sort()
    few = asked.filter(~pl.col("block").is_in(whole.implode()))["id"].sort()
    with by_index(conn):
        alone = _columns(conn, "read_elements", {"tenant_id": tenant_id, "ids": bigints.text(few)})
    return Seen(sightings=pl.concat([_known(conn, tenant_id, whole), alone]), whole=whole)


def of_source(conn: psycopg.Connection, tenant_id: int, source_id: int) -> pl.DataFrame:
    """All that one source saw. Out: SIGHTINGS_SCHEMA."""
    facts = {"tenant_id": tenant_id, "source_id": source_id}
    return _with_lone(_read(conn, "read_source", facts), _columns(conn, "read_source_lone", facts))


def near(conn: psycopg.Connection, tenant_id: int, batch_id: int, seen: pl.DataFrame) -> pl.DataFrame:
    """Those sightings in which a loaded batch can have a part, by when its rows were seen. In: of its source."""
    row = conn.execute(SQL["seen_between"], {"tenant_id": tenant_id, "batch_id": batch_id}).fetchone()
    assert row is not None
    earliest, latest = row
    return seen.filter(can_hold(batch_id, earliest, latest))


def write(conn: psycopg.Connection, tenant_id: int, source_id: int, seen: Seen, moved: pl.DataFrame) -> None:
    """Put these in the place of what they were. In: SIGHTINGS_SCHEMA, the source's, each contact once; and what was
    `seen` of these contacts."""
    if moved.is_empty():
        return
    whole, mine = _BLOCK.is_in(seen.whole.implode()), pl.col("source_id") == source_id
    known = pl.col("id").is_in(seen.sightings.filter(mine)["id"].implode())
    rest = moved.filter(whole | ~known)
    unread = rest.filter(~whole).select(_BLOCK)["id"].unique()
    before = pl.concat([seen.sightings.filter(whole), _known(conn, tenant_id, unread)]).filter(mine)
    blocks, ids = rest.select(_BLOCK)["id"].unique(), rest["id"]
    kept = before.filter(_BLOCK.is_in(blocks.implode()) & ~pl.col("id").is_in(ids.implode()))
    conn.execute(SQL["stage"])
    _write_blocks(conn, tenant_id, pl.concat([kept, rest]).sort("id"))
    _write_lone(conn, tenant_id, moved.filter(~whole & known))


def replace(conn: psycopg.Connection, tenant_id: int, ids: pl.Series, sightings: pl.DataFrame) -> None:
    """Forget what was seen of these contacts and keep this instead. In: SIGHTINGS_SCHEMA of these contacts, or none.

    Memory is that of BLOCKS_AT_ONCE blocks: few contacts of many blocks take no more than as many blocks do.
    """
    for start in range(0, len(blocks := (ids // (1 << SHIFT)).unique().sort()), BLOCKS_AT_ONCE):
        some = blocks.slice(start, BLOCKS_AT_ONCE)
        mine = _BLOCK.is_in(some.implode())
        of_these = ids.to_frame("id").filter(mine)["id"]
        _replace(conn, tenant_id, some, of_these, sightings.match_to_schema(SIGHTINGS_SCHEMA).filter(mine))


def _replace(
    conn: psycopg.Connection, tenant_id: int, blocks: pl.Series, ids: pl.Series, sightings: pl.DataFrame
) -> None:
    before = _known(conn, tenant_id, blocks)
    if before.is_empty() and sightings.is_empty():
        return
    facts = {"tenant_id": tenant_id, "blocks": blocks.to_list()}
    with by_index(conn):
        conn.execute(SQL["remove_blocks"], facts)
        conn.execute(SQL["remove_lone"], facts)
    others = before.filter(~pl.col("id").is_in(ids.implode()))
    conn.execute(SQL["stage"])
    _write_blocks(conn, tenant_id, pl.concat([others, sightings]).sort("source_id", "id"))


def remove(conn: psycopg.Connection, tenant_id: int, ids: pl.Series) -> None:
    """Forget what was seen of these contacts."""
    replace(conn, tenant_id, ids, _empty())


@contextmanager
def by_index(conn: psycopg.Connection) -> Iterator[None]:
    """Statements whose cost is to follow what they ask for, whatever the planner believes of tables just grown."""
    conn.execute(SQL["by_index"], {"on": "off"})
    yield
    conn.execute(SQL["by_index"], {"on": "on"})


# ---------------------------------------------------------------- reading


def _known(conn: psycopg.Connection, tenant_id: int, blocks: pl.Series) -> pl.DataFrame:
    """All that is known of the contacts of these blocks."""
    if blocks.is_empty():
        return _empty()
    facts = {"tenant_id": tenant_id, "blocks": blocks.sort().to_list()}
    with by_index(conn):
        lone = _columns(conn, "read_lone", facts)
    return _with_lone(_read(conn, "read_blocks", facts), lone)


def _with_lone(blocks: pl.DataFrame, lone: pl.DataFrame) -> pl.DataFrame:
    if lone.is_empty():
        return blocks
    return pl.concat([blocks.join(lone, on=["id", "source_id"], how="anti"), lone])


def _empty() -> pl.DataFrame:
    return pl.DataFrame(schema=SIGHTINGS_SCHEMA)


def _read(conn: psycopg.Connection, statement: str, facts: dict[str, Any]) -> pl.DataFrame:
    """A row a block; an array of one element stands for as many as its block has contacts."""
    with conn.cursor(binary=True) as cursor:
        rows = cursor.execute(SQL[statement], facts).fetchall()
    if not rows:
        return _empty()
    sources, ids, *arrays = zip(*rows, strict=True)
    contacts = bigints.lengths(ids)
    columns = {"id": bigints.values(ids), "source_id": np.repeat(np.array(sources, np.int64), contacts)}
    for name, column in zip(_ARRAYS, arrays, strict=True):
        elements, values = bigints.lengths(column), bigints.values(column)
        if not (elements == contacts).all():
            values = np.repeat(values, np.repeat(np.where(elements == contacts, 1, contacts), elements))
        columns[name] = values
    return pl.DataFrame(columns, schema=SIGHTINGS_SCHEMA)


def _columns(conn: psycopg.Connection, statement: str, facts: dict[str, Any]) -> pl.DataFrame:
    """One row, an array a column."""
    with conn.cursor(binary=True) as cursor:
        row = cursor.execute(SQL[statement], facts).fetchone()
    if row is None or row[0] is None:
        return _empty()
    columns = {name: bigints.values([array]) for name, array in zip(_COLUMNS, row, strict=True)}
    return pl.DataFrame(columns, schema=SIGHTINGS_SCHEMA)


# ---------------------------------------------------------------- writing


def _write_blocks(conn: psycopg.Connection, tenant_id: int, sightings: pl.DataFrame) -> None:
    """Whole blocks, and nothing alone any more of what they hold. In: ordered by source and contact."""
    if sightings.is_empty():
        return
    with conn.cursor() as cursor, cursor.copy(SQL["copy_blocks"]) as copy:
        for piece in _pieces(sightings, tenant_id):
            copy.write(piece)
    conn.execute(SQL["write_blocks"])
    with by_index(conn):
        conn.execute(SQL["take_in_lone"])


def _write_lone(conn: psycopg.Connection, tenant_id: int, sightings: pl.DataFrame) -> None:
    if sightings.is_empty():
        return
    ordered = {name: column.to_numpy() for name, column in sightings.sort("id").to_dict().items()}
    small = {
        "source_id": ordered["source_id"].astype(np.int32),
        "tenant_id": np.full(sightings.height, tenant_id, np.int32),
    }
    columns = {"id": ordered["id"], **small, **{name: ordered[name] for name in _ARRAYS}}
    with conn.cursor() as cursor, cursor.copy(SQL["copy_lone"]) as copy:
        copy.write(bigints.rows(columns))
    conn.execute(SQL["write_lone"])


def _pieces(sightings: pl.DataFrame, tenant_id: int) -> Iterator[bytes]:
    """Rows of a binary COPY; an array is of one element where all are the same."""
    ids, sources = sightings["id"].to_numpy(), sightings["source_id"].to_numpy()
    blocks = ids >> SHIFT
    starts = np.flatnonzero(np.r_[True, (blocks[1:] != blocks[:-1]) | (sources[1:] != sources[:-1])])
    ends = np.r_[starts[1:], len(ids)]
    columns = [bigints.arrays(ids, starts, ends)]
    for name in _ARRAYS:
        values = sightings[name].to_numpy()
        alike = np.minimum.reduceat(values, starts) == np.maximum.reduceat(values, starts)
        columns.append(bigints.arrays(values, starts, np.where(alike, starts + 1, ends)))
    piece = bytearray(bigints.COPY_BEGINS)
    for block, source, *arrays in zip(blocks[starts].tolist(), sources[starts].tolist(), *columns, strict=True):
        piece += struct.pack(">hiqiiii", 3 + len(arrays), 8, block, 4, source, 4, tenant_id)
        for array in arrays:
            piece += array
        if len(piece) > _PIECE:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece + bigints.COPY_ENDS)
