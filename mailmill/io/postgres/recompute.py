"""Contacts made anew from the raw batches that name them, by the rules and sources of today."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import polars as pl
import psycopg

from mailmill.errors import Misconfigured
from mailmill.io.lake import Lake
from mailmill.io.postgres import batch_files, contacts, ingest, sightings
from mailmill.pipelines.ingest import contacts as rules
from mailmill.pipelines.ingest.contacts import STATE_SCHEMA, Origin
from mailmill.pipelines.ingest.history import History
from mailmill.pipelines.ingest.ports import BatchRow, SourceRow
from mailmill.pipelines.ingest.validation import ACCEPTED_SCHEMA

AT_ONCE = 200_000  # contacts made anew; decides how much memory it takes


@dataclass(frozen=True, slots=True, kw_only=True)
class Recomputed:
    """Contacts that were made anew, those of them whose values differ now, those that nobody names any more, and those
    left as they are because a batch that may name them cannot be read by its source's columns of today, or was divided
    anew and is not loaded yet."""

    contacts: int
    changed: int
    removed: int
    left: int

    def __add__(self, other: Recomputed) -> Recomputed:
        names = Recomputed.__dataclass_fields__
        return Recomputed(**{name: getattr(self, name) + getattr(other, name) for name in names})


def recompute(
    conn: psycopg.Connection,
    lake: Lake,
    tenant_id: int,
    ids: pl.Series,
    *,
    without: int | None = None,
    also: Collection[int] = (),
) -> Recomputed:
    """Validate again the raw batches that name these contacts, weigh all they say, and put that in place of what was.

    In:  ids of contacts, in the order of which those are near that one batch brought; `without`, a source that counts
         no longer, so that the runners-up return (its contacts: sightings.of_source); `also`, ids of batches that are
         just being loaded.
    Contacts that no batch names any more are deleted; whom a batch may name that cannot be read stays. Takes the
    tenant's lock; memory is that of AT_ONCE contacts, of those they share blocks with, and of one batch.
    """
    contacts.lock(conn, tenant_id)
    done = Recomputed(contacts=0, changed=0, removed=0, left=0)
    for start in range(0, len(ids), AT_ONCE):
        done += _recompute(conn, lake, tenant_id, ids.slice(start, AT_ONCE), without, also)
    return done


def _recompute(
    conn: psycopg.Connection, lake: Lake, tenant_id: int, ids: pl.Series, without: int | None, also: Collection[int]
) -> Recomputed:
    before = contacts.states(conn, tenant_id, ids)
    without_tags = contacts.deleted_tags(conn, tenant_id)
    keys = before.select("id", "match_key")
    seen = sightings.of_contacts(conn, tenant_id, ids).sightings.join(keys, on="id", how="semi")
    spans = seen.group_by("source_id").agg(pl.col("first_seen").min(), pl.col("last_seen").max())
    sources = {source.id: source for source in ingest.sources(conn, deleted=True) if source.tenant_id == tenant_id}
    history, unsure = History.empty(), [before["id"].clear()]
    for source_id, first_us, last_us in spans.sort("source_id").iter_rows():
        if source_id == without or source_id not in sources:
            continue
        source, mine = sources[source_id], seen.filter(pl.col("source_id") == source_id)
        for batch in ingest.naming_batches(conn, source, first_us, last_us, also=also):
            if batch.state == "validated" and batch.id not in also:
                # divided anew and not loaded since, withheld perhaps: the contacts have what it said before
                unsure.append(sightings.near(conn, tenant_id, batch.id, mine)["id"])
                continue
            origin = Origin(priority=source.priority, source_id=source.id, batch_id=batch.id)
            try:
                accepted = _accepted(conn, lake, source, batch, keys, loading=batch.id in also)
            except Misconfigured:
                unsure.append(sightings.near(conn, tenant_id, batch.id, mine)["id"])
                continue
            if not accepted.is_empty():
                rows = rules.said(accepted, origin, without_tags=without_tags)
                history = history.told(rows.join(keys, on="match_key"), origin)
    return _replaced(conn, tenant_id, before, history, pl.concat(unsure).unique())


def _accepted(
    conn: psycopg.Connection, lake: Lake, source: SourceRow, batch: BatchRow, keys: pl.DataFrame, *, loading: bool
) -> pl.DataFrame:
    """What a batch says of some people by the rules of today, by which one that is just being loaded was divided.

    Raises: Misconfigured when it cannot be read by its source's columns of today.
    """
    if not loading:
        return batch_files.accepted_now(lake, batch_files.listed(conn, source, batch, "raw"), source, batch, keys)
    pieces = [pl.DataFrame(schema=ACCEPTED_SCHEMA)]
    for piece in batch_files.validated(lake, batch_files.listed(conn, source, batch, "validated")):
        pieces.append(piece.join(keys, on="match_key", how="semi"))
    return pl.concat(pieces, how="diagonal")


def _replaced(
    conn: psycopg.Connection, tenant_id: int, before: pl.DataFrame, history: History, unsure: pl.Series
) -> Recomputed:
    sure = ~pl.col("id").is_in(unsure.implode())
    before = before.filter(sure)
    after = history.contacts.filter(sure)
    contacts.update(conn, tenant_id, after)
    sightings.replace(conn, tenant_id, before["id"], history.sightings.filter(sure))
    gone = before.join(after, on="id", how="anti")["id"]
    removed = contacts.remove(conn, tenant_id, gone) if len(gone) else 0
    return Recomputed(contacts=before.height, changed=_differing(before, after), removed=removed, left=len(unsure))


def _differing(before: pl.DataFrame, after: pl.DataFrame) -> int:
    """How many contacts have other values, whoever said them."""
    both = after.join(before, on="id", suffix=":was", maintain_order="left")
    fields = pl.concat([both["fields"], both["fields:was"]])
    if not (fields == "{}").all():  # PostgreSQL writes objects in an order and with spaces of its own
        fields = fields.str.json_decode(infer_schema_length=None).struct.json_encode()
    both = both.with_columns(fields[: both.height], fields[both.height :].alias("fields:was"))
    values = [name for name in STATE_SCHEMA.names() if name not in ("match_key", "provenance")]
    same = pl.all_horizontal(pl.col(name).eq_missing(pl.col(f"{name}:was")) for name in values)
    return both.filter(~same).height
