"""Rows of the lake: whose they are, and what is left of them without a person. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import cache, partial
from unicodedata import normalize

import polars as pl

from mailmill.pipelines.configuration.specs import MergeSpec
from mailmill.pipelines.ingest import addresses
from mailmill.pipelines.ingest.erasure import (
    WORD,
    Person,
    any_of,
    channel_of,
    masked,
    mentions,
    text_of,
    unicode_domain,
)
from mailmill.pipelines.ingest.persons import mailbox

OWN_KEYS = ("match_key", "address_key", "email", "address")  # columns that say whose row it is
# datasets whose rows are counted and name nobody: they stay, what they tell of a person does not
COUNTED: Mapping[str, tuple[str, ...]] = {"messages": (), "attempts": ("reply",), "events": ("ip", "user_agent")}
# what may be an address in the text of a rejected row
ADDRESSES = r"[^\s,;|\"'<>()\[\]]+@[^\s,;|\"'<>()\[\]]+"


def own_rows(
    person: Person, dataset: str, schema: Mapping[str, pl.DataType], lines: Collection[int] | None = None
) -> pl.Expr:
    """Whether a row of a dataset is the person's, raw batches aside: those are told by their columns (raw_rows).

    In: lines, of rejected rows: what is theirs of their raw batch; None where that is gone.
    """
    if dataset in COUNTED:
        return pl.lit(False)
    if dataset == "rejected":
        return text_rows(person, schema, lines)
    tests = []
    if person.contact_ids and "contact_id" in schema:
        tests.append(pl.col("contact_id").is_in(list(person.contact_ids)))
    keys = list(person.keys)
    tests += [pl.col(name).str.to_lowercase().is_in(keys) for name in OWN_KEYS if schema.get(name) == pl.String]
    if "aliases" in schema and dataset == "contacts":  # a row of several contacts: the next publication has the others
        tests.append(pl.col("aliases").list.set_intersection(keys).list.len() > 0)
    if schema.get("phone") == pl.String:  # others may share it
        alone = pl.col("email").is_null() if "email" in schema else pl.lit(True)
        tests.append(pl.col("phone").is_in(keys) & alone)
    return pl.any_horizontal(*tests).fill_null(False) if tests else pl.lit(False)


def text_rows(person: Person, schema: Mapping[str, pl.DataType], lines: Collection[int] | None = None) -> pl.Expr:
    """Whether a row that is one text, `raw`, is theirs: any mention of an address makes it so, and of a number, however
    it was typed. But one that holds an address of somebody else is theirs only where its columns said so.

    In: lines, as own_rows; where they are not known, a mention by their address counts.
    """
    numbers = [key for key in person.keys if channel_of(key) == "phone"]
    mails = [key for key in person.keys if channel_of(key) == "email"]
    found, numbered = mentions(Person(tuple(mails), person.spellings), schema), mentions(Person(tuple(numbers)), schema)
    if person.numbers:
        numbered |= any_of(pl.col("raw"), person.numbers)
    likely = pl.when(found | numbered).then("raw")
    others = likely.map_batches(partial(_of_others, own=mails), return_dtype=pl.Boolean)
    said = found if lines is None else pl.col("line").is_in(list(lines))
    return (found | numbered) & (~others | said)


def _of_others(texts: pl.Series, own: Collection[str]) -> pl.Series:
    """Whether a text holds an address that can be read and is not among their own."""
    typed = texts.to_frame("text").with_row_index("row").with_columns(pl.col("text").str.extract_all(ADDRESSES))
    typed = typed.explode("text").drop_nulls()
    keys = addresses.examine(typed["text"])["address_key"]
    others = typed.filter(keys.is_not_null() & ~keys.is_in(list(own)))["row"]
    return pl.int_range(texts.len(), dtype=pl.UInt32, eager=True).is_in(others.implode()).alias(texts.name)


def spellings(frame: pl.LazyFrame, mailboxes: Collection[str], rule: MergeSpec) -> set[str]:
    """The match keys of these mailboxes anywhere in a file's texts, however the rule lets them be written."""
    texts = [text for name, kind in frame.collect_schema().items() if (text := text_of(name, kind)) is not None]
    domains = {form.rpartition("@")[2] for box in mailboxes for form in (box, *unicode_domain(box))}
    pattern = rf"(?i)(?:^|[^{WORD}._+-])((?:{'|'.join(_local(box, rule) for box in mailboxes)})@[{WORD}.-]+)"
    likely = (
        pl.when(text.str.contains_any([f"@{domain}" for domain in domains], ascii_case_insensitive=True)).then(text)
        for text in texts
    )
    found = frame.select(pl.concat_list(text.str.extract_all(pattern).fill_null([]) for text in likely).alias("key"))
    typed = found.explode("key").drop_nulls().select(pl.col("key").str.extract(pattern)).unique()
    keys = addresses.examine(typed.collect(engine="streaming")["key"])["address_key"].drop_nulls().to_frame("key")
    return set(keys.filter(mailbox(pl.col("key"), rule).is_in(list(mailboxes)))["key"])


def _local(box: str, rule: MergeSpec) -> str:
    """An expression for the part before the at sign, in whichever case: a mailbox has `ss` where somebody wrote `ß`."""
    local, _, domain = box.rpartition("@")
    between, after = r"\.?" if domain in rule.dots else "", r"(?:\+[^\s,;|<>()@]*)?" if rule.plus_tags else ""
    folded = _folded()
    parts = re.findall("|".join([*sorted(folded, key=len, reverse=True), "(?s:.)"]), local)
    spelt = ((between.join(map(re.escape, part)), folded.get(part)) for part in parts)
    return between.join(f"(?:{text}|[{letters}])" if letters else text for text, letters in spelt) + after


@cache
def _folded() -> dict[str, str]:
    """Letters of which folding makes several, by what it makes."""
    found: dict[str, str] = {}
    for letter in map(chr, range(0x80, 0x10000)):
        if len(text := normalize("NFC", letter.casefold())) > 1:
            found[text] = found.get(text, "") + letter
    return found


def told(person: Person, dataset: str, schema: Mapping[str, pl.DataType]) -> list[pl.Expr]:
    """What the counted rows of a dataset tell of the person, as nulls."""
    if not person.message_ids or not COUNTED.get(dataset):
        return []
    which = next((name for name in ("message", "message_id") if name in schema), None)
    if which is None:
        return []
    theirs = pl.col(which).is_in(list(person.message_ids))
    return [pl.when(~theirs).then(pl.col(name)).alias(name) for name in COUNTED[dataset] if name in schema]


def without(person: Person, dataset: str, frame: pl.LazyFrame, own: pl.Expr) -> pl.LazyFrame:
    """A dataset's rows without the person: their own rows left out, mentions in those of others masked."""
    schema = frame.collect_schema()
    blanked = frame.filter(~own).with_columns(told(person, dataset, schema))
    return blanked.with_columns(masked(person, schema))


def touched(person: Person, dataset: str, frame: pl.LazyFrame, own: pl.Expr) -> bool:
    """Whether a file has anything of the person."""
    if frame.select(own.any()).collect(engine="streaming").item():
        return True
    schema = frame.collect_schema()
    found = own | mentions(person, schema)
    for blank in told(person, dataset, schema):
        name = blank.meta.output_name()
        found |= pl.col(name).is_not_null() & blank.is_null()
    return bool(frame.select(found.any()).collect(engine="streaming").item())
