"""A person is erased from every store, stays out, and it is proved."""

from __future__ import annotations

import pytest
from people_world import ANN, PHONE, People

from mailmill.errors import Misconfigured


def test_a_forgotten_person_is_in_no_store_any_more(people: People) -> None:
    people.planned("acme")
    people.do("warehouse", "publish")
    assert ANN in people.texts(1)
    said = people.ask("forget", ANN)
    assert said["proved"]
    [done] = said["tenants"]
    assert (done["contacts"], done["messages"], done["folder_files"]) == (1, 1, 1)
    text = people.texts(1)
    assert f"'{ANN}" not in text.replace("joann@", "")
    for needle in (ANN, PHONE, "5337031", "ann@people.example"):
        assert needle not in text.replace("joann@people.example", ""), needle
    assert "joann@people.example" in text, "another person, whose address ends in the same way"
    assert people.rows("SELECT state::text, address, reason FROM messages WHERE address_key LIKE 'forgotten:%%'") == [
        ("suppressed", None, "forgotten")
    ]
    assert people.rows("SELECT fields->>'referred_by' FROM contacts WHERE match_key = 'bob@people.example'") == [
        ("***",)
    ]
    assert (people.mill.project / "acme" / "people.csv").read_bytes().split(b"\r\n")[1:] == [
        b"bob@people.example,Bob,,AT,***,buyer", b"joann@people.example,Joann,,,,vip", b"cid@people.example,Cid,,,,",
        b"broken ***@,Nobody,,,,", b"",
    ]  # fmt: skip
    assert people.ask("ingest", "acme/inbox")["new"] == 0, "the folder's file is the batch it was"
    assert people.rows("SELECT count(*) FROM batches") == [(1,)]


def test_one_tenants_forget_leaves_the_other_alone(people: People) -> None:
    for slug in ("acme", "other"):
        people.planned(slug)
    before, files = people.texts(2).count(ANN), sorted(people.files(2))
    with pytest.raises(Misconfigured, match="known to acme, other"):
        people.do("forget", ANN)
    assert people.ask("forget", ANN, "--tenant", "acme")["proved"]
    assert (people.texts(2).count(ANN), sorted(people.files(2))) == (before, files)
    assert people.ask("forget", PHONE, "--all")["proved"], "and by the number alone"
    for tenant_id in (1, 2):
        assert ANN not in people.texts(tenant_id).replace("joann@people.example", "")
