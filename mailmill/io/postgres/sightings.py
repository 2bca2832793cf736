"""Sightings in PostgreSQL: blocks of 64 contacts, a row a block and source.

The caller owns the transaction and holds the tenant's lock (contacts.lock), without which two writers of a block would
lose one's part.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import psycopg

from mailmill.io.postgres.sql import statements
from mailmill.pipelines.ingest.sightings import SIGHTINGS_SCHEMA

SQL = statements("sightings")
SHIFT = 6  # contacts.id >> SHIFT is the block
_ARRAYS = tuple(name for name in SIGHTINGS_SCHEMA.names() if name not in ("id", "source_id"))
# an array of bigint on the wire: dimensions, nulls, type, length, lower bound; then length and value of each element
_HEADER, _ELEMENT = struct.Struct(">iiiii"), np.dtype([("bytes", ">i4"), ("value", ">i8")])
_BIGINT = 20
_BINARY_COPY = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_PIECE = 1_000_000  # bytes of COPY at once
Ints = npt.NDArray[np.int64]


def of_contacts(conn: psycopg.Connection, tenant_id: int, ids: pl.Series) -> pl.DataFrame:
    """All that every source saw in the blocks of these contacts. Out: SIGHTINGS_SCHEMA, neighbours included."""
    blocks = _blocks(ids).to_list()
    return _read(conn, "read", {"tenant_id": tenant_id, "blocks": blocks}) if blocks else _empty()


def of_source(conn: psycopg.Connection, tenant_id: int, source_id: int) -> pl.DataFrame:
    """All that one source saw. Out: SIGHTINGS_SCHEMA."""
    return _read(conn, "read_source", {"tenant_id": tenant_id, "source_id": source_id})


def write(conn: psycopg.Connection, tenant_id: int, sightings: pl.DataFrame) -> None:
    """Put whole blocks in the place of what they were. In: SIGHTINGS_SCHEMA, every sighting of the blocks it names."""
    if sightings.is_empty():
        return
    conn.execute(SQL["stage"])
    with conn.cursor() as cursor, cursor.copy(SQL["copy"]) as copy:
        for piece in _pieces(sightings.sort("source_id", "id"), tenant_id):
            copy.write(piece)
    conn.execute(SQL["write"])
    conn.execute(SQL["clear"])


def replace(conn: psycopg.Connection, tenant_id: int, ids: pl.Series, sightings: pl.DataFrame) -> None:
    """Forget what was seen of these contacts and keep this instead. In: SIGHTINGS_SCHEMA of these contacts, or none."""
    before = of_contacts(conn, tenant_id, ids)
    if before.is_empty() and sightings.is_empty():
        return
    conn.execute(SQL["remove"], {"tenant_id": tenant_id, "blocks": _blocks(ids).to_list()})
    others = before.filter(~pl.col("id").is_in(ids.implode()))
    write(conn, tenant_id, pl.concat([others, sightings.match_to_schema(SIGHTINGS_SCHEMA)]))


def _blocks(ids: pl.Series) -> pl.Series:
    return (ids // (1 << SHIFT)).unique()


def _empty() -> pl.DataFrame:
    return pl.DataFrame(schema=SIGHTINGS_SCHEMA)


def _read(conn: psycopg.Connection, statement: str, facts: dict[str, Any]) -> pl.DataFrame:
    with conn.cursor(binary=True) as cursor:
        rows = cursor.execute(SQL[statement], facts).fetchall()
    if not rows:
        return _empty()
    _, sources, ids, *arrays = zip(*rows, strict=True)
    lengths = np.array([(len(array) - _HEADER.size) // _ELEMENT.itemsize for array in ids])
    columns: dict[str, Ints] = {"id": _values(ids, lengths)}
    columns["source_id"] = np.repeat(np.array(sources, np.int64), lengths)
    columns |= {name: _values(array, lengths) for name, array in zip(_ARRAYS, arrays, strict=True)}
    return pl.DataFrame(columns, schema=SIGHTINGS_SCHEMA)


def _values(arrays: Sequence[bytes], lengths: Ints) -> Ints:
    """The elements of all arrays, one after another; one element stands for as many as its block has contacts."""
    elements = np.array([(len(array) - _HEADER.size) // _ELEMENT.itemsize for array in arrays])
    joined = b"".join(array[_HEADER.size :] for array in arrays)
    values = np.frombuffer(joined, _ELEMENT)["value"].astype(np.int64)
    if (elements == lengths).all():
        return values
    return np.repeat(values, np.repeat(np.where(elements == lengths, 1, lengths), elements))


def _pieces(sightings: pl.DataFrame, tenant_id: int) -> Iterator[bytes]:
    """Rows of a binary COPY. In: ordered by source and contact."""
    ids, sources = sightings["id"].to_numpy(), sightings["source_id"].to_numpy()
    blocks = ids >> SHIFT
    starts = np.flatnonzero(np.r_[True, (blocks[1:] != blocks[:-1]) | (sources[1:] != sources[:-1])])
    ends = np.r_[starts[1:], len(ids)]
    columns = [_arrays(ids, starts, ends, shared=False)]
    columns += [_arrays(sightings[name].to_numpy(), starts, ends) for name in _ARRAYS]
    piece = bytearray(_BINARY_COPY)
    for block, source, *arrays in zip(blocks[starts].tolist(), sources[starts].tolist(), *columns, strict=True):
        piece += struct.pack(">hiqiiii", 3 + len(arrays), 8, block, 4, source, 4, tenant_id)
        for array in arrays:
            piece += array
        if len(piece) > _PIECE:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece + b"\xff\xff")


def _arrays(values: Ints, starts: Ints, ends: Ints, *, shared: bool = True) -> Iterator[bytes]:
    """Each block's array with its length in front; of one element where all are the same."""
    elements = np.empty(len(values), _ELEMENT)
    elements["bytes"], elements["value"] = 8, values
    wire, size = elements.tobytes(), _ELEMENT.itemsize
    alike = np.minimum.reduceat(values, starts) == np.maximum.reduceat(values, starts)
    lasts = np.where(alike & shared, starts + 1, ends)
    for start, last in zip(starts.tolist(), lasts.tolist(), strict=True):
        n = last - start
        header = struct.pack(">i", _HEADER.size + n * size) + _HEADER.pack(1, 0, _BIGINT, n, 1)
        yield header + wire[start * size : last * size]
