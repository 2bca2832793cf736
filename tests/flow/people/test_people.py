"""Suppressions with scope, consent with history, tags, and what is held about a person."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import polars as pl
import psycopg
import pytest
from people_world import ANN, PEOPLE, PHONE, People

from mailmill import definitions
from mailmill.errors import Misconfigured
from mailmill.io.postgres import consents
from mailmill.io.postgres.audiences import PostgresContacts

BOB, CID = "bob@people.example", "cid@people.example"
POLICY = "consent: {basis: consent, proof: form of 2025}\n"


def shown(people: People, tenant_id: int = 1) -> dict[str, tuple[str, str | None, list[str]]]:
    """match key -> status, consent, tags of the published contacts."""
    generation = PostgresContacts(database=people.mill.database, lake=people.mill.lake).generation(tenant_id)
    assert generation is not None
    rows = generation.contacts.select("match_key", "status", "consent", "tags").collect().rows()
    return {key: rest for key, *rest in rows}  # type: ignore[misc]


def test_P07_a_suppression_for_every_tenant_keeps_out_of_each_audience_and_ingress_does_not_see_it(
    people: People,
) -> None:
    people.do("apply", str(_empty(people, "acme")))
    people.ask("suppress", "add", "Bob@People.example", "--all", "--note", "=cmd()")
    people.planned("acme")
    people.planned("other")
    assert people.rows("SELECT tenant_id, n FROM exclusions WHERE reason = 'manual' ORDER BY 1") == [(1, 1), (2, 1)]
    assert people.rows("SELECT count(*) FROM messages WHERE address_key = %s", BOB) == [(0,)]
    with people.mill.database.transaction("ingress", tenant_id=1) as conn:
        assert conn.execute("SELECT count(*) FROM suppressions").fetchone() == (0,)
    [listed] = people.ask("suppress", "list", "--tenant", "acme")
    assert (listed["address"], listed["scope"], listed["tenant"]) == (BOB, "all", None)
    for words in ([CID, "--tenant", "other", "--reason", "complained"],
                  [ANN, "--tenant", "acme", "--campaign", "spring"],
                  ["+4315337031", "--tenant", "acme", "--until", "2031-01-01", "--note", "+1, call"],
                  ["eve@people.example", "--tenant", "acme", "--reason", "unsubscribed"]):  # fmt: skip
        people.do("suppress", "add", *words)
    people.rows(
        "INSERT INTO suppressions (tenant_id, address_key, reason, expires_at) VALUES (1, 'x@y.z', 'bounced', now())"
    )
    file = people.mill.project / "list.csv"
    people.do("suppress", "list", "--csv", str(file))
    assert "'=cmd()" in (written := file.read_text("utf-8-sig")) and "every tenant" in written
    assert "every tenant" in people.do("suppress", "list", "--tenant", "acme")
    people.rows("DELETE FROM suppressions WHERE tenant_id = 1")
    skipped = {"ended": 1, "for every tenant": 1, "for one campaign": 1, "of another tenant": 1}
    for added, known in ((2, 0), (0, 2)):
        assert people.ask("suppress", "import", str(file), "--tenant", "acme") == {
            "added": added, "known": known, "forgotten": 0, "unreadable_lines": [], "skipped": skipped,
        }  # fmt: skip
    terms = "SELECT channel, address_key, reason, expires_at::date::text, note FROM suppressions WHERE tenant_id = 1"
    assert people.rows(terms + " ORDER BY 1") == [
        ("email", "eve@people.example", "unsubscribed", None, None),
        ("phone", "+4315337031", "manual", "2031-01-01", "+1, call"),
    ]
    file.write_text(file.read_text("utf-8-sig").replace("2031-01-01", "next year"))
    with pytest.raises(Misconfigured, match="is no time"):
        people.do("suppress", "import", str(file), "--tenant", "acme")
    with pytest.raises(Misconfigured, match="has ended"):
        people.do("suppress", "add", ANN, "--tenant", "acme", "--until", "2020-01-01")
    for scope in ((), ("--campaign", "spring")):
        people.do("suppress", "add", CID, "--tenant", "other", *scope)
    asked = ("suppress", "remove", CID, "--tenant", "other")
    assert people.ask(*asked, "--campaign", "spring")["removed"] == 1
    assert people.ask(*asked, "--reason", "asked back")["removed"] == 2, "complained and manual, for the tenant"


def _empty(people: People, slug: str) -> Path:
    yaml = people.mill.project / "first.yaml"
    yaml.write_text(f"kind: tenant\nslug: {slug}\nname: {slug}\npostal_address: Street 1\n")
    return yaml


def test_a_persons_own_word_is_taken_back_only_with_a_reason_and_the_history_keeps_both(people: People) -> None:
    people.planned("acme", source=POLICY)
    of = ("--tenant", "acme")
    people.do("suppress", "add", BOB, *of, "--reason", "unsubscribed", "--note", "by mail")
    people.do("suppress", "add", CID, *of, "--reason", "unsubscribed", "--campaign", "spring")
    [of_one] = people.ask("contacts", "history", CID)
    assert of_one["consent"] == "consent" and "consent withdrawn" not in {row["what"] for row in of_one["history"]}
    with pytest.raises(Misconfigured, match="own word"):
        people.do("suppress", "remove", BOB, *of)
    removed = people.ask("suppress", "remove", BOB, *of, "--reason", "asked back, ticket 81")
    assert removed == {"removed": 1, "consent_withdrawn": 1, "suppressed": []}
    assert people.ask("contacts", "history", BOB)[0]["consent"] == "withdrawn", "the list does not take it back"
    people.do("contacts", "publish", "acme")
    assert people.ask("segment", "preview", "acme/everyone")["exclusions"] == {"consent_withdrawn": 1}
    at = ("--at", datetime.now(UTC).isoformat())
    people.do("contacts", "consent", BOB, "grant", "--basis", "consent", "--proof", "ticket 81", *at)
    people.do("contacts", "consent", BOB, "grant", "--basis", "contract", "--proof", "order 5", *at)
    [told] = people.ask("contacts", "history", BOB)
    assert told["consent"] == "contract", "of one time, what was recorded last"
    assert [row["what"] for row in told["history"] if row["detail"] != "of the whole batch"] == [
        "created", "consent withdrawn", "suppressed", "suppression removed", "consent granted", "consent granted",
    ]  # fmt: skip
    assert next(row["proof"] for row in told["history"] if row["what"] == "suppressed") == "by mail"
    said = [[row[name] for name in ("basis", "proof", "source")] for row in told["history"] if row["basis"]]
    assert sorted(said) == [
        ["consent", "form of 2025", "inbox"], ["consent", "ticket 81", None], ["contract", "order 5", None],
    ]  # fmt: skip
    assert all(row["at"] for row in told["history"]) and told["history"][-1]["by"]
    with pytest.raises(Misconfigured, match="lawful basis and a proof"):
        people.do("contacts", "consent", BOB, "grant")
    with pytest.raises(Misconfigured, match="'whim' is no lawful basis"):
        people.do("contacts", "consent", BOB, "withdraw", "--basis", "whim")


def test_consent_comes_from_the_source_or_from_each_row_and_shows_in_the_generation(people: People) -> None:
    rows = "email,consent_at,consent_basis,consent_proof\n" \
           f"{BOB},2025-01-02T10:00:00Z,legitimate interests,fair\n{CID},,,\n"  # fmt: skip
    people.tenant("acme", source=POLICY, people=rows)
    people.do("ingest", "acme/inbox")
    assert {key: consent for key, (_, consent, _) in shown(people).items()} == {
        BOB: "legitimate_interests",
        CID: "consent",
    }
    for word, at, refusal in (("tomorrow", "2099-01-01", "time to come"), ("no mail @", "2026-01-01", "no e-mail")):
        with pytest.raises(Misconfigured, match=refusal):
            people.do("contacts", "consent", CID if word == "tomorrow" else word, "withdraw", "--at", at)
    assert people.ask("contacts", "consent", CID, "withdraw")["suppressed"] == ["unsubscribed"]
    people.mill.ingest.publish(1, datetime.now(UTC))
    assert shown(people)[CID][:2] == ["unsubscribed", "withdrawn"]
    assert people.ask("contacts", "consent", CID, "grant", "--basis", "consent", "--proof", "x")["suppressed"]
    people.rows("INSERT INTO consents (tenant_id, address_key, status, basis, at, recorded_by)"
                " VALUES (1, %s, 'withdrawn', NULL, clock_timestamp(), 'x'),"
                " (1, %s, 'granted', 'contract', '2099-01-01', 'x')", CID, CID)  # fmt: skip
    assert people.ask("contacts", "history", CID)[0]["consent"] == "withdrawn", "what is yet to come is not said"
    people.rows("UPDATE contacts SET match_key = %s WHERE match_key = %s", PHONE, BOB)
    people.do("contacts", "consent", PHONE, "withdraw")
    kept = people.rows("SELECT channel, address_key FROM suppressions ORDER BY 2")
    assert kept == [("phone", PHONE), ("email", BOB), ("email", CID)], "a contact known by its number is mailed too"
    by_list = "SELECT address_key, basis FROM consents WHERE recorded_by = 'ingest' ORDER BY 1 NULLS LAST"
    assert people.rows(by_list) == [(BOB, "legitimate_interests"), (None, "consent")]


def test_rows_of_one_file_about_one_person_give_each_the_consent_that_it_says(people: People) -> None:
    head = "email,consent_at,consent_basis,consent_proof\n"
    rows = f"{BOB},2024-01-02,consent,form 1\n{BOB},2025-03-04,contract,order 5\n"
    rows += f"{CID},2024-01-02,consent,form 1\n{CID},,,\n"
    people.tenant("acme", people=head + rows)
    said = [(BOB, "consent", "form 1"), (BOB, "contract", "order 5"), (CID, "consent", "form 1")]
    for again in ([], ["--again"]):
        people.do("ingest", "acme/inbox", *again)
        assert people.rows("SELECT address_key, basis, proof FROM consents ORDER BY address_key, at") == said
    [told] = people.ask("contacts", "history", BOB)
    assert told["consent"] == "contract"
    assert [row["proof"] for row in told["history"] if row["basis"]] == ["form 1", "order 5"]


def test_what_a_list_once_vouched_for_stays_in_force_and_in_the_history(people: People) -> None:
    policies = ["", POLICY, "consent: {basis: contract, proof: contract 2026}\n", ""]
    found = []
    for round, policy in enumerate(policies):
        rows = f"email,name\n{CID},Cid {round}\n" + (f"{BOB},Bob\n" if round < 3 else "")
        people.tenant("acme", source=policy, people=rows)
        people.do("ingest", "acme/inbox")
        [told] = people.ask("contacts", "history", CID)
        found.append((told["consent"], [row["proof"] for row in told["history"] if row["basis"]]))
    old, new = "form of 2025", "contract 2026"
    assert found == [(None, []), ("consent", [old]), ("contract", [old, new]), ("contract", [old, new])]
    assert {key: consent for key, (_, consent, _) in shown(people).items()} == {CID: "contract", BOB: "contract"}
    people.do("suppress", "add", BOB, "--tenant", "acme", "--reason", "complained")
    people.tenant("acme", source=POLICY, people=f"email,name\n{BOB},Bob\n")
    people.do("ingest", "acme/inbox")
    [told] = people.ask("contacts", "history", BOB)
    assert [row["proof"] for row in told["history"] if row["basis"]] == [old, new, old]
    assert told["consent"] == "withdrawn"
    assert people.rows("SELECT count(*) FROM consents WHERE address_key IS NOT NULL") == [(4,)]
    people.rows("DELETE FROM consents WHERE address_key IS NOT NULL")
    [cid] = people.rows("SELECT contact_id, first_batch_id, last_batch_id FROM contact_sources ORDER BY 3 LIMIT 1")
    seen = pl.DataFrame([cid], schema=["id", "first_batch", "last_batch"], orient="row")
    [(late,)] = people.rows("SELECT batch_id FROM consents WHERE basis = 'contract'")
    with people.mill.database.transaction() as conn:  # one that is loaded behind a later one is named by no sighting
        consents.keep_vouched(conn, late, seen, seen)
    assert people.rows("SELECT address_key, proof FROM consents WHERE address_key IS NOT NULL") == [(CID, new)]


def test_what_a_source_vouches_for_since_counts_for_what_is_loaded_again(people: People) -> None:
    people.tenant("acme", people=f"email\n{ANN}\n{BOB}\n")
    people.do("ingest", "acme/inbox")
    people.tenant("acme", source=POLICY, people=f"email\n{ANN}\n{BOB}\n")
    people.do("ingest", "acme/inbox")
    assert [consent for _, consent, _ in shown(people).values()] == [None, None], "the file is known"
    people.do("ingest", "acme/inbox", "--again")
    assert people.ask("contacts", "history", ANN)[0]["consent"] == "consent"
    assert [consent for _, consent, _ in shown(people).values()] == ["consent", "consent"], "as the history says"


def test_a_list_grants_only_what_it_says_and_never_against_who_withdrew(people: People) -> None:
    head = "email,consent_at,consent_basis\n"
    rows = [f"{ANN},no,\n", f"{BOB},,declined\n", f"{CID},2062-01-01,\n", "dee@people.example,,consent\n",
            "eve@people.example,2024-05-01,\n"]  # fmt: skip
    people.tenant("acme", people=head + "".join(rows))
    people.do("ingest", "acme/inbox")
    given = "SELECT address_key, at <= now() FROM consents WHERE status = 'granted' ORDER BY 1"
    first = [(CID, True), ("dee@people.example", True), ("eve@people.example", True)]
    assert people.rows(given) == first
    for who in (CID, "dee@people.example"):
        people.do("contacts", "consent", who, "withdraw", "--tenant", "acme")
    late = people.mill.project / "acme" / "late.csv"
    late.write_text(head + f"{CID},2062-02-02,\n" + rows[3])
    people.do("ingest", "acme/inbox")
    said = people.ask("contacts", "history", CID)[0], people.ask("contacts", "history", "dee@people.example")[0]
    assert [one["consent"] for one in said] == ["withdrawn", "withdrawn"]
    assert people.rows(given) == first


def test_an_unsubscription_and_a_complaint_never_end_and_others_may(people: People) -> None:
    people.tenant("acme")
    of = ("suppress", "add", CID, "--tenant", "acme", "--until", "2031-01-01T00:00Z", "--reason")
    for reason in ("unsubscribed", "complained"):
        with pytest.raises(Misconfigured, match="has no end"):
            people.do(*of, reason)
        with pytest.raises(psycopg.errors.CheckViolation):  # whoever writes it
            people.rows(
                "INSERT INTO suppressions (tenant_id, address_key, reason, expires_at) VALUES (1, %s, %s, now())",
                CID, reason,
            )  # fmt: skip
    assert people.ask(*of, "manual")["added"] == 1
    assert people.rows("SELECT reason, expires_at > now() FROM suppressions") == [("manual", True)]


def reported(people: People, cursor: str | None) -> tuple[list[str | None], str | None]:
    """Tenants of which the sensor says that their contacts were published as others; its next cursor."""
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_sensor_context(instance=instance, cursor=cursor, resources={"mill": people.mill})
        tick = definitions.defs.resolve_sensor_def("publications").evaluate_tick(context)
    return [one.partition for one in tick.asset_events], tick.cursor


def test_a_suppression_outlives_its_contact(people: People) -> None:
    people.planned("acme")
    people.do("suppress", "add", CID, "--tenant", "acme", "--reason", "complained")
    people.rows("DELETE FROM contacts WHERE match_key = %s", CID)
    people.do("contacts", "add", "--tenant", "acme", "--email", CID)
    assert shown(people)[CID][0] == "complained"


def test_a_deleted_tag_leaves_its_contacts_and_no_load_brings_it_back(people: People) -> None:
    people.planned("acme")
    yaml = people.mill.project / "tag.yaml"
    yaml.write_text("kind: tag\ntenant: acme\nslug: vip\ndescription: buys often\n")
    people.do("apply", str(yaml))
    tags = {row["tag"]: row for row in people.ask("tags", "list", "acme")}
    assert (tags["vip"]["contacts"], tags["vip"]["description"], tags["buyer"]["contacts"]) == (2, "buys often", 2)
    seen = reported(people, reported(people, None)[1])
    assert seen[0] == []
    people.do("ingest", "acme/inbox")
    assert reported(people, seen[1])[0] == [], "an import that reads nothing changes no segment"
    assert people.ask("tags", "delete", "acme/vip") == {"tag": "acme/vip", "contacts": 2}
    assert reported(people, seen[1])[0] == ["acme"], "and segments follow, though no run has told Dagster"
    assert [tags for _, _, tags in shown(people).values() if "vip" in tags] == [], "also where segments read them"
    people.do("contacts", "add", "--tenant", "acme", "--email", CID, "--tag", "vip", "--tag", "new", "--tag", "Größe L")
    assert people.rows("SELECT count(*) FROM contacts WHERE 'vip' = ANY(tags)") == [(0,)]
    assert shown(people)[CID][2] == ["größe-l", "new"]
    assert people.ask("tags", "delete", "acme/Größe L") == {"tag": "acme/größe-l", "contacts": 1}
    with pytest.raises(Misconfigured, match="no contact of acme has the tag 'viip'"):
        people.do("tags", "delete", "acme/viip")
    assert "viip" not in {row["tag"] for row in people.ask("tags", "list", "acme")}
    assert people.ask("apply", str(yaml))["summary"]["create"] == 1, "describing it takes it back into use"
    yaml.write_text("kind: tag\ntenant: acme\nslug: größe-l\ndescription: large\n", encoding="utf-8")
    assert people.ask("apply", str(yaml))["summary"]["create"] == 1
    people.do("contacts", "add", "--tenant", "acme", "--email", BOB, "--tag", "vip")
    assert shown(people)[BOB][2] == ["buyer", "vip"]


def test_export_gives_what_is_held_and_nothing_of_another_person(people: People) -> None:
    people.planned("acme", source=POLICY, people=PEOPLE + f"max@people.abcxyz,Max,,,{ANN},\r\n")
    people.rows("INSERT INTO engagement (contact_id, tenant_id, last_opened)"
                " SELECT id, 1, 1777680000 FROM contacts WHERE match_key = %s", ANN)  # fmt: skip
    people.rows("INSERT INTO campaign_recipients SELECT 1, id, 1, true FROM contacts WHERE match_key = %s", ANN)
    [held] = people.ask("export", ANN)
    assert held["explained"][0]["contact"]["phone"] == "+4315337031"
    [told] = people.ask("explain", "+43 1 533 70 31")
    assert told["contact"]["email"] == "Ann@people.example", "a number as people write it, of who has an address too"
    assert [row["name"] for row in held["raw_rows"]] == ["Ann"]
    assert [row["reason"] for row in held["rejected_rows"]] == ["local_part_syntax"]
    assert held["explained"][0]["campaigns"][0]["message"]["state"] == "queued"
    assert "joann" not in str(held).lower()
    assert [(row["address"], row["merge_values"]) for row in held["messages"]] == [
        ("Ann@people.example", {"email": "Ann@people.example"})
    ]
    assert [row["merge_values"] for row in held["audience_rows"]] == ["Ann@people.example"]
    assert (held["engagement"][0]["last_opened"], held["chosen"]) == (
        "2026-05-02T00:00:00+00:00",
        [{"campaign": "spring", "added": True}],
    )
    for verb in ("add", "remove"):  # which leaves the address in the history, and nowhere else
        people.do("suppress", verb, "zoe@people.example", "--tenant", "acme")
    [zoe] = people.ask("export", "zoe@people.example")
    assert [row["what"] for row in zoe["history"]] == ["suppressed", "suppression removed"]
    out = people.mill.project / "ann.json"
    out.touch(0o644)
    people.do("export", ANN, "--out", str(out))
    assert out.stat().st_mode & 0o777 == 0o600 and ANN in out.read_text().lower()
    assert people.ask("forget", ANN)["proved"]
    assert [row["raw"] for row in people.ask("rejects", "show", "acme")["rows"]] == ["max@people.abcxyz,Max,,,***,"]


def test_a_value_that_does_not_fit_its_fields_type_is_rejected_and_another_is_normalised(people: People) -> None:
    people.tenant("acme", people=f'email,spent\n{BOB},"1.234,50"\n{CID},a lot\n')
    yaml = people.mill.project / "spent.yaml"
    yaml.write_text("kind: field\ntenant: acme\nslug: spent\ntype: number\n")
    people.do("apply", str(yaml))
    assert people.ask("ingest", "acme/inbox")["reasons"] == {"field_type": 1}
    assert people.rows("SELECT match_key, fields FROM contacts") == [(BOB, {"spent": "1234.5"})]


def test_why_somebody_was_not_mailed_is_told_also_once_what_kept_them_out_was_taken_back_or_ended(
    people: People,
) -> None:
    people.tenant("acme")
    people.do("ingest", "acme/inbox")
    people.do("suppress", "add", BOB, "--tenant", "acme", "--reason", "complained", "--note", "by mail")
    people.do("suppress", "add", CID, "--tenant", "acme", "--until", "2031-01-01")
    people.do("campaign", "start", "acme/spring")
    people.do("suppress", "remove", BOB, "--tenant", "acme", "--reason", "ticket 81")
    people.rows("UPDATE suppressions SET expires_at = clock_timestamp() WHERE address_key = %s", CID)
    people.do("suppress", "add", CID, "--tenant", "acme")  # anew, after the campaign began
    told = {who: people.ask("explain", who)[0] for who in (BOB, CID)}
    codes = {who: one["campaigns"][0]["code"] for who, one in told.items()}
    assert codes == {BOB: "complained", CID: "manual"}
    [gone] = told[BOB]["suppressions"]
    assert gone["expires_at"] and gone["note"].startswith("by mail; taken back by") and "ticket 81" in gone["note"]
