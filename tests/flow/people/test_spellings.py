"""One mailbox under several spellings, by a tenant's rule: every verb that is asked by one of them knows the others."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import psycopg
import pytest
from people_world import People
from psycopg.types.json import Jsonb

from mailmill.io.postgres import consents, explain, generation_rows, ledger, suppressions
from mailmill.pipelines.ingest.generations import GRAVEST

ANN, NEWS, BOB = "ann@people.example", "ann+news@people.example", "bob@people.example"
GRANT = ("grant", "--basis", "consent", "--proof", "form", "--tenant", "acme")


@pytest.fixture
def merged(people: People) -> People:
    people.tenant("acme", people=f"email\n{ANN}\n{NEWS}\n{BOB}\n")
    people.rows("""UPDATE tenants SET spec = spec || '{"merge": {"plus_tags": true}}'""")
    people.do("ingest", "acme/inbox")
    return people


def test_P09_another_spelling_of_a_forgotten_mailbox_is_not_stored_by_suppressing_it(merged: People) -> None:
    merged.do("forget", ANN, "--tenant", "acme")
    listed = merged.mill.project / "list.csv"
    listed.write_text("ann+y@people.example\nzoe@people.example\n")
    assert merged.ask("suppress", "add", "ann+x@people.example", "--tenant", "acme")["forgotten"] == 1
    said = merged.ask("suppress", "import", str(listed), "--tenant", "acme")
    assert (said["forgotten"], said["added"]) == (1, 1)
    assert "ann+" not in merged.texts(1)
    # the operator's list is for tenants without that rule too, to whom it is somebody else
    merged.do("forget", BOB, "--all")
    assert merged.ask("suppress", "add", BOB, "bob+x@people.example", "--all")["forgotten"] == 1


def test_the_rule_of_a_tenant_is_asked_for_once_when_a_worker_looks_who_of_its_rows_was_suppressed(
    merged: People,
) -> None:
    merged.do("campaign", "start", "acme/spring")
    merged.mill.tick(by="test")
    merged.do("suppress", "add", "bob+x@people.example", "--tenant", "acme")
    with psycopg.connect(os.environ["MAILMILL_DATABASE_URL"]) as conn:
        ids = [message for (message,) in conn.execute("SELECT id FROM messages ORDER BY id")]
        conn.execute("SET LOCAL track_functions = 'all'")
        assert len(ids) == 2 and ledger.suppressed(conn, ids) == {ids[1]}
        calls = "SELECT calls FROM pg_stat_xact_user_functions WHERE funcname = 'mailbox_rule'"
        assert conn.execute(calls).fetchall() == [(1,)]


def test_a_grant_and_a_suppression_taken_back_name_what_another_spelling_leaves_in_the_way(merged: People) -> None:
    merged.do("contacts", "consent", ANN, "withdraw", "--tenant", "acme")
    said = merged.do("contacts", "consent", NEWS, *GRANT)
    assert f"{ANN}: still suppressed (unsubscribed) until `mailmill suppress remove {ANN} --tenant acme …`" in said
    assert f"{ANN}: the consent stays withdrawn until `mailmill contacts consent {ANN} grant" in said
    answer = merged.ask("contacts", "consent", NEWS, *GRANT)
    assert (answer["suppressed"], answer["withdrawn"]) == (["unsubscribed"], [ANN])
    merged.do("suppress", "add", NEWS, "--tenant", "acme")
    said = merged.do("suppress", "remove", NEWS, "--tenant", "acme")
    assert said.startswith("1 removed\n") and f"{ANN}: still suppressed (unsubscribed)" in said
    assert f"{ANN}: the consent stays withdrawn" in said
    merged.do("suppress", "remove", ANN, "--tenant", "acme", "--reason", "ticket 9")
    answer = merged.ask("contacts", "consent", ANN, *GRANT)
    assert (answer["suppressed"], answer["withdrawn"]) == ([], [])


def test_a_suppression_of_a_spelling_that_is_no_contact_is_told_with_the_consent_and_in_the_history(
    merged: People,
) -> None:
    other = "bob+old@people.example"
    merged.do("suppress", "add", other, "--tenant", "acme", "--reason", "unsubscribed")
    [told] = merged.ask("contacts", "history", BOB)
    assert [(row["what"], row["address"]) for row in told["history"]] == [
        ("created", BOB), ("consent withdrawn", other), ("suppressed", other),
    ]  # fmt: skip
    [held] = merged.ask("export", BOB)
    assert other in {row["address"] for row in held["history"]} & {row["address"] for row in held["suppressions"]}
    assert merged.ask("contacts", "consent", BOB, *GRANT)["suppressed"] == ["unsubscribed"]
    merged.do("suppress", "remove", other, "--tenant", "acme", "--reason", "ticket 9")
    [told] = merged.ask("contacts", "history", BOB)
    assert ("suppression removed", other) in {(row["what"], row["address"]) for row in told["history"]}


def test_what_is_suppressed_of_a_person_is_looked_up_by_indexes_with_a_rule_and_without(merged: People) -> None:
    which = {"tenant_id": 1, "keys": [ANN], "contact_id": None}
    with merged.mill.database.transaction() as conn:
        conn.execute("SET LOCAL enable_seqscan = off")
        for query in (explain.SQL["suppressions"], suppressions.SQL["of_mailboxes"], consents.SQL["history"]):
            plan = "\n".join(line for (line,) in conn.execute("EXPLAIN " + query, which | {"ids": [1]}))
            assert "Seq Scan on suppression" not in plan
        conn.execute("UPDATE tenants SET spec = spec - 'merge'")
        plan = conn.execute("EXPLAIN (ANALYZE, COSTS OFF) " + suppressions.SQL["of_mailboxes"], which).fetchall()
        reads = [line for (line,) in plan if "Scan" in line and " on suppression" in line]
        assert reads and all("never executed" in line for line in reads)


def test_a_mailbox_whose_case_folds_to_other_letters_is_suppressed_and_forgotten_like_any_other(people: People) -> None:
    people.tenant("acme", people="email\nStraße+a@people.example\nbob@people.example\nStraße+b@people.example,x,y\n")
    people.rows("""UPDATE tenants SET spec = spec || '{"merge": {"plus_tags": true}}'""")
    people.do("ingest", "acme/inbox")
    people.do("suppress", "add", "straße@people.example", "--tenant", "acme")
    people.do("contacts", "publish", "acme")
    assert people.ask("segment", "preview", "acme/everyone")["exclusions"] == {"manual": 1}
    assert people.ask("forget", "straße@people.example")["tenants"][0]["contacts"] == 1
    assert people.rows("SELECT match_key FROM contacts") == [(BOB,)]
    assert "stra" not in people.texts(1)


def test_whom_a_rule_concerns_is_found_by_one_reading_of_the_contacts_without_a_sort_of_them(merged: People) -> None:
    merged.rows(
        "INSERT INTO contacts (tenant_id, match_key, email, provenance) "
        "SELECT 1, key, key, '{}' FROM generate_series(1, 20000) n, concat('p', n, '+x@people.example') key"
    )
    merged.rows("ANALYZE contacts")
    merged.do("suppress", "add", "p7@people.example", "--tenant", "acme")
    rule = {"rule": Jsonb({"plus_tags": True, "dots": []}), "strips": True, "phone": False}
    which = {"tenant_id": 1, "now": datetime.now(UTC), "gravest": list(GRAVEST), **rule}
    with merged.mill.database.transaction() as conn:
        for name in ("stage", "stage_named", "fill_named"):
            conn.execute(generation_rows.SQL[name], which)
        conn.execute("ANALYZE named")
        plan = conn.execute(
            "EXPLAIN (ANALYZE, TIMING OFF) " + generation_rows.SQL["fill_shown_by_rule"], which
        ).fetchall()
        text = "\n".join(line for (line,) in plan)
        assert conn.execute("SELECT reason FROM shown").fetchall() == [("manual",)]
    assert "Hash Join" in text and "Merge Join" not in text
    assert "Hash Cond: " in text and "mailbox" not in text.partition("Hash Cond:")[2].partition("\n")[0]
