"""Recipients by hand: added to or taken out of a campaign that has not begun, as a person types it."""

from __future__ import annotations

import pytest
from people_world import ANN, People

from mailmill.errors import Misconfigured

BOB, JOANN, CID = "bob@people.example", "joann@people.example", "cid@people.example"


@pytest.fixture
def people(people: People) -> People:
    """Tenant acme with four contacts, two of them in the segment of its draft."""
    people.tenant("acme")
    yaml = people.mill.project / "acme.yaml"
    yaml.write_text(yaml.read_text().replace("rule: {all: []}", "rule: {tag: vip}"))
    people.do("apply", str(yaml))
    people.do("ingest", "acme/inbox")
    return people


def change(people: People, *words: str, code: int = 0) -> tuple[int, int, dict[str, int]]:
    said = people.ask("campaign", "recipients", "acme/spring", *words, code=code)
    return said["changed"], said["duplicates"], said["refused"]


def mailed(people: People) -> list[str]:
    return [key for (key,) in people.rows("SELECT address_key FROM messages ORDER BY 1")]


def test_P06_P07_who_is_added_is_mailed_and_who_is_removed_is_not(people: People) -> None:
    assert change(people, "add", "BOB@People.example", CID) == (2, 0, {})
    assert change(people, "remove", JOANN) == (1, 0, {})
    shown = people.ask("campaign", "recipients", "acme/spring")
    assert shown == {
        "campaign": "acme/spring", "segment": 2, "added": 2, "exclusions": {"removed": 1}, "recipients": 3,
    }  # fmt: skip
    people.do("suppress", "add", CID, "--tenant", "acme")
    started = people.ask("campaign", "start", "acme/spring")
    assert (started["planned"], started["exclusions"]) == (2, {"manual": 1, "removed": 1})
    assert mailed(people) == [ANN, BOB]
    assert people.rows("SELECT reason, n FROM exclusions ORDER BY 1") == [("manual", 1), ("removed", 1)]
    codes = {who: people.ask("explain", who)[0]["campaigns"][0]["code"] for who in (JOANN, CID)}
    assert codes == {JOANN: "removed", CID: "manual"}
    with pytest.raises(Misconfigured, match="acme/spring is running, its recipients are frozen"):
        change(people, "remove", ANN)


def test_each_address_is_counted_as_what_became_of_it(people: People) -> None:
    people.do("suppress", "add", CID, "--tenant", "acme")
    people.rows("UPDATE contacts SET verdict = 'invalid' WHERE match_key = %s", JOANN)
    assert change(people, "add", BOB, BOB, ANN, "nobody@x.example", CID, JOANN, "broken@", code=1) == (
        1, 2, {"no_address": 1, "invalid": 1, "suppressed": 1, "unknown": 1},
    )  # fmt: skip
    assert change(people, "add", BOB) == (0, 1, {}), "it was added already"
    assert change(people, "remove", BOB) == (1, 0, {}), "the last word counts"
    assert change(people, "remove", BOB) == (0, 1, {})
    assert change(people, "add", BOB) == (1, 0, {})
    said = people.do("campaign", "recipients", "acme/spring", "add", "nobody@x.example", code=1)
    assert "`mailmill contacts add` makes one" in said


def test_a_file_is_taken_in_and_who_is_in_the_segment_stays_whatever_becomes_of_it(people: People) -> None:
    file = people.mill.project / "more.csv"
    file.write_text(f"email;name\n{ANN};Ann\n\n{BOB};Bob\n", encoding="utf-8")
    assert change(people, "add", "--file", str(file)) == (1, 1, {})
    yaml = people.mill.project / "acme.yaml"
    yaml.write_text(yaml.read_text().replace("{tag: vip}", "{tag: nobody}"))
    people.do("apply", str(yaml))
    people.do("campaign", "start", "acme/spring")
    assert mailed(people) == [ANN, BOB]


def test_somebody_forgotten_is_in_no_campaigns_list(people: People) -> None:
    change(people, "add", BOB)
    change(people, "remove", ANN)
    people.do("forget", BOB)
    people.do("forget", ANN)
    assert people.rows("SELECT count(*) FROM campaign_recipients") == [(0,)]
    assert people.ask("campaign", "start", "acme/spring")["planned"] == 1


def test_somebody_added_who_is_not_published_yet_is_counted_not_lost(people: People) -> None:
    people.rows(
        "INSERT INTO contacts (tenant_id, match_key, email, provenance)"
        " VALUES (1, 'new@x.example', 'new@x.example', '{}')"
    )
    assert change(people, "add", "new@x.example") == (1, 0, {})
    started = people.ask("campaign", "start", "acme/spring")
    assert (started["planned"], started["exclusions"]) == (2, {"unpublished": 1})
