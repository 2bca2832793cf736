"""P03 and P02: whoever comes first and as often as they come, the contacts are what all claims together say."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from mailmill.pipelines.ingest.contacts import VALUE_FIELDS, Origin, said, winner
from mailmill.pipelines.ingest.duplicates import merged
from mailmill.pipelines.ingest.history import History
from mailmill.pipelines.ingest.sightings import lifted
from mailmill.pipelines.ingest.validation import VALUES_SCHEMA

START = datetime(2026, 11, 20, tzinfo=UTC)
IDS = {"a@x.org": 300, "b@x.org": 7}
ROW = st.fixed_dictionaries(
    {
        "match_key": st.sampled_from(sorted(IDS)),
        "name": st.sampled_from([None, "Ann", 'Q "u", {o}:null,', "é\\"]),
        "country": st.sampled_from([None, "DE"]),
        "verdict": st.sampled_from(["valid", "risky"]),
        "fields.city": st.sampled_from([None, "Rome", '"name":[9,9,9,9]']),
        "fields.b2": st.sampled_from([None, "\\"]),
        "tags": st.lists(st.sampled_from(["t", "vip", "köln"]), max_size=2, unique=True).map(sorted),
        "day": st.sampled_from([-40_000, -39_999, 0, 1, 2]),  # some long before 1970: a file may be dated so
    }
)
# (source, priority, rows): sources 1 and 2 are equals, 3 comes first and once said so with less weight
BATCH = st.tuples(st.sampled_from([(1, 0), (1, 0), (2, 0), (3, 1), (3, 0)]), st.lists(ROW, min_size=1, max_size=3))
BATCHES = st.lists(BATCH, min_size=1, max_size=6)


def accepted(rows) -> pl.DataFrame:
    schema = {**VALUES_SCHEMA, "fields.b2": pl.String(), "fields.city": pl.String()}
    full = [
        {"line": line, "email": row["match_key"], "verdict_reason": {"risky": "role"}.get(row["verdict"]),
         "seen_at": START + timedelta(days=row["day"]), **row}
        for line, row in enumerate(rows, 2)
    ]  # fmt: skip
    return pl.DataFrame([{name: row.get(name) for name in schema} for row in full], schema=schema)


def statements(batches) -> list[tuple[pl.DataFrame, Origin]]:
    made = []
    for batch_id, ((source_id, priority), rows) in enumerate(batches, 1):
        origin = Origin(priority=priority, source_id=source_id, batch_id=batch_id)
        rows = said(merged(accepted(rows)), origin)
        ids = pl.col("match_key").replace_strict(IDS, return_dtype=pl.Int64)
        made.append((rows.with_columns(id=ids), origin))
    return made


def claims(rows: pl.DataFrame, origin: Origin):
    for row in rows.iter_rows(named=True):
        rank = (origin.priority, row["seen_us"], origin.source_id, origin.batch_id)
        verdict = " ".join(filter(None, [row["verdict"], row["verdict_reason"]]))
        values = {field: row[field] for field in VALUE_FIELDS} | {"verdict": verdict}
        values |= {f"fields.{name}": value for name, value in json.loads(row["fields"]).items()}
        values |= {f"tags.{tag}": "" for tag in row["tags"]}
        yield from ((row["id"], field, rank, value) for field, value in values.items() if value is not None)


def the_greatest(told) -> dict:
    """The oracle: of all claims ever made about a field, the greatest."""
    best: dict = {}
    for contact, field, rank, value in (claim for one in told for claim in claims(*one)):
        best[contact, field] = max(best.get((contact, field), ((-99999,), "")), (rank, value))
    return best


def as_it_counts(history: History) -> dict:
    """(contact, field) -> (rank, value), ranks lifted to when their source last said the same."""
    found = {}
    for row in history.contacts.iter_rows(named=True):
        provenance = json.loads(row["provenance"])
        verdict = " ".join(filter(None, [row["verdict"], row["verdict_reason"]]))
        values = {field: row[field] for field in VALUE_FIELDS} | {"verdict": verdict}
        values |= {f"fields.{name}": value for name, value in json.loads(row["fields"]).items()}
        values |= {f"tags.{tag}": "" for tag in row["tags"]}
        for field, value in values.items():
            if value is not None:
                found[row["id"], field] = (tuple(winner(provenance, field)), value)
    ranks = pl.DataFrame(
        [(contact, *rank) for (contact, _), (rank, _) in found.items()],
        schema={name: pl.Int64() for name in ("id", "priority", "seen", "source", "batch")}, orient="row",
    )  # fmt: skip
    counted = lifted(ranks, history.sightings).select("priority", "seen", "source", "batch").rows()
    return {key: (rank, value) for (key, (_, value)), rank in zip(found.items(), counted, strict=True)}


def seen(history: History) -> list:
    return history.sightings.select("id", "source_id", "first_seen", "first_batch", "last_seen", "last_batch").rows()


def told(statements) -> History:
    history = History.empty()
    for rows, origin in statements:
        history = history.told(rows, origin)
    return history


@settings(max_examples=30, deadline=None)
@given(BATCHES, st.randoms(use_true_random=False))
def test_P03_in_any_order_and_however_often_the_greatest_claim_about_each_field_wins(batches, chance: random.Random):
    all_of_them = statements(batches)
    shuffled = [*all_of_them, *chance.choices(all_of_them, k=2)]
    chance.shuffle(shuffled)
    one, other = told(all_of_them), told(shuffled)
    assert as_it_counts(one) == the_greatest(all_of_them)
    assert as_it_counts(other) == the_greatest(all_of_them)
    assert seen(one) == seen(other)
    earliest: dict = {}
    for contact, first_us in pl.concat([rows for rows, _ in all_of_them]).select("id", "first_us").iter_rows():
        earliest[contact] = min(earliest.get(contact, first_us), first_us)
    assert {contact: min(row[2] for row in seen(one) if row[0] == contact) for contact in earliest} == earliest
