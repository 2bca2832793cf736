"""What a person said counts by its time, a list's word as long as the list is there, and a file's in one statement."""

from __future__ import annotations

from typing import Any

import pytest
from people_world import ANN, People

from mailmill.errors import Misconfigured
from mailmill.io.postgres import suppressions

BOB = "bob@people.example"


def test_P07_a_file_of_suppressions_tells_the_workers_once_whatever_its_ends_and_notes_are(people: People) -> None:
    people.tenant("acme")
    file = people.mill.project / "list.csv"
    head = "address,channel,reason,scope,tenant,campaign,created_at,expires_at,note\n"
    rows = [f"p{n}@people.example,email,manual,tenant,acme,,,203{n}-01-01,ticket {n}\n" for n in range(5)]
    rows += [f"{BOB},email,complained,tenant,acme,,,,\n", f"{BOB},email,bounced,tenant,acme,,,,\n",
             "+4315337031,phone,manual,tenant,acme,,,,\n"]  # fmt: skip
    # of two ends in one file the later counts
    file.write_text(head + "p4@people.example,email,manual,tenant,acme,,,2031-01-01,\n" + "".join(rows))
    people.do("suppress", "add", "p1@people.example", "p2@people.example", "--tenant", "acme", "--until", "2031-06-01")
    [(before,)] = people.rows("SELECT n FROM change_number")
    answer = people.ask("suppress", "import", str(file), "--tenant", "acme")
    assert (answer["added"], answer["known"]) == (7, 1)
    assert people.rows("SELECT n FROM change_number") == [(before + 1,)]
    stored = "SELECT address_key, channel, reason, date_part('year', expires_at), note FROM suppressions ORDER BY 1, 3"
    assert people.rows(stored) == [
        ("+4315337031", "phone", "manual", None, None),
        (BOB, "email", "bounced", None, None),
        (BOB, "email", "complained", None, None),
        ("p0@people.example", "email", "manual", 2030, "ticket 0"),
        ("p1@people.example", "email", "manual", 2031, None),
        *((f"p{n}@people.example", "email", "manual", 2030 + n, f"ticket {n}") for n in range(2, 5)),
    ]
    assert people.ask("suppress", "import", str(file), "--tenant", "acme")["added"] == 0
    assert people.rows("SELECT n FROM change_number") == [(before + 1,)]


def test_a_withdrawal_counts_by_its_time_and_not_by_when_it_was_recorded(people: People) -> None:
    people.tenant("acme")
    people.do("ingest", "acme/inbox")

    def say(who: str, *words: str) -> str:
        return people.do("contacts", "consent", who, *words, "--tenant", "acme")

    def grant(who: str, at: str) -> str:
        return say(who, "grant", "--basis", "contract", "--proof", "form", "--at", at)

    def stands(who: str) -> str | None:
        [told] = people.ask("contacts", "history", who)
        return told["consent"]  # type: ignore[no-any-return]

    grant(BOB, "2025-06-01T00:00Z")
    assert "a later grant stands" in say(BOB, "withdraw", "--at", "2024-01-01T00:00Z")
    assert stands(BOB) == "contract" and people.rows("SELECT count(*) FROM suppressions") == [(0,)]
    assert "suppressed (unsubscribed)" in say(BOB, "withdraw", "--at", "2025-07-01T00:00Z")
    assert people.rows("SELECT created_at::date::text FROM suppressions") == [("2025-07-01",)]
    assert stands(BOB) == "withdrawn"
    people.do("suppress", "remove", BOB, "--tenant", "acme", "--reason", "ticket 9")
    assert "stays withdrawn" in grant(BOB, "2025-06-15T00:00Z") and stands(BOB) == "withdrawn"
    assert "withdrawn" not in grant(BOB, "2026-01-01T00:00Z") and stands(BOB) == "contract"
    people.do("suppress", "add", BOB, "--tenant", "acme", "--reason", "unsubscribed")
    assert "stays withdrawn" in grant(BOB, "2026-02-01T00:00Z")


def test_the_word_of_a_list_goes_with_what_the_list_gave(people: People) -> None:
    people.tenant("acme", source="consent: {basis: consent, proof: A}\n", people="email\n" + f"{ANN}\n{BOB}\n")
    folder, yaml = people.mill.project / "acme", people.mill.project / "acme.yaml"
    for name, proof in (("b", "A"), ("c", "B")):
        yaml.write_text(yaml.read_text().replace("proof: A", f"proof: {proof}"))
        people.do("apply", str(yaml))
        (folder / f"{name}.csv").write_text(f"email,name\n{ANN},{name}\n{BOB},{name}\n")
        people.do("ingest", "acme/inbox")
    words = "SELECT address_key, proof FROM consents WHERE of_list AND address_key IS NOT NULL ORDER BY 1"
    people.do("contacts", "add", "--tenant", "acme", "--email", ANN)
    assert people.rows(words) == [(ANN, "A"), (BOB, "A")]
    people.do("sources", "delete", "acme/inbox", "--contacts", "remove")
    assert people.rows(words) == []
    [told] = people.ask("contacts", "history", ANN)
    assert told["consent"] is None


def test_who_unsubscribes_while_a_suppression_is_taken_back_stays_unsubscribed(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Meanwhile(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            if name == "remove":
                people.rows(
                    "INSERT INTO suppressions (tenant_id, address_key, reason) VALUES (1, %s, 'unsubscribed')", BOB
                )
            return super().__getitem__(name)

    people.tenant("acme")
    people.do("suppress", "add", BOB, "--tenant", "acme")
    monkeypatch.setattr(suppressions, "SQL", Meanwhile(suppressions.SQL))
    with pytest.raises(Misconfigured, match="own word is not taken back without a reason"):
        people.do("suppress", "remove", BOB, "--tenant", "acme")
    assert people.rows("SELECT reason FROM suppressions ORDER BY 1") == [("manual",), ("unsubscribed",)]
