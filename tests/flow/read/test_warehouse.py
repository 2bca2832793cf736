"""Publishing DuckDB files, over a real PostgreSQL and a real lake."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

from mailmill.errors import Misconfigured, StoreUnavailable
from mailmill.io.lake import Lake
from mailmill.io.postgres.database import Database
from mailmill.io.warehouse import Warehouse


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    with duckdb.connect(str(path), read_only=True) as store:
        yield store


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """In a folder whose name has everything that quoting and patterns trip over."""
    return Lake(root=tmp_path / "it's a [lake] *" / 'la"ke?')


@pytest.fixture
def warehouse(tmp_path: Path, lake: Lake) -> Warehouse:
    return Warehouse(folder=tmp_path / "ware's house", lake=lake)


def test_a_file_holds_what_postgresql_and_the_lake_hold(
    history, fill_lake, warehouse, database: Database, at_now
) -> None:
    acme = history("acme", contacts=100, campaigns=2, hours=30, time_zone="Europe/Berlin")
    fill_lake(acme)
    published = {one.name: one for one in warehouse.publish(database, now=at_now)}
    assert set(published) == {"acme", "_operator"}
    assert published["acme"].rows["messages"] == 200
    with opened(warehouse.path("acme")) as store, database.transaction() as conn:
        counted = conn.execute(
            "SELECT state::text, outcome, count(*) FROM messages GROUP BY 1, 2 ORDER BY 1, 2"
        ).fetchall()
        assert (
            store.execute("SELECT state, outcome, count(*) FROM messages GROUP BY 1, 2 ORDER BY 1, 2").fetchall()
            == counted
        )
        opened_at = conn.execute(
            "SELECT count(*), max(to_timestamp(at_opened)) FROM messages WHERE at_opened > 0"
        ).fetchone()
        assert (
            store.execute("SELECT count(*), max(opened_at) FROM messages WHERE opened_at IS NOT NULL").fetchone()
            == opened_at
        )
        assert store.execute("SELECT count(*), count(DISTINCT event_id), min(campaign) FROM events").fetchone() == (
            2 * (90 + 80 + 40), 2 * (90 + 80 + 40), "campaign-1")  # fmt: skip
        assert store.execute("SELECT count(*) FROM contacts WHERE list_contains(tags, 'vip')").fetchone() == (100,)
        assert store.execute("SELECT segment, count(*) FROM segment_members GROUP BY 1").fetchall() == [
            ("newsletter", 50)
        ]
        days = store.execute(
            "SELECT day::text, sum(messages) FROM daily_counters WHERE kind = 'opened' GROUP BY 1 ORDER BY 1"
        )
        assert days.fetchall() == [("2026-11-19", 2 * 2 * 16), ("2026-11-20", 2 * 2 * 14)]
        assert store.execute("SELECT tenant, sum(rows) FROM rejects GROUP BY 1").fetchall() == [("acme", 30)]
        assert store.execute("SELECT sum(events) FROM hourly_counters").fetchone() == (2 * 30 * 7 * 3,)


def test_an_empty_tenant_has_every_table_and_view(database: Database, warehouse, at_now) -> None:
    with database.transaction() as conn:
        conn.execute("INSERT INTO tenants (slug, name, postal_address, spec) VALUES ('new', 'New', 'x', '{}')")
    warehouse.publish(database, now=at_now)
    with opened(warehouse.path("new")) as store:
        names = [name for (name,) in store.execute("SELECT table_name FROM information_schema.tables").fetchall()]
        assert {"contacts", "segment_members", "campaigns", "messages", "events", "daily_counters"} <= set(names)
        for name in names:
            store.execute(f"SELECT * FROM {name}").fetchall()


def test_P22_a_tenants_file_holds_its_tenant_only(history, fill_lake, warehouse, database: Database, at_now) -> None:
    for slug in ("acme", "other"):
        fill_lake(history(slug, contacts=20))
    warehouse.publish(database, now=at_now)
    for name, tenants in (("acme", {"acme"}), ("other", {"other"}), (None, {"acme", "other"})):
        with opened(warehouse.path(name)) as store:
            tables = store.execute("SELECT table_name FROM duckdb_columns() WHERE column_name = 'tenant'").fetchall()
            assert len(tables) >= 15
            for (table,) in tables:
                found = {row[0] for row in store.execute(f"SELECT DISTINCT tenant FROM {table}").fetchall()}
                assert found <= tenants, (name, table)
                assert found == tenants or table == "domain_counters"
    text = warehouse.path("acme").read_bytes()
    assert b"acme" in text and b"other" not in text


def test_the_export_has_no_address_and_is_rewritten_only_where_a_campaign_changed(
    history, fill_lake, warehouse, lake: Lake, database: Database, at_now
) -> None:
    acme = history("acme", contacts=30, campaigns=3)
    fill_lake(acme)

    def exports() -> dict[str, str]:
        warehouse.publish(database, now=at_now)
        with database.transaction() as conn:
            return dict(conn.execute("SELECT part, file FROM manifest WHERE dataset = 'messages'").fetchall())

    first = exports()
    assert set(first) == {"campaign-1", "campaign-2", "campaign-3"}
    for file in first.values():
        content = pl.read_parquet(lake.path(file), glob=False).write_csv()
        assert "example.org" in content and "@" not in content
    assert exports() == first
    with database.transaction() as conn:
        conn.execute("UPDATE counters SET uniq = uniq + 1 WHERE campaign_id = (SELECT min(id) FROM campaigns)")
        conn.execute("UPDATE campaigns SET state = 'running' WHERE slug = 'campaign-2'")
    second = exports()
    assert {part for part in first if first[part] != second[part]} == {"campaign-1", "campaign-2"}
    assert exports() == second
    with database.transaction() as conn:  # of a running campaign every change of the ledger counts
        conn.execute(
            "UPDATE messages SET attempt = attempt + 1 WHERE campaign_id = (SELECT min(id) + 1 FROM campaigns)"
        )
    third = exports()
    assert {part for part in first if third[part] != second[part]} == {"campaign-2"}


def test_files_under_a_publication_are_pinned_until_nobody_has_it_open(
    history, fill_lake, warehouse, lake: Lake, database: Database, at_now
) -> None:
    acme = history("acme", contacts=10)
    fill_lake(acme)
    warehouse.publish(database, now=at_now)
    old = warehouse.pinned(at_now)
    with database.transaction() as conn:
        assert old == {file for (file,) in conn.execute("SELECT file FROM manifest")}
        conn.execute("DELETE FROM manifest WHERE dataset IN ('contacts', 'segments')")
    fill_lake(acme)
    later = at_now + timedelta(hours=1)
    warehouse.publish(database, now=later)
    assert old < warehouse.pinned(later)
    much_later = later + timedelta(days=2)
    assert not old <= warehouse.pinned(much_later)
    assert lake.sweep(warehouse.pinned(much_later), older_than_s=-1).files == 2
    warehouse.publish(database, now=much_later)
    assert len(list((warehouse.folder / "pins").iterdir())) == 4  # one that is, one that was, for each of two files


def test_what_cannot_be_built_leaves_the_old_files(history, fill_lake, warehouse, lake, database, at_now) -> None:
    acme = history("acme", contacts=10)
    fill_lake(acme)
    warehouse.publish(database, now=at_now)
    before, pins = warehouse.path("acme").read_bytes(), warehouse.pinned(at_now)
    with database.transaction() as conn:
        (file,) = conn.execute("SELECT file FROM manifest WHERE dataset = 'contacts'").fetchone()
    lake.path(file).unlink()
    with pytest.raises(StoreUnavailable, match="cannot be built"):
        warehouse.publish(database, now=at_now + timedelta(hours=1))
    assert warehouse.path("acme").read_bytes() == before
    assert warehouse.pinned(at_now) == pins
    assert [path.name for path in warehouse.folder.iterdir() if path.name.startswith(".")] == []
    with pytest.raises(Misconfigured, match="no tenant"):
        warehouse.publish(database, now=at_now, tenant="nobody")
