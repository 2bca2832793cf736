"""Merging: P03 whoever comes first, the same contact comes out; P02 and as often as it comes."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from mailmill.pipelines.ingest.contacts import (
    CLAIMS_SCHEMA,
    Origin,
    assembled,
    claims,
    contact_rows,
    fresh,
    merge,
    winner,
)
from mailmill.pipelines.ingest.validation import ACCEPTED_SCHEMA

CLAIM = st.tuples(
    st.sampled_from(["a@x.org", "b@x.org"]),
    st.sampled_from(["name", "email", "fields.city", "tags.vip"]),
    st.sampled_from(["", "x", "y", "z"]),
    st.integers(-2, 2), st.integers(0, 3), st.integers(1, 2), st.integers(1, 3),
)  # fmt: skip
CLAIMS = st.lists(CLAIM, max_size=12).map(lambda rows: pl.DataFrame(rows, schema=CLAIMS_SCHEMA, orient="row"))


@settings(deadline=None)
@given(CLAIMS, CLAIMS, CLAIMS)
def test_merging_does_not_depend_on_order_or_repetition(one, two, three):
    left = merge(merge(one, two), three)
    assert left.equals(merge(merge(three, one), two))
    assert left.equals(merge(one, merge(two, three)))
    assert left.equals(merge(left, left))
    assert left.equals(merge(left, two))


@settings(deadline=None)
@given(CLAIMS)
def test_the_greatest_claim_wins(one):
    winners = merge(one, one.clear())
    for row in winners.iter_rows(named=True):
        rivals = one.filter((pl.col("match_key") == row["match_key"]) & (pl.col("field") == row["field"]))
        ranks = rivals.select("priority", "seen_us", "source_id", "batch_id", "value").rows()
        assert (row["priority"], row["seen_us"], row["source_id"], row["batch_id"], row["value"]) == max(ranks)


SEEN = datetime(2026, 11, 20, tzinfo=UTC)
ROW = st.fixed_dictionaries(
    {
        "match_key": st.sampled_from(["a@x.org", "b@x.org", "c@x.org"]),
        "name": st.sampled_from([None, "Ann", 'Q "u", {o}:null,', "é\\"]),
        "fields.city": st.sampled_from([None, "Rome", '"x":null']),
        "fields.b2": st.sampled_from([None, "\\"]),
        "tags": st.lists(st.sampled_from(["t", "vip"]), max_size=2, unique=True).map(sorted),
        "ago": st.integers(0, 2),
    }
)
ORIGIN = Origin(priority=3, source_id=4, batch_id=5)


def accepted(rows) -> pl.DataFrame:
    schema = {**ACCEPTED_SCHEMA, "fields.b2": pl.String(), "fields.city": pl.String()}
    full = [
        {
            "line": line,
            "email": row["match_key"],
            "verdict": "valid",
            "seen_at": SEEN - timedelta(days=row["ago"]),
            **row,
        }
        for line, row in enumerate(rows, 2)
    ]
    return pl.DataFrame([{name: row.get(name) for name in schema} for row in full], schema=schema)


@settings(deadline=None)
@given(st.lists(ROW, max_size=8))
def test_the_fast_way_and_the_merging_way_write_the_same(rows):
    frame = accepted(rows)
    once = frame.unique("match_key", keep="first", maintain_order=True)
    assert fresh(once, ORIGIN).sort("match_key").equals(assembled(claims(once, ORIGIN)))
    both = contact_rows(frame, ORIGIN).sort("match_key")
    assert both.equals(assembled(claims(frame, ORIGIN)))
    for text in (*both["fields"], *both["provenance"]):
        json.loads(text)


def test_within_a_batch_the_later_sighting_wins_then_the_later_line():
    rows = [
        {"match_key": "a@x.org", "name": "old", "tags": ["t"], "ago": 2},
        {"match_key": "a@x.org", "name": "new", "tags": [], "ago": 0},
        {"match_key": "a@x.org", "name": "newer", "tags": ["vip"], "ago": 0, "fields.city": "Rome"},
        {"match_key": "a@x.org", "name": None, "tags": [], "ago": 0},
    ]
    row = contact_rows(accepted(rows), ORIGIN).row(0, named=True)
    assert (row["name"], row["tags"], row["fields"]) == ("newer", '{"t","vip"}', '{"city":"Rome"}')
    assert winner(json.loads(row["provenance"]), "fields.city") == [3, int(SEEN.timestamp() * 1e6), 4, 5]
