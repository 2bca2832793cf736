"""Rows of a batch that name somebody who was forgotten: rejected, and nothing of them is kept. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import polars as pl

from mailmill.pipelines.ingest import addresses
from mailmill.pipelines.ingest.erasure import digest, hashed_text
from mailmill.pipelines.ingest.rejects import REJECTED_SCHEMA
from mailmill.pipelines.ingest.validation import Checked

REASON = "forgotten"
_ADDRESSES = r"[^\s,;|\"'<>()\[\]]+@[^\s,;|\"'<>()\[\]]+"  # what may be one, in the text of a rejected row


def recognised(keys: pl.Series, secrets: Mapping[int, bytes], hashes: Collection[str]) -> list[str]:
    """Which of these match keys were forgotten, each once.

    In: secrets by key id; hashes as suppressions.address_key, '<key id>:<hash>'. Each key costs one hash for every
        signing key in use, about half a microsecond; a cheap test before it would have to be kept of the forgotten, and
        whoever knows it could try addresses against it.
    """
    wanted: dict[bytes, set[bytes]] = {}
    for number, _, hashed in (text.partition(":") for text in hashes):
        if int(number) in secrets:
            wanted.setdefault(secrets[int(number)], set()).add(bytes.fromhex(hashed))
    known = keys.drop_nulls().rename("key")
    said = known.to_frame().select(hashed_text(pl.col("key")))["key"].to_list() if wanted else []
    found: set[int] = set()
    for secret, theirs in wanted.items():
        found.update(n for n, text in enumerate(said) if digest(secret, text) in theirs)
    return known.gather(sorted(found)).unique(maintain_order=True).to_list() if found else []


def without(
    checked: Checked, batch: tuple[int, str], secrets: Mapping[int, bytes], hashes: Collection[str]
) -> tuple[Checked, list[str]]:
    """A piece of a batch with forgotten persons' rows rejected, their text left out. Out: their match keys, too.

    In: batch, its id and its source's slug, for the rejected rows.
    """
    gone = recognised(checked.accepted["match_key"], secrets, hashes)
    theirs = pl.col("match_key").is_in(gone)
    rows = checked.accepted.filter(theirs)
    refused = rows.select(pl.all().repeat_by("copies").explode()) if "copies" in rows.columns and rows.height else rows
    mail = pl.col("match_key").str.contains("@", literal=True)
    added = refused.select(
        batch_id=pl.lit(batch[0], pl.Int64), source=pl.lit(batch[1]), line="line",
        field=pl.when(mail).then(pl.lit("email")).otherwise(pl.lit("phone")), reason=pl.lit(REASON), raw=pl.lit(""),
    )  # fmt: skip
    rejected, mentioned = _silenced(checked.rejected, secrets, hashes)
    whole = pl.concat([rejected, added.match_to_schema(REJECTED_SCHEMA)])
    clean = Checked(accepted=checked.accepted.filter(~theirs), rejected=whole, notes=checked.notes)
    return clean, sorted({*gone, *mentioned})


def _silenced(
    rejected: pl.DataFrame, secrets: Mapping[int, bytes], hashes: Collection[str]
) -> tuple[pl.DataFrame, list[str]]:
    """Rows that were rejected for another reason and whose text names a forgotten person."""
    named = rejected.with_row_index("row").select("row", typed=pl.col("raw").str.extract_all(_ADDRESSES))
    named = named.explode("typed").drop_nulls()
    if named.is_empty():
        return rejected, []
    named = named.with_columns(key=addresses.examine(named["typed"])["address_key"])
    gone = recognised(named["key"], secrets, hashes)
    rows = named.filter(pl.col("key").is_in(gone))["row"].unique()
    hit = pl.int_range(pl.len(), dtype=pl.UInt32).is_in(rows.implode())
    silent = rejected.with_columns(
        reason=pl.when(hit).then(pl.lit(REASON)).otherwise("reason"),
        raw=pl.when(hit).then(pl.lit("")).otherwise("raw"),
    )
    return silent.match_to_schema(REJECTED_SCHEMA), gone
