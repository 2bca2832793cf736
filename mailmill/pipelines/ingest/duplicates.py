"""Accepted rows of one batch -> one row a person, however long the batch is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import polars as pl

from mailmill.pipelines.ingest.ahead import ahead

BUCKET_ROWS = 500_000  # about so many rows are compared with each other at once
_TIME = pl.Datetime("us", "UTC")
COPIES_SCHEMA = pl.Schema(
    {
        "copies": pl.UInt32(),  # rows of the batch that this one is made of
        "first_seen": _TIME,
        "last_seen": _TIME,
    }
)
_OF_ONE_ROW = ("line", "match_key", "verdict", "verdict_reason", "seen_at")  # values that belong together


class Spool(Protocol):
    """Frames laid aside on disk."""

    def put(self, bucket: int, frame: pl.DataFrame) -> None: ...

    def take(self, bucket: int) -> Iterator[pl.DataFrame]:
        """What was put there, in order; it is gone afterwards."""
        ...


class Buckets:
    """Rows of one batch until all are there. Rows of one person fall into one bucket, by a hash of their match_key,
    and only rows of one bucket are compared: neither memory nor the work for a row grows with the batch."""

    def __init__(self, spool: Spool, *, rows: int) -> None:
        """In: rows, how many are to come at most."""
        self._spool = spool
        self._buckets = max(1, -(-rows // BUCKET_ROWS))
        self._only: list[pl.DataFrame] = []  # of a batch so small that it needs no disk

    def add(self, rows: pl.DataFrame) -> None:
        """In: VALUES_SCHEMA with custom fields as these rows have them."""
        if self._buckets == 1:
            self._only.append(rows)
            return
        number = pl.col("match_key").hash(seed=0) % self._buckets
        parts = rows.with_columns(bucket=number).partition_by("bucket", as_dict=True, include_key=False)
        for (bucket,), part in parts.items():
            self._spool.put(int(bucket), part)

    def merged(self) -> Iterator[pl.DataFrame]:
        """ACCEPTED_SCHEMA with custom fields; no match_key is in two of the frames."""
        for rows in ahead(self._merged, range(self._buckets)):
            if rows.height:
                yield rows

    def _merged(self, bucket: int) -> pl.DataFrame:
        frames = self._only if self._buckets == 1 else list(self._spool.take(bucket))
        return merged(pl.concat(frames, how="diagonal")) if frames else pl.DataFrame()


def merged(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows of one person become one: of each field the latest value wins, by (seen_at, line); tags are united.

    The verdict is that of the latest row. The order of the rows does not matter.
    In: VALUES_SCHEMA with custom fields. Out: ACCEPTED_SCHEMA with custom fields.
    """
    again = rows["match_key"].is_duplicated()
    seen = pl.col("seen_at")
    once = rows.filter(~again).with_columns(copies=pl.lit(1, pl.UInt32), first_seen=seen, last_seen=seen)
    if not again.any():
        return once
    return pl.concat([once, _latest(rows.filter(again)).select(once.columns)])


def _latest(rows: pl.DataFrame) -> pl.DataFrame:
    rows = rows.sort("match_key", "seen_at", "line").with_row_index("at")
    key = pl.col("match_key")
    edges = rows.select("at", first=(key != key.shift(1)).fill_null(True), last=(key != key.shift(-1)).fill_null(True))
    first, last = edges.filter("first")["at"], edges.filter("last")["at"]
    columns: list[pl.Series] = []
    for name in rows.columns[1:]:
        column = rows[name]
        if name == "tags":
            columns.append(_tags(rows, last))
        elif name in _OF_ONE_ROW or column.null_count() == 0:
            columns.append(column.gather(last))
        else:  # the place of the last value so far; one that belongs to another person is none
            place = edges.select(pl.when(column.is_not_null()).then("at").forward_fill()).to_series().gather(last)
            own = pl.select(pl.when(place >= first).then(place)).to_series()
            columns.append(column.gather(own).alias(name))
    return pl.DataFrame(columns).with_columns(
        copies=(last - first + 1).cast(pl.UInt32),
        first_seen=rows["seen_at"].gather(first),
        last_seen=rows["seen_at"].gather(last),
    )


def _tags(rows: pl.DataFrame, last: pl.Series) -> pl.Series:
    """The tags of each person, sorted and distinct. Most say the same each time."""
    said = rows.select("match_key", "tags", text=pl.col("tags").list.join(","))
    each = said.group_by("match_key", maintain_order=True).agg(several=pl.col("text").n_unique() > 1)
    tags = rows["tags"].gather(last)
    if not each["several"].any():
        return tags
    differ = said.join(each.filter("several"), on="match_key", how="semi").select("match_key", "tags")
    all_said = differ.explode("tags").group_by("match_key").agg(all=pl.col("tags").drop_nulls().unique().sort())
    found = each.join(all_said, on="match_key", how="left", maintain_order="left")["all"]
    return pl.select(pl.coalesce(found, tags)).to_series().alias("tags")
