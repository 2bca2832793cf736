"""P03: who saw whom when stays true however batches come, dense or sparse, and whoever is forgotten between them."""

from __future__ import annotations

from typing import Any

import polars as pl
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailmill.io.postgres import sightings
from mailmill.io.postgres.database import Database
from mailmill.pipelines.ingest.sightings import SIGHTINGS_SCHEMA, can_hold

TENANT, OTHER = 1, 2
SOURCES = {1: TENANT, 2: TENANT, 3: OTHER}  # ids of the two tenants' contacts lie in the same blocks
IDS = range(60, 330)
SOME = st.lists(st.sampled_from(IDS), min_size=1, max_size=6, unique=True)
RANGE = st.tuples(st.sampled_from(IDS), st.integers(1, 130)).map(lambda span: [*range(span[0], sum(span))])
SPREAD = st.tuples(st.integers(60, 90), st.integers(5, 64)).map(lambda span: [*range(span[0], 330, span[1])])
WRITE = st.tuples(st.just("write"), st.sampled_from(sorted(SOURCES)), SOME | RANGE | SPREAD, st.booleans())
FORGET = st.tuples(st.just("forget"), st.just(1), SOME | RANGE, st.booleans())
STEPS = st.lists(WRITE | WRITE | WRITE | FORGET, min_size=1, max_size=8)
Model = dict[tuple[int, int], tuple[int, ...]]


def said(ids: list[int], source: int, number: int, alike: bool) -> Model:
    """Of a batch; `alike`: all that it says is the same for everybody, which is kept as one element."""
    return {
        (id, source): tuple(number * 1000 + part * 100 + (0 if alike else id % 7) for part in range(7)) for id in ids
    }


def frame(model: Model) -> pl.DataFrame:
    rows = [(*pair, *values) for pair, values in sorted(model.items())]
    return pl.DataFrame(rows, schema=SIGHTINGS_SCHEMA, orient="row")


def plain(found: pl.DataFrame) -> Model:
    rows = {(row[0], row[1]): row[2:] for row in found.iter_rows()}
    assert len(rows) == found.height, "a sighting twice"
    return rows


@pytest.fixture(scope="module")
def conn(cloned):
    with cloned() as database, database.connect() as conn:
        yield conn


def take(conn: psycopg.Connection, ids: list[int], source: int, what: Model, batch: int | None = None) -> None:
    """In: batch, when a block whose turn it is may be rewritten although it is named by few."""
    tenant = SOURCES[source]
    seen = sightings.of_contacts(conn, tenant, pl.Series(ids, dtype=pl.Int64), batch_id=batch)
    sightings.write(conn, tenant, source, seen, frame(what))


def shows(conn: psycopg.Connection, model: Model) -> None:
    """Every way to read says what the model says."""
    for source, tenant in SOURCES.items():
        mine = {pair: values for pair, values in model.items() if pair[1] == source}
        assert plain(sightings.of_source(conn, tenant, source)) == mine
    for asked in ([61, 130, 300], [*range(64, 128)], [*IDS]):
        for tenant in (TENANT, OTHER):
            found = plain(sightings.of_contacts(conn, tenant, pl.Series(asked, dtype=pl.Int64)).sightings)
            wanted = {pair: v for pair, v in model.items() if pair[0] in asked and SOURCES[pair[1]] == tenant}
            assert {pair: values for pair, values in found.items() if pair[0] in asked} == wanted
            assert found.items() <= model.items()
    rows = conn.execute(
        "SELECT contact_id, source_id, (extract(epoch FROM first_seen) * 1000000)::bigint,"
        " (extract(epoch FROM last_seen) * 1000000)::bigint, first_batch_id, last_batch_id, block FROM contact_sources"
    ).fetchall()
    assert {row[:2]: row[2:6] for row in rows} == {pair: values[:4] for pair, values in model.items()}
    assert len(rows) == len(model) and all(row[6] == row[0] >> sightings.SHIFT for row in rows)
    lone = conn.execute("SELECT contact_id, source_id FROM lone_sightings").fetchall()
    assert set(lone) <= model.keys()


@given(steps=STEPS)
@settings(max_examples=25)
def test_P03_sparse_and_dense_batches_in_any_order_leave_what_was_said_last(conn, steps):
    conn.rollback()
    model: Model = {}
    for number, (step, source, ids, alike) in enumerate(steps, 1):
        if step == "write":
            what = said(ids, source, number, alike)
            take(conn, ids, source, what, number)
            model |= what
        elif alike:
            sightings.remove(conn, SOURCES[source], pl.Series(ids))
            model = {pair: v for pair, v in model.items() if pair[0] not in ids or SOURCES[pair[1]] != TENANT}
        else:  # what was seen of them is made anew: one source's word instead of all
            what = said(ids[: len(ids) // 2], 2, number, False)
            sightings.replace(conn, TENANT, pl.Series(ids), frame(what))
            kept = {pair: v for pair, v in model.items() if pair[0] not in ids or SOURCES[pair[1]] != TENANT}
            model = kept | what
        shows(conn, model)


def test_few_contacts_of_many_blocks_are_made_anew_some_blocks_at_a_time(database: Database, monkeypatch):
    monkeypatch.setattr(sightings, "BLOCKS_AT_ONCE", 2)
    wanted = [70, 140, 200, 260, 320]  # a contact each of five blocks
    with database.connect() as conn:
        model = said([*range(64, 330)], 1, 1, True) | said([*range(64, 330)], 2, 2, False)
        take(conn, [*range(64, 330)], 1, {pair: v for pair, v in model.items() if pair[1] == 1})
        take(conn, [*range(64, 330)], 2, {pair: v for pair, v in model.items() if pair[1] == 2})
        known, real = [], sightings._known

        def counted(*args: Any) -> pl.DataFrame:
            known.append(real(*args))
            return known[-1]

        monkeypatch.setattr(sightings, "_known", counted)
        what = said(wanted[:3], 2, 3, True)
        sightings.replace(conn, TENANT, pl.Series(wanted[::-1]), frame(what))
        assert max(part.height for part in known) <= 2 * 64 * 2
        monkeypatch.undo()
        shows(conn, {pair: values for pair, values in model.items() if pair[0] not in wanted} | what)


@pytest.mark.parametrize(
    ("batch", "earliest", "latest", "holds"),
    [
        (4, 10, 20, True),
        (3, 10, 20, True),
        (2, 10, 20, True),  # a row between the two times
        (9, 0, 10, True),
        (2, 0, 10, False),  # at the first time, and before its batch
        (5, 20, 30, True),
        (9, 20, 30, False),  # at the last time, and after its batch
        (4, 0, 9, False),
        (4, 21, 30, False),
    ],
)
def test_P03_a_batch_has_a_part_in_a_sighting_by_its_times_and_where_they_are_equal_by_its_number(
    batch: int, earliest: int, latest: int, holds: bool
):
    seen = pl.DataFrame({"first_seen": [10], "last_seen": [20], "first_batch": [3], "last_batch": [5]})
    assert seen.select(can_hold(batch, earliest, latest)).item() is holds
    once = seen.with_columns(last_seen=10, last_batch=3)
    assert once.select(can_hold(batch, earliest, latest)).item() is (batch == 3 and earliest <= 10 <= latest)


def alone(conn: psycopg.Connection) -> list[int]:
    return [id for (id,) in conn.execute("SELECT contact_id FROM lone_sightings ORDER BY 1")]


def test_a_batch_of_few_contacts_rewrites_no_block_until_its_turn_comes(database: Database):
    with database.connect() as conn:
        model = said([*range(64, 192)], 1, 1, True)
        take(conn, [*range(64, 192)], 1, model)
        blocks = "SELECT xmin::text, ctid::text FROM sightings ORDER BY block"
        before, collected, rewritten = conn.execute(blocks).fetchall(), 0, 0
        for number in range(2, 2 + sightings.LONE):  # so many batches of two: two turns are to be expected
            ids = [64 + number % 63, 65 + number % 63]
            what = said(ids, 1, number, True)
            take(conn, ids, 1, what, number)
            model |= what
            after = conn.execute(blocks).fetchall()
            if after == before:
                collected += 1
                assert set(ids) <= set(alone(conn))
            else:
                assert (alone(conn), after[1]) == ([], before[1])  # this block took them in; its neighbour stays
                before, rewritten = after, rewritten + 1
                shows(conn, model)
        assert rewritten and collected > sightings.LONE / 2


def test_a_contact_another_source_names_is_in_its_block_at_once(database: Database):
    with database.connect() as conn:
        take(conn, [70, 71], 1, said([70, 71], 1, 1, True))
        take(conn, [70], 1, said([70], 1, 2, True))
        take(conn, [70], 2, said([70], 2, 3, True))
        assert alone(conn) == [70]
        assert conn.execute("SELECT source_id, ids FROM sightings ORDER BY 1").fetchall() == [(1, [70, 71]), (2, [70])]
        sightings.remove(conn, TENANT, pl.Series([70]))
        assert alone(conn) == []
        assert conn.execute("SELECT source_id, ids FROM sightings ORDER BY 1").fetchall() == [(1, [71])]


def test_the_statistics_role_sees_its_own_tenants_lone_sightings(database: Database):
    with database.connect() as conn:
        for source in (1, 3):
            take(conn, [70], source, said([70], source, 1, True))
            take(conn, [70], source, said([70], source, 2, True))
    with database.connect("stats", tenant_id=TENANT) as conn:
        assert conn.execute("SELECT source_id FROM lone_sightings").fetchall() == [(1,)]
        assert conn.execute("SELECT source_id, last_batch_id FROM contact_sources").fetchall() == [(1, 2300)]
