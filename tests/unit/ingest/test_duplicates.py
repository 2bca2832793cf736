"""Rows of one batch about one person become one row, in whatever order and however many pieces they come."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from mailmill.pipelines.ingest import duplicates
from mailmill.pipelines.ingest.duplicates import Buckets, merged
from mailmill.pipelines.ingest.validation import VALUES_SCHEMA

WORDS = st.none() | st.sampled_from(["a", "b", "c"])
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "match_key": st.sampled_from(["k1", "k2", "k3", "k4"]), "email": WORDS, "name": WORDS, "country": WORDS,
            "verdict": st.sampled_from(["valid", "risky"]), "verdict_reason": WORDS, "fields.city": WORDS,
            "tags": st.lists(st.sampled_from(["t1", "t2", "t3"]), max_size=2, unique=True).map(sorted),
            "seen_at": st.integers(1, 3).map(lambda day: datetime(2026, 1, day, tzinfo=UTC)),
        }
    ),
    max_size=12,
)  # fmt: skip


def a_frame(rows: list[dict]) -> pl.DataFrame:
    schema = {**VALUES_SCHEMA, "fields.city": pl.String()}
    return pl.DataFrame([{"line": line, **row} for line, row in enumerate(rows, 2)], schema=schema)


def by_hand(rows: list[dict]) -> dict[str, dict]:
    people: dict[str, dict] = {}
    for row in sorted(
        ({"line": line, **row} for line, row in enumerate(rows, 2)), key=lambda r: (r["seen_at"], r["line"])
    ):
        one = people.setdefault(row["match_key"], {"copies": 0, "first_seen": row["seen_at"], "tags": []})
        one |= {name: value for name, value in row.items() if value is not None and name != "tags"}
        one |= {"copies": one["copies"] + 1, "last_seen": row["seen_at"], "verdict_reason": row["verdict_reason"],
                "tags": sorted({*one["tags"], *row["tags"]})}  # fmt: skip
    return people


def people(frame: pl.DataFrame) -> dict[str, dict]:
    rows = {row["match_key"]: row for row in frame.to_dicts()}
    assert len(rows) == frame.height
    return {key: {n: v for n, v in row.items() if v is not None or n == "verdict_reason"} for key, row in rows.items()}


@settings(max_examples=200, deadline=None)
@given(ROWS, st.randoms(use_true_random=False))
def test_P02_of_each_field_the_latest_value_wins_and_tags_are_united_in_any_order(rows, random):
    frame = a_frame(rows)
    expected = by_hand(rows)
    assert people(merged(frame)) == expected
    order = list(range(frame.height))
    random.shuffle(order)
    assert people(merged(frame[order])) == expected


@settings(max_examples=50, deadline=None)
@given(ROWS)
def test_P02_merging_what_is_merged_changes_nothing(rows):
    once = merged(a_frame(rows))
    again = merged(once.select(*VALUES_SCHEMA.names(), "fields.city"))
    values = [*VALUES_SCHEMA.names(), "fields.city"]
    assert again.select(values).sort("match_key").equals(once.select(values).sort("match_key"))


class MemorySpool:
    def __init__(self) -> None:
        self.frames: dict[int, list[pl.DataFrame]] = {}

    def put(self, bucket: int, frame: pl.DataFrame) -> None:
        self.frames.setdefault(bucket, []).append(frame)

    def take(self, bucket: int) -> Iterator[pl.DataFrame]:
        yield from self.frames.pop(bucket, [])


def test_P02_a_large_batch_is_merged_bucket_by_bucket_and_no_person_is_in_two(monkeypatch):
    monkeypatch.setattr(duplicates, "BUCKET_ROWS", 100)
    rows = [
        {"match_key": f"k{n % 300}", "verdict": "valid", "tags": [], "seen_at": datetime(2026, 1, 1, tzinfo=UTC),
         **({"fields.city": "Rome"} if n < 300 else {})}
        for n in range(1000)
    ]  # fmt: skip
    spool = MemorySpool()
    buckets = Buckets(spool, rows=1000)
    for start in range(0, 1000, 130):
        piece = a_frame(rows).slice(start, 130)
        buckets.add(piece if start < 300 else piece.drop("fields.city"))
    pieces = list(buckets.merged())
    assert len(pieces) > 5 and spool.frames == {}
    whole = pl.concat(pieces, how="diagonal")
    assert (whole.height, whole["match_key"].n_unique(), whole["copies"].sum()) == (300, 300, 1000)
    assert whole["fields.city"].to_list() == ["Rome"] * 300
