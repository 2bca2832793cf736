"""P01: whatever columns and cells a source has, each row is taken in or rejected, and says what it said."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from mailmill.io.sources.manual import table_of
from mailmill.pipelines.ingest.columns import headers
from mailmill.pipelines.ingest.contacts import Origin, said
from mailmill.pipelines.ingest.duplicates import merged
from mailmill.pipelines.ingest.validation import FIELD, BatchFacts, match_keys, validate

FACTS = BatchFacts(batch_id=1, source="s", seen_at=datetime(2026, 11, 20, tzinfo=UTC), columns={}, country="DE")
HEADERS = st.sampled_from(
    ["email", "E-Mail", "Address", "phone", "name", "Vorname", "country", "country_as_given", "seen_at_as_given",
     "created_at", "tags", "time_zone", "", "n", "n (2)", "Город", "line", "problem", "fields", "at:name", "score"]
)  # fmt: skip
CELLS = st.one_of(
    st.sampled_from(
        ["", "a@x.org", "A@X.org", "Ann <b@x.org>", "Main Street 1", "+4930123456", "DE", "Atlantis", "2026-01-02",
         "0000-01-01", "9999-12-31T23:59:59-14:00", "1900-01-01", "\ufeff", "\u2028", "\x00", '","n":null', "9" * 400,
         "x" * 10_001]
    ),
    st.text(max_size=5),
)  # fmt: skip


@st.composite
def tables(draw):
    names = ["email", *draw(st.lists(HEADERS, max_size=6))]
    rows = draw(st.lists(st.lists(CELLS, min_size=len(names), max_size=len(names)), min_size=1, max_size=4))
    return [dict(zip(headers(names), row, strict=True)) for row in rows]


@settings(max_examples=40, deadline=None)
@given(tables())
def test_P01_each_row_is_taken_in_or_rejected_and_keeps_what_it_says(rows):
    raw = table_of(rows).frame
    done = validate(raw, FACTS)
    taken = dict(zip(done.accepted["line"], done.accepted["match_key"], strict=True))
    assert sorted([*taken, *done.rejected["line"]]) == raw["line"].to_list()
    found = dict(zip(raw["line"], match_keys(raw, FACTS), strict=True))
    assert {line: found[line] for line in taken} == taken
    assert (
        (done.accepted["seen_at"] > datetime(1970, 1, 1, tzinfo=UTC)) & (done.accepted["seen_at"] <= FACTS.seen_at)
    ).all()
    people = merged(done.accepted)
    spoken = said(people, Origin(priority=0, source_id=1, batch_id=1))
    for row, fields in zip(people.iter_rows(named=True), spoken["fields"], strict=True):
        custom = {name.removeprefix(FIELD): value for name, value in row.items() if name.startswith(FIELD)}
        assert json.loads(fields) == {name: value for name, value in custom.items() if value is not None}
