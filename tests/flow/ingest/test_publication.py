"""A generation of contacts: what it costs to publish, and what its readers see meanwhile."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import dagster as dg
import polars as pl
import pytest

from mailmill import definitions  # noqa: F401 - its filters silence what Dagster calls preview
from mailmill.assets import generations, lake
from mailmill.io.lake import Lake
from mailmill.io.postgres import manifest
from mailmill.io.postgres.audiences import PostgresContacts
from mailmill.io.postgres.database import Database
from mailmill.io.postgres.generation_rows import SQL as generations_sql
from mailmill.io.postgres.ingest_store import IngestStore
from mailmill.pipelines.ingest import addresses, providers, stage
from mailmill.pipelines.ingest.generations import CONTACTS_SCHEMA
from mailmill.pipelines.ingest.ports import SourceRow

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
BUCKET = 65_536
PEOPLE = """
INSERT INTO contacts (id, tenant_id, match_key, email, phone, name, provenance)
OVERRIDING SYSTEM VALUE
SELECT n * %(apart)s, %(tenant_id)s, 'p' || n || '@d' || n || '.org', 'p' || n || '@d' || n || '.org',
       '+4930' || 100000 + n, 'P' || n,
       '{"*": [0, 0, 1, 1]}' FROM generate_series(1, %(n)s) n;
"""


@pytest.fixture
def people(mill):
    """Writes n contacts, `apart` ids from each other. Out: the tenant's id."""

    def write(n: int, apart: int = BUCKET) -> int:
        tenant_id = mill.tenant()
        with mill.database.transaction() as conn:
            conn.execute(PEOPLE.strip().rstrip(";"), {"n": n, "apart": apart, "tenant_id": tenant_id})
        return tenant_id

    return write


def files(mill, tenant_id: int) -> list[str]:
    with mill.database.transaction() as conn:
        return sorted(one.file for one in manifest.listed(conn, tenant_id=tenant_id, dataset="contacts"))


def publish(mill, tenant_id: int, at: datetime = NOW):
    return stage.publish_contacts(tenant_id, mill.store, now=at)


def run(mill, statement: str) -> None:
    with mill.database.transaction() as conn:
        conn.execute(statement)


CHANGES = {
    "a value": "UPDATE contacts SET name = 'Ann' WHERE id = 131072",
    "a new contact": "INSERT INTO contacts (id, tenant_id, match_key, email, provenance) OVERRIDING SYSTEM VALUE"
    " SELECT 131073, tenant_id, 'n@x.org', 'n@x.org', '{}' FROM contacts LIMIT 1",
    "a reaction": "INSERT INTO engagement (contact_id, tenant_id, last_delivered)"
    " SELECT id, tenant_id, 5 FROM contacts WHERE id = 131072",
    "a suppression": "INSERT INTO suppressions (tenant_id, address_key, reason)"
    " SELECT tenant_id, 'p2@d2.org', 'manual' FROM contacts LIMIT 1",
    "a person's consent": "INSERT INTO consents (tenant_id, address_key, status, basis, at, recorded_by)"
    " SELECT tenant_id, 'p2@d2.org', 'granted', 'consent', now(), 'test' FROM contacts LIMIT 1",
    "what DNS says of a domain": "INSERT INTO domains (name, state, checked_at, expires_at)"
    " VALUES ('d2.org', 'not_found', now(), now()), ('elsewhere.org', 'mx', now(), now())",
}


@pytest.mark.parametrize("statement", CHANGES.values(), ids=CHANGES.keys())
def test_only_the_bucket_that_changed_is_written_again(mill, people, statement):
    tenant_id = people(4)
    first = publish(mill, tenant_id)
    assert (first.rows, first.files_written, first.files_kept) == (4, 4, 0)
    before = files(mill, tenant_id)
    run(mill, statement)
    again = publish(mill, tenant_id, NOW + timedelta(hours=1))
    assert (again.files_written, again.files_kept) == (1, 3)
    assert len(set(before) & set(files(mill, tenant_id))) == 3
    shown = PostgresContacts(database=mill.database, lake=mill.lake).generation(tenant_id)
    assert shown.as_of == NOW + timedelta(hours=1)
    assert shown.contacts.collect().height == mill.rows("SELECT count(*) AS n FROM contacts")[0]["n"]


def test_a_domain_that_is_looked_up_again_with_the_same_answer_writes_no_file(mill, people):
    tenant_id = people(2)
    run(mill, CHANGES["what DNS says of a domain"])
    publish(mill, tenant_id)
    run(mill, "UPDATE domains SET checked_at = now(), expires_at = now() + interval '1 day', tries = 0")
    assert publish(mill, tenant_id).files_written == 0
    run(mill, "UPDATE domains SET state = 'mx', changed_at = now() WHERE name = 'd2.org'")
    assert publish(mill, tenant_id).files_written == 1
    shown = mill.lake.scan(files(mill, tenant_id), CONTACTS_SCHEMA).sort("contact_id").collect()
    assert shown["verdict"].to_list() == ["valid", "valid"] and shown["score"].to_list() == [90, 100]


def test_what_changes_no_content_writes_no_file(mill, people):
    tenant_id = people(2)
    publish(mill, tenant_id)
    before = files(mill, tenant_id)
    run(mill, "UPDATE contacts SET updated_at = now()")
    assert publish(mill, tenant_id).files_written == 0
    assert files(mill, tenant_id) == before
    assert publish(mill, tenant_id).files_written == 0


def test_nobody_published_again_is_no_news_and_somebody_takes_nobodys_place(mill, people):
    """Segments follow the names of a generation's files."""
    tenant_id = mill.tenant()
    assert (publish(mill, tenant_id).files_written, publish(mill, tenant_id).files_written) == (1, 0)
    (nobody,) = files(mill, tenant_id)
    people(1)
    assert publish(mill, tenant_id).rows == 1 and nobody not in files(mill, tenant_id)


def test_what_another_list_of_providers_says_is_published_with_the_next_generation(mill, people, monkeypatch):
    """No contact changes by it: only what is derived when a file is made."""
    tenant_id = people(2)
    publish(mill, tenant_id)
    monkeypatch.setattr(providers, "mail_providers", lambda: {"d2.org": "mine"})
    monkeypatch.setattr(addresses, "word_lists", lambda: "another")
    addresses.rules_version.cache_clear()
    try:
        assert publish(mill, tenant_id).files_written == 1
        assert publish(mill, tenant_id).files_written == 0
    finally:
        addresses.rules_version.cache_clear()
    shown = mill.lake.scan(files(mill, tenant_id), CONTACTS_SCHEMA).sort("contact_id").collect()
    assert shown["provider"].to_list() == [None, "mine"]


@pytest.mark.parametrize("meanwhile", ["SELECT 1", CHANGES["what DNS says of a domain"]], ids=["nothing", "dns"])
def test_a_file_that_the_lake_has_lost_is_made_anew(mill, people, meanwhile):
    tenant_id = people(3)
    publish(mill, tenant_id)
    lost = files(mill, tenant_id)[1]
    mill.lake.path(lost).unlink()
    run(mill, meanwhile)
    again = publish(mill, tenant_id)
    assert again.rows == 3 and lost not in files(mill, tenant_id) and again.files_kept >= 1
    assert mill.lake.scan(files(mill, tenant_id), CONTACTS_SCHEMA).collect().height == 3


def test_a_bucket_whose_contacts_are_gone_leaves_no_file_and_an_expired_suppression_shows(mill, people):
    tenant_id = people(3)
    run(
        mill,
        "INSERT INTO suppressions (tenant_id, address_key, reason, expires_at)"
        " SELECT tenant_id, 'p1@d1.org', 'manual', '2026-11-20 13:00+00' FROM contacts LIMIT 1",
    )
    publish(mill, tenant_id)
    run(mill, "DELETE FROM contacts WHERE id = 131072")
    later = publish(mill, tenant_id, NOW + timedelta(hours=2))
    assert (later.rows, later.files_written, later.files_kept) == (2, 1, 1)
    assert mill.lake.scan(files(mill, tenant_id), pl.Schema({"status": pl.String()})).collect()["status"].to_list() == [
        "active", "active",
    ]  # fmt: skip


def test_a_generation_shows_what_follows_from_address_and_number(mill):
    source = mill.source(columns={})
    mill.read(source, "email,phone,time_zone\nann@x.org,+49 30 123456,\nbob@y.org,+12125550100,Asia/Tokyo\n")
    rows = mill.generation().sort("match_key").to_dicts()
    said = [(r["domain"], r["phone_code"], r["time_zone"], r["aliases"]) for r in rows]
    assert said == [
        ("x.org", "+49", "Europe/Berlin", ["ann@x.org"]),
        ("y.org", "+1", "Asia/Tokyo", ["bob@y.org"]),
    ]


def test_P05_two_publishers_at_once_leave_one_whole_generation(mill, people):
    tenant_id = people(20)
    threads = [threading.Thread(target=publish, args=(mill, tenant_id, NOW + timedelta(seconds=n))) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(files(mill, tenant_id)) == 20
    assert mill.lake.scan(files(mill, tenant_id), pl.Schema({"contact_id": pl.Int64()})).collect().height == 20


def test_P05_a_reader_during_publications_sees_one_generation_each_time(mill, people):
    """Every contact of a generation carries its number as its name; the old files are swept under the reader."""
    tenant_id = people(6)
    run(mill, "UPDATE contacts SET name = '0'")
    publish(mill, tenant_id)
    store, seen, stop = PostgresContacts(database=mill.database, lake=mill.lake), [], threading.Event()

    def read() -> None:
        while not stop.is_set():
            generation = store.generation(tenant_id)
            seen.append(generation.contacts.select("name").collect()["name"].to_list())

    reader = threading.Thread(target=read)
    reader.start()
    for n in range(1, 12):
        run(mill, f"UPDATE contacts SET name = '{n}'")
        publish(mill, tenant_id, NOW + timedelta(minutes=n))
        with mill.database.transaction() as conn:
            mill.lake.sweep(manifest.all_files(conn))
    stop.set()
    reader.join(120)
    assert seen and all(len(names) == 6 and len(set(names)) == 1 for names in seen)
    assert [int(names[0]) for names in seen] == sorted(int(names[0]) for names in seen)


def test_a_sweep_leaves_the_old_generation_its_grace_and_then_takes_it(mill, people):
    tenant_id = people(2)
    publish(mill, tenant_id)
    old = files(mill, tenant_id)
    store = PostgresContacts(database=mill.database, lake=mill.lake)
    reader = store.generation(tenant_id)
    run(mill, "UPDATE contacts SET name = 'new'")
    publish(mill, tenant_id)
    listed = set(files(mill, tenant_id))
    (mill.lake.root / str(tenant_id) / "contacts" / ".killed.parquet.tmp").write_bytes(b"torn")
    swept = mill.lake.sweep(listed)
    assert (swept.files, swept.waiting, swept.listed) == (0, 3, 2)
    assert reader.contacts.collect()["name"].to_list() == ["P1", "P2"]
    swept = mill.lake.sweep(listed, older_than_s=0)
    assert (swept.files, swept.waiting) == (3, 0) and swept.bytes > 4
    assert not any(mill.lake.path(file).exists() for file in old)
    assert store.generation(tenant_id).contacts.collect()["name"].to_list() == ["new", "new"]


def test_a_file_that_is_listed_after_it_was_seen_has_its_whole_grace_again(mill, people):
    tenant_id = people(1)
    publish(mill, tenant_id)
    name = set(files(mill, tenant_id))
    assert mill.lake.sweep(set()).waiting == 1
    assert mill.lake.sweep(name).waiting == 0
    (mill.lake.root / ".unlisted.json").write_text("torn {")
    assert mill.lake.sweep(set(), older_than_s=0.5).waiting == 1


@dataclass
class Housekeeping:
    """The part of an installation that the two assets look at."""

    database: Database
    lake: Lake
    ingest: IngestStore
    pins: set[str]

    def pinned(self, now: datetime) -> set[str]:
        return self.pins


def test_the_assets_say_what_was_written_kept_and_swept(mill, people):
    tenant_id = people(3)
    publish(mill, tenant_id)
    old = files(mill, tenant_id)
    run(mill, "UPDATE contacts SET name = 'new' WHERE id = 131072")
    house = Housekeeping(mill.database, mill.lake, mill.store, set())
    done = dg.materialize([generations.contact_generations, lake.swept_lake], resources={"mill": house})
    said = {event.asset_key.to_user_string(): event.metadata for event in done.get_asset_materialization_events()
            for event in [event.materialization]}  # fmt: skip
    assert said["contact_generations"]["dagster/row_count"].value == 3
    row = said["contact_generations"]["tenants"].records[0].data
    assert (row["tenant"], row["files_written"], row["files_kept"]) == ("acme", 1, 2)
    swept = {name: value.value for name, value in said["swept_lake"].items()}
    assert (swept["removed_files"], swept["waiting_files"], swept["listed_files"]) == (0, 1, 3)
    house.pins = set(old)  # what an analyst has open is not even waiting
    done = dg.materialize([lake.swept_lake], resources={"mill": house})
    (event,) = done.get_asset_materialization_events()
    assert event.materialization.metadata["listed_files"].value == 4


def test_contacts_of_one_tenant_that_cannot_be_published_hold_up_nobody_elses(mill, people):
    publish(mill, people(1))
    mill.read(mill.source(tenant="zeta"), "email\nann@x.org\n")
    publish(mill, mill.tenant("zeta"))
    run(mill, "UPDATE contacts SET name = 'new'")
    store = IngestStore(database=mill.database, lake=mill.lake, patience_s=0.2)
    house = Housekeeping(mill.database, mill.lake, store, set())
    with mill.database.connect(autocommit=True) as other:
        other.execute(generations_sql["lock"], {"tenant_id": mill.tenant()})
        done = dg.materialize([generations.contact_generations], resources={"mill": house}, raise_on_error=False)
    assert not done.success
    (event,) = done.get_step_failure_events()
    assert event.step_failure_data.user_failure_data.description == (
        "acme: another publication of these contacts is still running"
    )
    names = {
        tenant: mill.lake.scan(files(mill, mill.tenant(tenant)), CONTACTS_SCHEMA).collect()["name"].to_list()
        for tenant in ("acme", "zeta")
    }
    assert names == {"acme": ["P1"], "zeta": ["new"]}


@dataclass
class Checked(Housekeeping):
    """With the sources, as the asset check asks for them."""

    row: SourceRow

    def source(self, name: str) -> SourceRow:
        return self.row


def test_the_check_finds_a_contact_that_stands_twice_and_fails_no_import_because_somebody_was_forgotten(
    mill, monkeypatch
):
    source = mill.source()
    mill.read(source, "email\nann@x.org\nbob@x.org\n")
    house = Checked(mill.database, mill.lake, mill.store, set(), source)
    check = generations.contacts_are_unique.node_def.compute_fn.decorated_fn

    def passed() -> bool:
        return check(SimpleNamespace(partition_key="acme|list"), house).passed

    assert not passed(), "nothing is published"
    once = mill.generation()
    assert passed()
    looked_up = PostgresContacts.generation
    before = [looked_up(PostgresContacts(database=mill.database, lake=mill.lake), source.tenant_id)]
    old = files(mill, source.tenant_id)
    run(mill, "UPDATE contacts SET name = 'new'")
    publish(mill, source.tenant_id)
    mill.lake.path(old[0]).unlink()
    with monkeypatch.context() as patched:  # its files went after it was looked up
        patched.setattr(PostgresContacts, "generation", lambda *a: before.pop() if before else looked_up(*a))
        assert passed() and not before
    twice = mill.lake.write(pl.concat([once, once]), tenant_id=source.tenant_id, dataset="contacts")
    with mill.database.transaction() as conn:
        manifest.replace(
            conn, [twice], tenant_id=source.tenant_id, dataset="contacts", facts={"as_of": NOW.isoformat()}
        )
    assert not passed()
