"""Contacts in PostgreSQL, in sets: a batch goes in, a generation comes out. The caller owns the transaction."""

from __future__ import annotations

import io
from collections.abc import Iterator
from datetime import datetime

import polars as pl
import psycopg

from mailmill.io.postgres.sql import statements
from mailmill.pipelines.ingest import contacts as rules
from mailmill.pipelines.ingest.contacts import CLAIMS_SCHEMA, CONTACTS_SCHEMA, Origin
from mailmill.pipelines.ingest.ports import BatchRow, LoadCounts, SourceRow

SQL = statements("contacts")
SLICE = 50_000  # rows a piece of COPY
_SEPARATOR = "\x1f"


def take_in(conn: psycopg.Connection, source: SourceRow, batch: BatchRow, accepted: pl.DataFrame) -> LoadCounts:
    """Merge a batch's accepted rows into the tenant's contacts.

    Contacts that are new are written as they come. Only those that are known are read back and merged.
    In: ACCEPTED_SCHEMA with custom fields.
    """
    facts = {"tenant_id": source.tenant_id, "source_id": source.id, "batch_id": batch.id}
    origin = Origin(priority=source.priority, source_id=source.id, batch_id=batch.id)
    rows = rules.contact_rows(accepted, origin)
    conn.execute(SQL["lock"], {"tenant_id": source.tenant_id})
    conn.execute(SQL["stage"])
    _copy_in(conn, "copy_incoming", rows.join(rules.sightings(accepted), on="match_key", how="left"))
    conn.execute("ANALYZE incoming")
    known = conn.execute(SQL["find_known"], facts).rowcount
    changed = 0
    if known:
        conn.execute("ANALYZE known")
        conn.execute(SQL["forget_known"], facts)
        changed = _merge_known(conn, accepted, origin)
        conn.execute(SQL["drop_known"])
    new = conn.execute(SQL["add_contacts"], facts).rowcount
    conn.execute(SQL["add_sources"], facts)
    return LoadCounts(
        batches=1,
        accepted=accepted.height,
        new=new,
        changed=changed,
        duplicates_within=accepted.height - rows.height,
        duplicates_across=known,
    )


def _merge_known(conn: psycopg.Connection, accepted: pl.DataFrame, origin: Origin) -> int:
    """Weigh what the batch claims about known contacts against what won so far. Out: contacts whose values changed."""
    keys = _copy_out(conn, "known_keys", {"match_key": pl.String()})
    existing = _copy_out(conn, "claims", dict(CLAIMS_SCHEMA))
    again = accepted.join(keys, on="match_key", how="semi")
    winners = rules.merge(existing, rules.claims(again, origin))
    _copy_in(conn, "copy_merged", rules.assembled(winners))
    conn.execute("ANALYZE merged")
    row = conn.execute(SQL["update_contacts"]).fetchone()
    return int(row[0]) if row else 0


def generation(conn: psycopg.Connection, tenant_id: int, now: datetime) -> pl.DataFrame:
    """Every contact of a tenant. Out: CONTACTS_SCHEMA in order of contact_id."""
    conn.execute(SQL["lock_generation"], {"tenant_id": tenant_id})
    plain = {name: pl.Int64() if isinstance(kind, pl.Datetime) else pl.String() if isinstance(kind, pl.List) else kind
             for name, kind in CONTACTS_SCHEMA.items()}  # fmt: skip
    frame = _copy_out(conn, "generation", plain, {"tenant_id": tenant_id, "now": now})
    empty = pl.lit([], dtype=pl.List(pl.String))
    columns = []
    for name, kind in CONTACTS_SCHEMA.items():
        column = pl.col(name)
        if isinstance(kind, pl.Datetime):
            column = pl.from_epoch(column, "us").dt.replace_time_zone("UTC")
        elif isinstance(kind, pl.List):
            column = pl.when(column != "").then(column.str.split(_SEPARATOR)).otherwise(empty)
        columns.append(column.alias(name))
    return frame.select(columns).match_to_schema(CONTACTS_SCHEMA)


def _copy_in(conn: psycopg.Connection, statement: str, frame: pl.DataFrame) -> None:
    with conn.cursor() as cursor, cursor.copy(SQL[statement]) as copy:
        for part in frame.iter_slices(SLICE):
            copy.write(part.write_csv(include_header=False, datetime_format="%Y-%m-%d %H:%M:%S%.6f%z"))


def _copy_out(
    conn: psycopg.Connection, statement: str, schema: dict[str, pl.DataType], facts: dict[str, object] | None = None
) -> pl.DataFrame:
    """A COPY … TO STDOUT (FORMAT csv) as a frame of this schema."""
    parts: list[pl.DataFrame] = []
    for piece in _pieces(conn, statement, facts):
        parts.append(pl.read_csv(piece, has_header=False, schema=schema, quote_char='"'))
    return pl.concat(parts, rechunk=True) if parts else pl.DataFrame(schema=schema)


def _pieces(conn: psycopg.Connection, statement: str, facts: dict[str, object] | None) -> Iterator[io.BytesIO]:
    """The answer in pieces of some megabytes, each of whole rows (the server sends a row a message)."""
    piece = io.BytesIO()
    with conn.cursor() as cursor, cursor.copy(SQL[statement], facts) as copy:
        for row in copy:
            piece.write(row)
            if piece.tell() > 64_000_000:
                yield _rewound(piece)
                piece = io.BytesIO()
    if piece.tell():
        yield _rewound(piece)


def _rewound(piece: io.BytesIO) -> io.BytesIO:
    piece.seek(0)
    return piece
