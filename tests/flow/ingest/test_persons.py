"""One person, one contact: a tenant's merge rule from YAML to the audience, and back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from psycopg.types.json import Jsonb

from mailmill.io.postgres import manifest
from mailmill.io.postgres.audiences import PostgresContacts
from mailmill.io.postgres.suppressions import suppress
from mailmill.pipelines.configuration.specs import MergeSpec
from mailmill.pipelines.ingest import stage
from mailmill.pipelines.ingest.persons import mailboxes
from mailmill.pipelines.target import audiences

LIST = """email,phone,name,tags
ann@x.org,+4930123456,Ann,
Ann+news@x.org,,Ann Lee,
,+4930123456,A. Lee,
bob@y.org,,Bob,
"""
RULE = MergeSpec(plus_tags=True, phone=True)
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.fixture
def people(mill):
    """Three contacts of Ann's, one of Bob's; by an order in which Ann's second address is the newer one."""
    mill.read(mill.source(), LIST)
    return mill


def rule(mill, merge: MergeSpec) -> None:
    with mill.database.transaction() as conn:
        conn.execute("UPDATE tenants SET spec = %s", (Jsonb({"merge": merge.model_dump(mode="json")}),))


def judged(mill) -> dict[str, str | None]:
    """Address -> why it is left out of an audience of everybody."""
    contacts = PostgresContacts(database=mill.database, lake=mill.lake)
    tenant_id = mill.tenant()
    members = contacts.generation(tenant_id).contacts
    found = audiences.judged(members, contacts.suppressions(tenant_id, None))
    return dict(found.select("email", "excluded").iter_rows())


def test_P05_contacts_stay_apart_and_are_shown_as_one_person_until_the_rule_is_taken_back(people):
    apart = people.generation()
    assert apart.height == 4
    rule(people, RULE)
    together = people.generation().sort("contact_id")
    assert together["aliases"].list.len().to_list() in ([3, 1], [1, 3])
    ann = together.filter(pl.col("aliases").list.len() == 3).to_dicts()[0]
    assert ann["contact_id"] == apart.filter(pl.col("match_key") != "bob@y.org")["contact_id"].min()
    assert ann["aliases"] == ["+4930123456", "ann+news@x.org", "ann@x.org"]
    assert ann["email"] in ("ann@x.org", "Ann+news@x.org")  # as somebody gave it
    assert len(people.contacts()) == 4
    rule(people, MergeSpec())
    assert people.generation().sort("contact_id").equals(apart.sort("contact_id"))


def test_P05_publishing_the_same_persons_again_writes_no_file(people):
    rule(people, RULE)
    people.generation()
    again = stage.publish_contacts(people.tenant(), people.store, now=NOW + timedelta(hours=1))
    assert (again.files_written, again.files_kept, again.merged, again.largest_person) == (0, 1, 2, 3)


def test_P05_a_person_of_two_buckets_is_shown_once(mill):
    source = mill.source()
    mill.read(source, "email\nann@x.org\nbob@y.org\n")
    with mill.database.transaction() as conn:
        conn.execute("SELECT setval('contacts_id_seq', 200000)")
    mill.read(source, "email\nAnn+news@x.org\n")
    with mill.database.transaction() as conn:
        conn.execute(
            "INSERT INTO engagement (contact_id, tenant_id, last_opened) SELECT id, tenant_id, 7 FROM contacts"
            " WHERE match_key = 'ann+news@x.org'"
        )
    rule(mill, RULE)
    together = mill.generation()
    ann = together.filter(pl.col("aliases").list.len() == 2).to_dicts()
    assert together.height == 2 and len(ann) == 1
    assert ann[0]["contact_id"] < 200_000 and ann[0]["last_opened"].timestamp() == 7
    with mill.database.transaction() as conn:
        assert len(manifest.listed(conn, tenant_id=mill.tenant(), dataset="contacts")) == 1
    rule(mill, MergeSpec())
    assert mill.generation().height == 3


def test_P07_a_person_is_mailed_at_the_address_that_still_takes_mail(mill):
    mill.read(mill.source(priority=5), "email,phone\nann@gone.org,+4930123456\n")
    mill.read(mill.source("fair"), "email,phone\nann@x.org,+4930123456\n")
    rule(mill, RULE)
    mill.generation()
    assert judged(mill) == {"ann@gone.org": None}
    with mill.database.transaction() as conn:
        conn.execute(
            "INSERT INTO domains (name, state, checked_at, expires_at) VALUES ('gone.org', 'null_mx', now(), now())"
        )
    mill.generation()
    assert judged(mill) == {"ann@x.org": None}


@pytest.mark.parametrize("unsubscribed", ["ann@x.org", "ann+news@x.org"])
def test_P07_a_person_is_left_out_when_any_of_their_addresses_is_suppressed(people, unsubscribed):
    rule(people, RULE)
    people.generation()
    assert list(judged(people).values()) == [None, None]
    with people.database.transaction() as conn:
        suppress(conn, tenant_id=people.tenant(), address_keys=[unsubscribed], reason="unsubscribed")
    left_out = judged(people)  # live: before the next publication
    assert left_out.pop("bob@y.org") is None
    assert list(left_out.values()) == ["unsubscribed"]
    ann = people.generation().filter(pl.col("aliases").list.len() == 3)
    assert ann["status"].to_list() == ["unsubscribed"]


def test_P05_the_mailed_address_is_what_an_unsubscribe_names_with_and_without_the_rule(people):
    """The ledger's address_key is that of the address which was mailed, so it holds when the rule is taken back."""
    rule(people, RULE)
    shown = people.generation().filter(pl.col("aliases").list.len() == 3)
    mailed = shown["email"][0]
    assert shown["match_key"][0] == mailed.lower()
    with people.database.transaction() as conn:
        suppress(conn, tenant_id=people.tenant(), address_keys=[shown["match_key"][0]], reason="unsubscribed")
    rule(people, MergeSpec())
    people.generation()
    assert judged(people)[mailed] == "unsubscribed"


def test_P07_the_database_tells_mailboxes_apart_as_the_generation_does(mill):
    keys = [
        "ann@x.org", "ann+news@x.org", "a.nn+b@gmail.com", "ann@gmail.com", "+x@x.org", "+.x@gmail.com", "a.b@x.org",
        '"a+b"@x.org', '"a@b+c"@gmail.com', "+4930123456", "no address", "", "a+b", "a+@x.org", "a.+.@gmail.com",
    ]  # fmt: skip
    for merge in (MergeSpec(), RULE, MergeSpec(dots=("gmail.com",)), MergeSpec(plus_tags=True, dots=("gmail.com",))):
        rule(mill, merge)
        with mill.database.transaction() as conn:
            said = conn.execute(
                "SELECT mailbox_rule(%s) IS NOT NULL, array_agg(mailbox_of(k, mailbox_rule(%s)) ORDER BY n),"
                " array_agg(near_mailbox(k) ORDER BY n) FROM unnest(%s::text[]) WITH ORDINALITY u (k, n)",
                (mill.tenant(), mill.tenant(), keys),
            ).fetchone()
        boxes = mailboxes(keys, merge)
        assert said[:2] == (merge.strips, boxes)
        near = dict(zip(boxes, said[2], strict=True))
        assert [near[box] for box in boxes] == said[2], "one mailbox, one place in the index"
