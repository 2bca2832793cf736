"""Rows of forgotten persons keep nothing; those of others stay, also where they share a number."""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl

from mailmill.io.sources.manual import table_of
from mailmill.pipelines.configuration.specs import MergeSpec
from mailmill.pipelines.ingest import forgotten
from mailmill.pipelines.ingest.erasure import channel_of, keyed_hash
from mailmill.pipelines.ingest.validation import BatchFacts, validate

FACTS = BatchFacts(batch_id=1, source="s", seen_at=datetime(2026, 11, 20, tzinfo=UTC), columns={}, country="AT")
SECRET = b"k" * 32
GONE = [f"1:{keyed_hash(SECRET, channel_of(key), key)}" for key in ("ann@x.org", "+4315337031")]
LONG = "z" * 10_001


def kept(*rows: dict[str, str]) -> tuple[list[str], list[bool], forgotten.Again]:
    """Of the rejected rows: reasons, and whether their text is kept."""
    [raw] = table_of(rows).frames
    checked, again = forgotten.without(validate(raw, FACTS), (1, "s"), {1: SECRET}, GONE)
    rejected = checked.rejected.sort("line")
    return rejected["reason"].to_list(), rejected.select(pl.col("raw") != "")["raw"].to_list(), again


def test_P01_who_shares_a_number_with_a_forgotten_person_keeps_a_row_that_can_be_mended():
    row = {"email": "mum@x.org", "phone": "+43 1 5337031", "note": LONG}
    for shared in (row, row | {"phone": "01 5337031"}, row | {"email": "mum@x.abcxyz", "note": "no list has it yet"}):
        reasons, texts, again = kept(shared)
        assert reasons in (["value_too_long"], ["domain_impossible"])
        assert (texts, again) == ([True], forgotten.Again(keys=(), lines=()))


def test_nothing_stays_of_a_rejected_row_that_names_a_forgotten_person():
    rows = [
        {"note": LONG, "email": "ann@x.org", "phone": ""},  # the text of it is cut off before the address
        {"note": LONG, "email": "Ann@X.org", "phone": "+43 1 5337031"},
        {"note": "", "email": "bad@@x", "phone": "01 5337031"},
        {"note": "now +43 1 5337031", "email": "bad@@x", "phone": ""},
    ]
    reasons, texts, again = kept(*rows)
    assert (reasons, texts) == (["forgotten"] * 4, [False] * 4)
    assert again.keys == ("ann@x.org",)
    assert set(again.lines) >= {3, 4}


def test_by_a_tenants_rule_another_spelling_of_a_forgotten_mailbox_is_known() -> None:
    rule = MergeSpec(plus_tags=True, dots=("gmail.com",))
    keys = pl.Series(["ann+b@x.org", "bob+c@x.org", "bob@x.org", "a.nn@x.org", "+4315337031", "+43bob@x.org", None])
    mailbox = f"1:{keyed_hash(SECRET, 'mailbox', 'bob@x.org')}"  # of one who was bob+a@x.org
    assert forgotten.recognised(keys, {1: SECRET}, GONE) == ["+4315337031"]
    known = forgotten.recognised(keys, {1: SECRET}, [*GONE, mailbox], rule)
    assert known == ["ann+b@x.org", "bob+c@x.org", "bob@x.org", "+4315337031"]
