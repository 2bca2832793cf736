"""Consent and its history: append only. The caller owns the transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Literal, get_args

import polars as pl
import psycopg
from psycopg.rows import dict_row

from mailmill.io.postgres import bigints
from mailmill.io.postgres.sql import statements
from mailmill.io.postgres.suppressions import of_mailboxes, suppress
from mailmill.pipelines.configuration.words import LawfulBasis
from mailmill.pipelines.ingest import cells
from mailmill.pipelines.ingest.erasure import channel_of
from mailmill.pipelines.ingest.persons import CONSENTS
from mailmill.pipelines.ingest.ports import BatchRow, SourceRow
from mailmill.pipelines.ingest.validation import FIELD

SQL = statements("consents")
GIVEN = ("consent_at", "consent_basis", "consent_proof")  # custom fields in which a row says it of itself
ROW_FIELDS = frozenset(GIVEN[:2])
BASES: tuple[str, ...] = get_args(LawfulBasis)
_PIECE = 50_000


def add(
    conn: psycopg.Connection, tenant_id: int, address_key: str, status: Literal["granted", "withdrawn"], *,
    basis: str | None, proof: str | None, by: str, at: datetime | None = None,
) -> datetime:  # fmt: skip
    """One person's word. Out: when they said it.

    Who withdraws is suppressed as of then, so that running campaigns hear of it; not so where a later grant stands.

    Raises: psycopg's CheckViolation for a grant without a basis.
    """
    row = conn.execute(SQL["add"], {
        "tenant_id": tenant_id, "channel": channel_of(address_key), "address_key": address_key, "status": status,
        "basis": basis, "proof": proof, "at": at, "by": by,
    }).fetchone()  # fmt: skip
    assert row is not None
    if status == "withdrawn":
        which = {"tenant_id": tenant_id, "key": address_key, "at": row[0]}
        for (key,) in conn.execute(SQL["reached_by"], which).fetchall():
            suppress(
                conn, tenant_id=tenant_id, address_keys=[key], reason="unsubscribed", channel=channel_of(key),
                note="consent withdrawn", at=row[0],
            )  # fmt: skip
    return row[0]  # type: ignore[no-any-return]


def vouch(conn: psycopg.Connection, source: SourceRow, batch: BatchRow) -> None:
    """One row for all of a batch, where its source vouches for all. Call it before the sightings move."""
    if (policy := source.spec.consent) is not None:
        facts = {"tenant_id": source.tenant_id, "source_id": source.id, "batch_id": batch.id, "at": batch.seen_at}
        conn.execute(SQL["of_batch"], {**facts, "basis": policy.basis, "proof": policy.proof})


def show_vouched(conn: psycopg.Connection, source: SourceRow, batches: Sequence[BatchRow]) -> None:
    """Have those published anew for whom a batch vouches since this load, one loaded before: what it says of them is
    the same, so nothing else of theirs has moved."""
    before = [batch.id for batch in batches if batch.loaded_before]
    if source.spec.consent is None or not before:
        return
    anew = [batch for (batch,) in conn.execute(SQL["newly_vouched"], {"batch_ids": before})]
    which = {"tenant_id": source.tenant_id, "source_id": source.id, "batch_ids": anew}
    for statement in ("touch_sightings", "touch_lone") if anew else ():
        conn.execute(SQL[statement], which)


def keep_vouched(conn: psycopg.Connection, batch_id: int, before: pl.DataFrame, after: pl.DataFrame) -> None:
    """What batches vouched for that a person's sighting names no longer is written for the person.

    Not so where the last batch vouches for the same, as that of a list does that comes again: this costs no row then.
    In: a source's sightings, SIGHTINGS_SCHEMA, before a batch (null: none) and after it, of the same contacts in order.
    """
    was, now = before.select(first="first_batch", last="last_batch"), after.select("id", "first_batch", "last_batch")
    batches = {batch_id, *was["first"].unique(), *was["last"].unique()} - {None}
    rows = conn.execute(SQL["vouched"], {"batch_ids": sorted(batches)}).fetchall()
    words = {batch: (basis, proof) for batch, basis, proof in rows}
    if not words or (len(set(words.values())) == 1 and words.keys() == batches):
        return
    numbers = {word: n for n, word in enumerate(words.values())}
    said = {batch: numbers[word] for batch, word in words.items()}
    both = pl.concat([was, now], how="horizontal").with_columns(this=pl.lit(batch_id, pl.Int64))
    for name in was.columns + ["this"]:
        word, last = (pl.col(column).replace_strict(said, default=None, return_dtype=pl.Int64)
                      for column in (name, "last_batch"))  # fmt: skip
        unnamed = (pl.col(name) != pl.col("first_batch")) & (pl.col(name) != pl.col("last_batch"))
        left = both.filter(unnamed & word.is_not_null() & word.ne_missing(last))
        for part in left.iter_slices(_PIECE):
            ids, named = bigints.text(part["id"]), bigints.text(part[name])
            conn.execute(SQL["of_each"], {"ids": ids, "batch_ids": named})


def record(conn: psycopg.Connection, source: SourceRow, batch: BatchRow, rows: Iterable[pl.DataFrame]) -> None:
    """What a batch's rows say of themselves, one row for each. In: its accepted rows that have one of ROW_FIELDS."""
    facts = {"tenant_id": source.tenant_id, "source_id": source.id, "batch_id": batch.id}
    policy = source.spec.consent
    for piece in rows:
        for part in said(piece, policy.basis if policy else "consent", batch.seen_at).iter_slices(_PIECE):
            columns = {"keys": "match_key", "bases": "basis", "proofs": "proof", "ats": "at", "dated": "dated"}
            conn.execute(SQL["of_rows"], {**facts, **{to: part[name].to_list() for to, name in columns.items()}})


def said(rows: pl.DataFrame, basis: str, now: datetime) -> pl.DataFrame:
    """match_key, basis, proof, at, dated of the rows that speak of consent; a row without a basis means `basis`.

    Words that are no lawful basis ('declined') and no time ('no') grant nothing. Where a row has no time of its own, or
    one after `now`, it is not dated: the list says so when it has the row, and never against a withdrawal.
    """
    given = [pl.col(FIELD + name) if FIELD + name in rows.columns else pl.lit(None, pl.String) for name in GIVEN]
    known = given[1].str.to_lowercase().str.replace_all(" ", "_")
    spoken = rows.filter(
        given[0].is_not_null() | given[1].is_not_null(), known.is_null() | known.is_in(list(BASES))
    ).with_columns(given[0].alias("as_given"))
    spoken = spoken.with_columns(cells.time(spoken["as_given"]).alias("at"))
    dated = pl.col("at").is_not_null() & (pl.col("at") <= pl.lit(now))
    seen = pl.col("last_seen") if "last_seen" in rows.columns else pl.lit(now)
    return spoken.filter(pl.col("as_given").is_null() | pl.col("at").is_not_null()).select(
        "match_key",
        basis=known.fill_null(basis),
        proof=given[2],
        at=pl.when(dated).then("at").otherwise(seen),
        dated=dated,
    )


def history(
    conn: psycopg.Connection, tenant_id: int, contact_ids: Sequence[int], keys: Sequence[str]
) -> list[dict[str, Any]]:
    """What became of a person's contacts by time: at, what, detail, basis, proof, source, by, address.

    What is or was suppressed of the same mailbox is told as well, be it a contact or not.
    """
    named = of_mailboxes(conn, tenant_id, keys)
    with conn.cursor(row_factory=dict_row) as cursor:
        which = {"tenant_id": tenant_id, "ids": list(contact_ids), "keys": named}
        return cursor.execute(SQL["history"], which).fetchall()


def current(conn: psycopg.Connection, tenant_id: int, contact_ids: Iterable[int]) -> str | None:
    """The lawful basis in force for a person's contacts, 'withdrawn', or None where nothing is recorded."""
    rows = conn.execute(SQL["current"], {"tenant_id": tenant_id, "ids": sorted(set(contact_ids))})
    return min((word for (word,) in rows), key=CONSENTS.index, default=None)


def withdrawn(conn: psycopg.Connection, tenant_id: int, keys: Sequence[str]) -> list[str]:
    """Those of these match keys whose contact has withdrawn."""
    rows = conn.execute(SQL["withdrawn"], {"tenant_id": tenant_id, "keys": list(keys)})
    return [key for (key,) in rows]


def held(conn: psycopg.Connection, tenant_id: int, keys: Sequence[str]) -> list[dict[str, Any]]:
    """Every word of a person's own."""
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(SQL["held"], {"tenant_id": tenant_id, "keys": list(keys)}).fetchall()
