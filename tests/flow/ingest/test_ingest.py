"""Promises P01, P02, P03, P05 and the CONTACTS generation, over a real database and lake."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from mailmill.cli import suppression_files
from mailmill.cli.suppressions import suppress as add_suppression
from mailmill.errors import Misconfigured
from mailmill.io.postgres import ingest
from mailmill.io.postgres.suppressions import suppress
from mailmill.io.sources.files import CsvFiles
from mailmill.io.sources.manual import Typed
from mailmill.pipelines.ingest import stage, validation
from mailmill.pipelines.ingest.contacts import winner

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def test_P01_a_bad_row_never_stops_a_batch_and_says_where_and_why(mill):
    source = mill.source()
    done = mill.read(source, "email,name\na@x.org,Ann\nbroken@@x.org,Bob\nb@x.org\nc@x.org,Cem\n")
    assert (done.validated.read, done.validated.accepted, done.validated.rejected) == (4, 2, 2)
    assert [(row["source"], row["line"], row["field"], row["reason"], row["raw"]) for row in mill.rejected()] == [
        ("list", 3, "email", "local_part_syntax", "broken@@x.org,Bob"),
        ("list", 4, None, "ragged_line", "b@x.org"),
    ]
    assert list(mill.contacts()) == ["a@x.org", "c@x.org"]
    assert mill.rows("SELECT state, rows_read, rows_accepted, rows_rejected, reject_reasons FROM batches") == [
        {"state": "loaded", "rows_read": 4, "rows_accepted": 2, "rows_rejected": 2,
         "reject_reasons": {"local_part_syntax": 1, "ragged_line": 1}},
    ]  # fmt: skip


def test_P01_fixing_the_rule_and_running_again_takes_the_row_in(mill, monkeypatch):
    source = mill.source()
    mill.read(source, "email,name\na@x.org,Ann\nb@x.org," + "z" * 50 + "\n")
    assert list(mill.contacts()) == ["a@x.org", "b@x.org"]
    monkeypatch.setattr(validation, "MAX_VALUE", 20)
    stage.validate_again(source, mill.store, rejected=True)  # nothing was rejected, so nothing is looked at again
    assert mill.rejected() == []
    other = mill.source("other")
    mill.read(other, "email,name\nc@x.org,Cem\nd@x.org," + "z" * 40 + "\n")
    assert [row["reason"] for row in mill.rejected()] == ["value_too_long"]
    monkeypatch.setattr(validation, "MAX_VALUE", 10_000)
    assert stage.validate_again(other, mill.store, rejected=True).accepted == 2
    loaded = stage.load(other, mill.store, mill.store)
    assert (loaded.counts.new, loaded.counts.changed) == (1, 0)
    assert list(mill.contacts()) == ["a@x.org", "b@x.org", "c@x.org", "d@x.org"]
    assert mill.rejected() == []


def test_P01_rows_between_two_stray_quotes_count_as_rejected_rows_and_withhold_the_batch(mill):
    source = mill.source()
    between = "".join(f"b{number}@x.org,Someone,11\n" for number in range(600))
    done = mill.read(source, f'email,name,size\na@x.org,"Bob,10\n{between}z@x.org,Zed,19"\ny@x.org,Yan,1\n')
    assert (done.validated.read, done.validated.accepted, done.validated.rejected) == (603, 1, 602)
    assert [batch.rows_rejected for batch in done.loaded.withheld] == [602]
    assert list(mill.contacts()) == []
    assert {(row["line"], row["raw"]) for row in mill.rejected()} >= {
        (2, 'a@x.org,"Bob,10'),
        (3, "b0@x.org,Someone,11"),
    }
    assert done.received.notes == (
        "list-0.csv: lines 2-603 are one quoted field; if they are rows, a quote is missing",
    )


def test_P02_the_same_content_twice_is_one_batch_under_whatever_name(mill):
    source, text = mill.source(), "email,name\na@x.org,Ann\nb@x.org,Bob\n"
    first = mill.read(source, text)
    again = mill.run(source, CsvFiles(paths=[mill.file(text, "renamed.csv")]))
    assert (len(first.received.batches), len(again.received.batches), again.received.known) == (1, 0, 1)
    assert first.loaded.counts.new == 2
    assert again.loaded.counts.batches == 0
    assert mill.rows("SELECT count(*) n FROM batches") == [{"n": 1}]


def test_P02_other_files_with_the_same_people_add_no_contact(mill):
    source = mill.source()
    mill.read(source, "email,name\na@x.org,Ann\nb@x.org,Bob\n")
    done = mill.read(source, "email,name\nA@X.ORG,Ann\na@x.org,Ann\nc@x.org,Cem\n")
    counts = done.loaded.counts
    assert (counts.accepted, counts.new, counts.duplicates_within, counts.duplicates_across) == (3, 1, 1, 1)
    assert list(mill.contacts()) == ["a@x.org", "b@x.org", "c@x.org"]


def test_P03_a_contact_says_which_source_won_each_field_and_when_each_saw_it(mill):
    low, high = mill.source("low", priority=1), mill.source("high", priority=9)
    mill.read(high, "email,name,tags,found_at\na@x.org,Ann High,vip,2026-01-01\n")
    mill.read(low, "email,name,city,tags,found_at\na@x.org,Ann Low,Rome,new,2026-06-01\n")
    contact = mill.contacts()["a@x.org"]
    assert (contact["name"], contact["fields"], contact["tags"]) == ("Ann High", {"city": "Rome"}, ["new", "vip"])
    assert winner(contact["provenance"], "name")[2] == high.id
    assert winner(contact["provenance"], "fields.city")[2] == low.id
    seen = mill.rows("SELECT source_id, first_seen, last_seen, first_batch_id FROM contact_sources ORDER BY source_id")
    assert [(row["source_id"], row["first_seen"].month) for row in seen] == [(low.id, 6), (high.id, 1)]


def test_P03_the_order_of_imports_does_not_matter(mill):
    files = [
        "email,name,phone,found_at,tags\na@x.org,One,,2026-01-01,t1\nb@x.org,B,+49301234567,2026-02-01,\n",
        "email,name,phone,found_at,tags\nA@x.org,Two,+49301111111,2026-03-01,t2\n",
        "email,name,phone,found_at,city\na@X.org,,,2026-02-01,Oslo\nb@x.org,Bea,,2025-01-01,Bonn\n",
    ]
    results = []
    for tenant, order in (("one", (0, 1, 2)), ("two", (2, 1, 0)), ("three", (1, 2, 0))):
        source = mill.source(tenant=tenant)
        for index in order:
            mill.run(source, CsvFiles(paths=[mill.file(files[index], f"{tenant}-{index}.csv")]))
        results.append(
            mill.rows(
                "SELECT match_key, email, name, phone, tags, fields, (SELECT min(first_seen) FROM contact_sources WHERE"
                " contact_id = c.id) FROM contacts c WHERE tenant_id = %s ORDER BY match_key",
                source.tenant_id,
            )
        )
    assert results[0] == results[1] == results[2]
    assert results[0][0]["name"] == "Two" and results[0][0]["fields"] == {"city": "Oslo"}


def test_P04_a_source_that_lost_its_column_is_refused_before_anything_is_kept(mill):
    source = mill.source(columns={"email": "Contact"})
    done = mill.read(source, "contact,name\na@x.org,Ann\n", "Mailbox,name\nb@x.org,Bob\n")
    assert [refusal.origin for refusal in done.received.refused] == ["list-1.csv"]
    assert "'Contact'" in done.received.refused[0].message
    assert list(mill.contacts()) == ["a@x.org"]
    assert mill.rows("SELECT count(*) n FROM batches") == [{"n": 1}]


def test_P04_columns_that_come_and_go_are_reported(mill):
    source = mill.source()
    mill.read(source, "email,city\na@x.org,Rome\n")
    done = mill.read(source, "email,town\nb@x.org,Oslo\n")
    assert done.received.notes == (
        "list-0.csv: the columns are not those of the last time; gone: city; new: town",
    )  # fmt: skip


def test_P05_a_person_is_one_contact_with_address_phone_or_both(mill):
    source = mill.source()
    mill.read(
        source,
        "email,phone,country\nAnn@BÜCHER.example,030 1234567,DE\nann@xn--bcher-kva.example,,\n,+49 30 7654321,\n"
        "ann+news@bücher.example,,\n",
    )
    contacts = mill.contacts()
    assert list(contacts) == ["+49307654321", "ann+news@xn--bcher-kva.example", "ann@xn--bcher-kva.example"]
    both = contacts["ann@xn--bcher-kva.example"]
    assert (both["email"], both["phone"]) == ("ann@xn--bcher-kva.example", "+49301234567")
    assert contacts["+49307654321"]["email"] is None


def test_F38_the_variants_of_a_mailbox_are_one_contact_spelled_as_typed_and_suppressed_by_any_of_them(mill):
    source = mill.source(max_reject_share=1)
    variants = ("Ann.Lee@BÜCHER.example", " ann.lee@xn--bcher-kva.example ", "Ann <ANN.LEE@bücher.EXAMPLE>")
    others = ("annlee@bücher.example", "ann.lee+news@bücher.example", '"ann lee"@bücher.example')
    long = "x" * 65 + "@bücher.example"
    csv = "email,found_at\n" + "".join(
        '"{}",2026-01-0{}\n'.format(one.replace('"', '""'), 1 + (one == variants[0]))
        for one in (*variants, *others, long)
    )
    counts = mill.read(source, csv).loaded.counts
    assert (counts.accepted, counts.new, counts.duplicates_within) == (6, 4, 2)
    assert mill.contacts()["ann.lee@xn--bcher-kva.example"]["email"] == "Ann.Lee@xn--bcher-kva.example"
    assert [row["reason"] for row in mill.rejected()] == ["address_too_long"]
    with mill.database.transaction() as conn:
        asked = suppression_files.asked([variants[2]], "unsubscribed")
        assert add_suppression(conn, source.tenant_id, asked).added == 1
    shown = dict(mill.generation().select("match_key", "status").iter_rows())
    assert {key for key, status in shown.items() if status == "unsubscribed"} == {"ann.lee@xn--bcher-kva.example"}
    assert len(shown) == 4


def test_a_generation_shows_contacts_with_sources_status_and_engagement(mill):
    source = mill.source(tags=["news"])
    mill.read(source, 'email,name,city\na@x.org,"Ann ""A"", Lee",Rome\nb@x.org,,\n')
    with mill.database.transaction() as conn:
        suppress(conn, tenant_id=source.tenant_id, address_keys=["b@x.org"], reason="bounced")
        suppress(conn, tenant_id=source.tenant_id, address_keys=["b@x.org"], reason="unsubscribed")
        suppress(conn, tenant_id=source.tenant_id, address_keys=["a@x.org"], reason="manual", scope_campaign_id=7)
        conn.execute(
            "INSERT INTO engagement (contact_id, tenant_id, last_opened) SELECT id, tenant_id, 1790000000"
            " FROM contacts WHERE match_key = 'a@x.org'"
        )
    rows = mill.generation().to_dicts()
    assert [(row["match_key"], row["status"], row["sources"], row["tags"]) for row in rows] == [
        ("a@x.org", "active", ["list"], ["news"]),
        ("b@x.org", "unsubscribed", ["list"], ["news"]),
    ]
    assert (rows[0]["name"], json.loads(rows[0]["fields"])) == ('Ann "A", Lee', {"city": "Rome"})
    assert rows[0]["last_opened"] == datetime.fromtimestamp(1790000000, UTC) and rows[1]["last_opened"] is None
    assert rows[0]["first_seen"] == rows[0]["last_seen"]


def test_a_tenant_without_contacts_has_an_empty_generation(mill):
    assert mill.generation("empty").height == 0


def test_a_large_file_says_how_far_it_is_at_every_step(mill, monkeypatch):
    monkeypatch.setattr("mailmill.pipelines.ingest.stage.TOLD_EVERY", 100)
    monkeypatch.setattr("mailmill.pipelines.ingest.decoding.CHUNK", 1000)
    monkeypatch.setattr("mailmill.io.sources.contents.BLOCK", 1000)
    path = mill.file("email\n" + "".join(f"user{n}@x.org\n" for n in range(300)), "large.csv")
    source, told = mill.source(), []
    stage.receive(source, CsvFiles(paths=[path]), mill.store, progress=told.append)
    stage.validate(source, mill.store, progress=told.append)
    stage.load(source, mill.store, mill.store, progress=told.append)
    steps = [" ".join(line.split()[:2]) for line in dict.fromkeys(told)]
    assert steps[:2] == ["reading large.csv:", "reading large.csv:"]
    assert [step.split()[0] for step in steps[2:]] == ["received", "validating", "validated", "loading", "loaded"]


def test_a_batch_with_too_many_rejects_is_withheld_until_forced(mill):
    source = mill.source(max_reject_share=0.4)
    done = mill.read(source, "email\na@x.org\nbad\n")
    assert [batch.origin for batch in done.loaded.withheld] == ["list-0.csv"]
    assert mill.contacts() == {}
    stage.load(source, mill.store, mill.store, force=True)
    assert list(mill.contacts()) == ["a@x.org"]


def test_what_a_person_types_is_a_statement_each_time(mill):
    source, desk = mill.source(priority=0), mill.source("desk", type="manual")
    mill.run(desk, Typed(rows=[{"email": "a@x.org", "name": "Ann"}], at=datetime(2026, 1, 1, tzinfo=UTC)))
    mill.read(source, "email,name,found_at\na@x.org,Anna,2026-02-01\n")
    assert mill.contacts()["a@x.org"]["name"] == "Anna"
    mill.run(desk, Typed(rows=[{"email": "a@x.org", "name": "Ann"}], at=datetime(2026, 3, 1, tzinfo=UTC)))
    assert mill.contacts()["a@x.org"]["name"] == "Ann"


def test_a_missing_source_is_named_with_those_there_are(mill):
    mill.source("news")
    with mill.database.connect() as conn, pytest.raises(Misconfigured, match="acme/news"):
        ingest.source(conn, "acme/new")
