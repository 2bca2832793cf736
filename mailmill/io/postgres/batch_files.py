"""The rows of a batch in the lake: as they came, as they were accepted, as they would be accepted now."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import polars as pl
import psycopg

from mailmill.errors import Misconfigured, StoreUnavailable
from mailmill.io.lake import Lake
from mailmill.io.postgres import ingest
from mailmill.pipelines.ingest import validation
from mailmill.pipelines.ingest.batches import batch_facts
from mailmill.pipelines.ingest.duplicates import merged
from mailmill.pipelines.ingest.ports import BatchRow, SourceRow
from mailmill.pipelines.ingest.raw import CELL, RAW_SCHEMA
from mailmill.pipelines.ingest.validation import ACCEPTED_SCHEMA, FIELD, VALUES_SCHEMA
from mailmill.pipelines.ingest.withdrawals import last_words

LOADED_AT_ONCE = 500_000  # rows; decides how much memory a load takes


Files = list[tuple[str, dict[str, Any]]]


def listed(conn: psycopg.Connection, source: SourceRow, batch: BatchRow, dataset: str) -> Files:
    """The batch's files in a dataset, each with its facts."""
    return ingest.batch_files(conn, tenant_id=source.tenant_id, dataset=dataset, batch_id=batch.id)


def raw(lake: Lake, files: Files) -> Iterator[pl.DataFrame]:
    """RAW_SCHEMA with the source's columns, file by file."""
    for file, facts in files:
        names = {CELL + name: pl.String() for name in facts["columns"]}
        try:
            yield lake.scan([file], pl.Schema({**RAW_SCHEMA, **names})).collect()
        except FileNotFoundError as error:
            raise StoreUnavailable(
                f"{facts['origin']}: its raw file {file} is not in the lake; a forget may just have written it anew: "
                "run this again, and if it says the same, the file is lost: restore it from a backup"
            ) from error


def validated(lake: Lake, files: Files) -> Iterator[pl.DataFrame]:
    """ACCEPTED_SCHEMA with custom fields, piece by piece; no match_key is in two of them."""
    for file, facts in files:
        names = {FIELD + name: pl.String() for name in facts["columns"]}
        rows = lake.scan([file], pl.Schema({**ACCEPTED_SCHEMA, **names}))
        for start in range(0, rows.select(pl.len()).collect().item(), LOADED_AT_ONCE):
            yield rows.slice(start, LOADED_AT_ONCE).collect()


def accepted_now(lake: Lake, files: Files, source: SourceRow, batch: BatchRow, keys: pl.DataFrame) -> pl.DataFrame:
    """What the batch says of some people by the rules and the source's columns of today.

    In:     its raw files; keys, with match_key. Out: ACCEPTED_SCHEMA with custom fields.
    Raises: Misconfigured when the source's columns are not those of this batch.
    """
    pieces = [pl.DataFrame(schema=VALUES_SCHEMA), *_rows_now(lake, files, source, batch, keys)]
    return merged(pl.concat(pieces, how="diagonal"))


def _rows_now(
    lake: Lake, files: Files, source: SourceRow, batch: BatchRow, keys: pl.DataFrame
) -> Iterator[pl.DataFrame]:
    facts = batch_facts(source, batch)
    for piece in raw(lake, files):
        yield validation.validate(piece, facts).accepted.join(keys, on="match_key", how="semi")


def spoken(
    conn: psycopg.Connection, lake: Lake, source: SourceRow, batch: BatchRow, accepted: Files, fields: Collection[str]
) -> Iterator[pl.DataFrame]:
    """Accepted rows, and where several of them are one person's that has one of these custom fields, each by itself.

    The raw rows tell those apart; they stay one where today's columns of the source do not read them.
    In:  accepted, the batch's validated files. Out: match_key, last_seen and these fields, of the former with all else.
    """
    nobody = pl.DataFrame(schema={"match_key": pl.String})
    words = pl.col(f"^{FIELD}({'|'.join(fields)})$")
    said = pl.any_horizontal(False, words.is_not_null())
    several = [piece.filter(said, pl.col("copies") > 1).select("match_key") for piece in validated(lake, accepted)]
    keys = pl.concat([nobody, *several])
    apart: list[pl.DataFrame] = []
    if keys.height:
        try:
            for piece in _rows_now(lake, listed(conn, source, batch, "raw"), source, batch, keys):
                apart.append(piece.select("match_key", words, last_seen="seen_at"))
        except Misconfigured:
            keys, apart = nobody, []
    for piece in validated(lake, accepted):
        yield piece.join(keys, on="match_key", how="anti")
    yield from apart


def still_gone(
    conn: psycopg.Connection, lake: Lake, source: SourceRow, batch: BatchRow, gone: pl.DataFrame, besides: set[int]
) -> pl.DataFrame:
    """Whom the source has not shown again after it said in this batch that it deleted them.

    A row that was rejected shows somebody, too, and leaves no sighting: so batches with such rows are read, if loaded
    later and not `besides`. One that today's columns cannot read does not count; what one says of deletions alone
    stands with its own id, and a year of such batches would be read while the tenant's contacts are held.

    In, out: WORDS_SCHEMA, each match_key once.
    """
    said = gone
    for later in ingest.batches(conn, source, None) if len(gone) else ():
        shows = later.loaded_before and later.refused > 0
        if later.id <= batch.id or later.id in besides or not shows:
            continue
        try:
            words = last_words([(raw(lake, listed(conn, source, later, "raw")), batch_facts(source, later))])
        except Misconfigured:
            continue
        words = words.join(gone, on="match_key", how="semi")
        said = pl.concat([said.join(words, on="match_key", how="anti"), words])
    return said.filter(~pl.col("there"))
