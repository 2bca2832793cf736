"""Rows of a batch that name somebody who was forgotten: rejected, and nothing of them is kept. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import polars as pl

from mailmill.pipelines.configuration.specs import MergeSpec
from mailmill.pipelines.ingest import addresses, phones
from mailmill.pipelines.ingest.erasure import channels, digest, hashed_text
from mailmill.pipelines.ingest.erasure_rows import ADDRESSES
from mailmill.pipelines.ingest.persons import EACH, mailbox
from mailmill.pipelines.ingest.rejects import REJECTED_SCHEMA
from mailmill.pipelines.ingest.validation import Checked

REASON = "forgotten"
# what may be one in the text of a rejected row: it shows by its + there, others are read in their own cell
_NUMBERS = r"\+[0-9][0-9 \x{a0}().\-/]{6,24}"


@dataclass(frozen=True, slots=True)
class Again:
    """Forgotten persons whom a batch names: match keys, and lines of rejected rows that name a number of theirs.

    A number may be somebody else's as well, who has the line at home: rows with an address of somebody else are not
    theirs, whatever else is wrong with them.
    """

    keys: tuple[str, ...]
    lines: tuple[int, ...]


def recognised(
    keys: pl.Series, secrets: Mapping[int, bytes], hashes: Collection[str], rule: MergeSpec = EACH
) -> list[str]:
    """Which of these match keys were forgotten, each once; by their mailbox as well, where the tenant has a rule.

    In: secrets by key id; hashes as suppressions.address_key, '<key id>:<hash>'. Each key costs one hash (with a
        rule three) for every signing key in use, about half a microsecond; a cheap test before it would have to be kept
        of the forgotten, and whoever knows it could try addresses against it.
    """
    wanted: dict[bytes, set[bytes]] = {}
    for number, _, hashed in (text.partition(":") for text in hashes):
        if int(number) in secrets:
            wanted.setdefault(secrets[int(number)], set()).add(bytes.fromhex(hashed))
    known = keys.drop_nulls().rename("key")
    forms = [hashed_text(pl.col("key"))]
    if (
        rule.strips
    ):  # the address itself may have been forgotten before there was a rule; of a number it is nobody's hash
        box = mailbox(pl.col("key"), rule)
        forms += [hashed_text(box), (pl.lit("mailbox:") + box).cast(pl.Binary)]
    said = [known.to_frame().select(form).to_series().to_list() for form in forms] if wanted else []
    found: set[int] = set()
    for secret, theirs in wanted.items():
        for texts in said:
            found.update(n for n, text in enumerate(texts) if digest(secret, text) in theirs)
    return known.gather(sorted(found)).unique(maintain_order=True).to_list() if found else []


def without(
    checked: Checked, batch: tuple[int, str], secrets: Mapping[int, bytes], hashes: Collection[str],
    rule: MergeSpec = EACH,
) -> tuple[Checked, Again]:  # fmt: skip
    """A piece of a batch with forgotten persons' rows rejected, their text left out.

    In: batch, its id and its source's slug, for the rejected rows; secrets, hashes and rule as `recognised`.
    """
    gone = recognised(checked.accepted["match_key"], secrets, hashes, rule)
    theirs = pl.col("match_key").is_in(gone)
    rows = checked.accepted.filter(theirs)
    refused = rows.select(pl.all().repeat_by("copies").explode()) if "copies" in rows.columns and rows.height else rows
    added = refused.select(
        batch_id=pl.lit(batch[0], pl.Int64), source=pl.lit(batch[1]), line="line",
        field=channels(pl.col("match_key")), reason=pl.lit(REASON), raw=pl.lit(""),
    )  # fmt: skip
    rejected, mentioned, lines = _silenced(checked, secrets, hashes, rule)
    whole = pl.concat([rejected, added.match_to_schema(REJECTED_SCHEMA)])
    clean = Checked(accepted=checked.accepted.filter(~theirs), rejected=whole, notes=checked.notes)
    return clean, Again(tuple(sorted({*gone, *mentioned})), tuple(lines))


def _silenced(
    checked: Checked, secrets: Mapping[int, bytes], hashes: Collection[str], rule: MergeSpec
) -> tuple[pl.DataFrame, list[str], list[int]]:
    """Rows that were rejected for another reason and name a forgotten person. Out: and the addresses they name them by,
    the lines of those that name a number."""
    rejected = checked.rejected
    mails, numbers = (
        rejected.select("line", typed=pl.col("raw").str.extract_all(pattern)).explode("typed").drop_nulls()
        for pattern in (ADDRESSES, _NUMBERS)
    )
    mails = mails.select("line", key=addresses.examine(mails["typed"])["address_key"])
    mails = pl.concat([mails, checked.named.select("line", key="address_key")]).drop_nulls()
    gone = recognised(mails["key"], secrets, hashes, rule)
    theirs = pl.col("key").is_in(gone)
    nowhere = pl.Series([None] * numbers.height, dtype=pl.String)
    numbers = numbers.select("line", key=phones.examine(numbers["typed"].str.strip_chars(), nowhere))
    # a number says whose row it is only where no address does: who shares it was never forgotten
    numbers = numbers.join(mails.filter(~theirs), on="line", how="anti")
    numbers = pl.concat([numbers, checked.named.filter(pl.col("address_key").is_null()).select("line", key="phone")])
    by_number = numbers.filter(pl.col("key").is_in(recognised(numbers["key"], secrets, hashes)))["line"].unique()
    lines = pl.concat([by_number, mails.filter(theirs)["line"]]).unique()
    if lines.is_empty():
        return rejected, [], []
    hit = pl.col("line").is_in(lines.implode())
    silent = rejected.with_columns(
        reason=pl.when(hit).then(pl.lit(REASON)).otherwise("reason"),
        raw=pl.when(hit).then(pl.lit("")).otherwise("raw"),
    )
    return silent.match_to_schema(REJECTED_SCHEMA), gone, by_number.to_list()
