"""Contacts that are one person: who belongs together, and what is shown of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailmill.pipelines.configuration.specs import MergeSpec
from mailmill.pipelines.ingest import persons
from mailmill.pipelines.ingest.domains import DOMAINS_SCHEMA
from mailmill.pipelines.ingest.generations import CONTACTS_SCHEMA, completed

EVERYTHING = MergeSpec(plus_tags=True, dots=("g.org",), phone=True)
ROWS_SCHEMA = pl.Schema(
    {
        name: kind for name, kind in CONTACTS_SCHEMA.items()
        if name not in ("domain", "provider", "score", "suggestion", "phone_code")
    }
)  # fmt: skip


def rows(*contacts: Mapping[str, Any]) -> pl.DataFrame:
    """Contacts as PostgreSQL holds them; `email`, or else `phone`, decides the match key."""
    plain = {"tags": [], "sources": ["list"], "fields": "{}", "verdict": "valid", "status": "active"}
    made = []
    for number, contact in enumerate(contacts, start=1):
        key = contact.get("match_key") or str(contact.get("email") or contact.get("phone")).lower()
        made.append({**dict.fromkeys(ROWS_SCHEMA.names()), "contact_id": number, **plain, **contact,
                     "match_key": key, "aliases": [key]})  # fmt: skip
    return pl.DataFrame(made, schema=ROWS_SCHEMA)


def said(frame: pl.DataFrame, rank: Mapping[int, int]) -> pl.DataFrame:
    """What each contact holds, as claims of the rank of its id."""
    long = frame.unpivot(on=list(persons.VALUES), index="contact_id", variable_name="field").drop_nulls("value")
    priority = pl.col("contact_id").replace_strict(rank, default=0, return_dtype=pl.Int64())
    zero = pl.lit(0, pl.Int64)
    return long.with_columns(priority=priority, seen_us=zero, source_id=zero, batch_id=zero).match_to_schema(
        persons.SAID_SCHEMA
    )


def merged(
    frame: pl.DataFrame, rule: MergeSpec, rank: Mapping[int, int] | None = None, domains: pl.DataFrame | None = None
) -> pl.DataFrame:
    together = persons.connected(persons.edges(frame, rule))
    members = frame.join(together, on="contact_id", how="semi")
    return persons.merged(frame, said(members, rank or {}), together, rule, domains).sort("contact_id")


@pytest.mark.parametrize(
    ("rule", "contacts", "expected"),
    [
        (MergeSpec(), ["a@x.org", "a+b@x.org"], [1, 2]),
        (MergeSpec(plus_tags=True), ["a@x.org", "a+b@x.org", "a+c+d@x.org", "b@x.org"], [1, 1, 1, 4]),
        (MergeSpec(plus_tags=True), ["a@x.org", "a+b@y.org"], [1, 2]),  # another domain is another mailbox
        (MergeSpec(plus_tags=True), ["+b@x.org", "+c@x.org", "a.n@x.org", "an@x.org"], [1, 2, 3, 4]),
        (MergeSpec(plus_tags=True), ['"a+b"@x.org', '"a+c"@x.org'], [1, 2]),  # in quotes it is a plus
        (MergeSpec(dots=("g.org",)), ["a.n.n@g.org", "ann@g.org", "a.nn@x.org", "ann@x.org"], [1, 1, 3, 4]),
        (MergeSpec(plus_tags=True, dots=("g.org",)), ["a.n+x@g.org", "an@g.org"], [1, 1]),
        (MergeSpec(dots=("g.org",)), ["a.n+x@g.org", "an@g.org"], [1, 2]),
    ],
)  # fmt: skip
def test_P05_only_a_rule_makes_two_addresses_one_person(rule, contacts, expected):
    frame = rows(*({"email": one} for one in contacts))
    together = dict(persons.connected(persons.edges(frame, rule)).iter_rows())
    assert [together.get(number, number) for number in frame["contact_id"]] == expected


def test_P05_a_number_alone_joins_an_address_by_the_phone_rule_and_is_its_own_contact_without():
    frame = rows({"phone": "+4930123456"}, {"email": "Ann@x.org", "phone": "+4930123456"}, {"email": "bob@x.org"})
    assert merged(frame, MergeSpec()).height == 3
    one, other = merged(frame, MergeSpec(phone=True)).to_dicts()
    assert (one["contact_id"], one["email"], one["match_key"]) == (1, "Ann@x.org", "ann@x.org")
    assert (one["aliases"], other["aliases"]) == (["+4930123456", "ann@x.org"], ["bob@x.org"])


def test_P05_each_field_is_the_one_of_the_best_rank_and_the_status_the_gravest():
    frame = rows(
        {"email": "a@x.org", "name": "A", "country": "DE", "tags": ["x"], "verdict": "valid", "status": "bounced",
         "consent": "consent"},
        {"email": "a+b@x.org", "name": "B", "language": "de", "tags": ["y"], "verdict": "risky",
         "verdict_reason": "role_address", "status": "unsubscribed", "sources": ["fair"]},
        {"email": "a+c@x.org", "name": None, "tags": ["x"], "verdict": "invalid", "consent": "withdrawn"},
    )  # fmt: skip
    one = merged(frame, MergeSpec(plus_tags=True), {1: 1, 2: 2, 3: 0}).to_dicts()[0]
    assert {key: one[key] for key in ("contact_id", "email", "match_key", "name", "country", "language")} == {
        "contact_id": 1, "email": "a+b@x.org", "match_key": "a+b@x.org", "name": "B", "country": "DE", "language": "de",
    }  # fmt: skip
    assert (one["verdict"], one["verdict_reason"], one["status"]) == ("risky", "role_address", "unsubscribed")
    assert (one["tags"], one["sources"], one["consent"]) == (["x", "y"], ["fair", "list"], "withdrawn")


@pytest.mark.parametrize(
    ("others", "mailed"),
    [
        ({"status": "withdrawn"}, "new@x.org"),  # no source stands for the old one: nobody mails it
        ({"email": "old@gone.org"}, "new@x.org"),  # as DNS says
        ({"verdict": "invalid", "verdict_reason": "local_part_syntax"}, "new@x.org"),
        ({"verdict": "risky", "verdict_reason": "role_address"}, "old@x.org"),
        ({"status": "unsubscribed"}, "old@x.org"),  # that keeps the person out, whatever the address
    ],
)
def test_P07_a_person_is_mailed_where_a_source_stands_for_the_address_and_mail_gets_there(others, mailed):
    """Whatever the rank of the other one. What else is known of the person stays a matter of rank."""
    number = {"phone": "+4930123456"}
    frame = rows(
        {"email": "old@x.org", "name": "Old", **number, **others}, {"email": "new@x.org", "name": "New", **number}
    )
    gone = pl.DataFrame([{"domain": "gone.org", "state": "not_found"}], schema=DOMAINS_SCHEMA)
    for first, second in ((1, 0), (0, 1)):
        one = merged(frame, MergeSpec(phone=True), {1: first, 2: second}, gone).to_dicts()[0]
        assert one["name"] == ("Old" if first else "New")
        assert one["email"] == (mailed if first else "new@x.org") and one["match_key"] == one["email"]


def test_P07_an_address_that_was_withdrawn_is_not_mailed_in_the_place_of_one_that_is_invalid():
    old = {"email": "old@x.org", "phone": "+4930123456", "status": "withdrawn"}
    new = {"email": "new@x.org", "phone": "+4930123456", "verdict": "invalid", "verdict_reason": "domain_syntax"}
    frame = rows(old, new)
    one = merged(frame, MergeSpec(phone=True), {1: 1}).to_dicts()[0]
    assert (one["email"], one["verdict"], one["status"]) == ("new@x.org", "invalid", "active")


def test_custom_fields_are_united_field_by_field():
    frame = rows({"email": "a@x.org"}, {"email": "a+b@x.org"})
    claims = pl.DataFrame(
        [
            (1, "fields.size", "5", 1, 0, 0, 0), (2, "fields.size", "7", 2, 0, 0, 0),
            (1, "fields.note", 'a "b"', 0, 0, 0, 0),
        ],
        schema=persons.SAID_SCHEMA, orient="row",
    )  # fmt: skip
    together = persons.connected(persons.edges(frame, MergeSpec(plus_tags=True)))
    shown = persons.merged(frame, claims, together, MergeSpec(plus_tags=True))
    assert shown["fields"].str.json_decode(pl.Struct({"size": pl.String, "note": pl.String})).to_list() == [
        {"size": "7", "note": 'a "b"'}
    ]


def naive(pairs: list[tuple[int, int]]) -> dict[int, int]:
    """Union by repeated replacement: slow and plain."""
    root = {contact: contact for contact, _ in pairs}
    by_key: dict[int, list[int]] = {}
    for contact, key in pairs:
        by_key.setdefault(key, []).append(contact)
    for contacts in by_key.values():
        roots = {root[contact] for contact in contacts}
        root = {contact: min(roots) if at in roots else at for contact, at in root.items()}
    sizes = [list(root.values()).count(at) for at in root.values()]
    return {contact: at for (contact, at), size in zip(root.items(), sizes, strict=True) if size > 1}


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), max_size=60))
def test_who_is_connected_is_one_person_by_whatever_way(pairs):
    edges = pl.DataFrame(pairs, schema=persons.EDGES_SCHEMA, orient="row")
    assert dict(persons.connected(edges).iter_rows()) == naive(pairs)


def test_a_chain_of_ten_thousand_takes_a_few_rounds():
    links = [(n * 7919 % 10_007, key) for n in range(10_000) for key in (n, n + 1)]
    edges = pl.DataFrame(links, schema=persons.EDGES_SCHEMA, orient="row")
    assert persons.connected(edges)["person_id"].unique().to_list() == [0]


locals_ = st.sampled_from(["a", "b", "a.b", "ab", "a+x", "b+y", "a.b+z"])
people = st.lists(
    st.builds(
        lambda local, domain, phone, name, status: {
            "email": f"{local}@{domain}" if local else None, "phone": phone, "name": name, "status": status,
        },
        st.one_of(st.none(), locals_), st.sampled_from(["g.org", "x.org"]),
        st.one_of(st.none(), st.sampled_from(["+4930111111", "+4930222222"])),
        st.one_of(st.none(), st.sampled_from(["Ann", "Bob"])), st.sampled_from(["active", "bounced", "complained"]),
    ).filter(lambda one: one["email"] or one["phone"]),
    min_size=1, max_size=12, unique_by=lambda one: one["email"] or one["phone"],
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(people, st.randoms(use_true_random=False))
def test_P05_merging_is_idempotent_free_of_order_and_loses_no_address(contacts, random):
    frame = rows(*contacts)
    rank = {number: random.randrange(3) for number in frame["contact_id"]}
    once = merged(frame, EVERYTHING, rank)
    # the order of rows does not matter
    shuffled = frame.sample(fraction=1, shuffle=True, seed=random.randrange(1000))
    assert merged(shuffled, EVERYTHING, rank).equals(once)
    # what is merged stays so
    assert merged(once, EVERYTHING, rank).equals(once)
    # every key is shown once, every number that several are one by, and nothing that nobody gave
    shown, numbers = once["aliases"].explode().to_list(), set(frame["phone"].drop_nulls())
    assert len(shown) == len(set(shown)) and set(frame["match_key"]) <= set(shown) <= {*frame["match_key"], *numbers}
    assert set(once["email"].drop_nulls()) <= set(frame["email"].drop_nulls())
    # nobody is mailed because an alias is clean
    for one in once.iter_rows(named=True):
        theirs = frame.filter(pl.col("match_key").is_in(one["aliases"]))
        assert theirs.height == 1 or set(theirs["phone"].drop_nulls()) <= set(one["aliases"])
        of_all = set(theirs["status"])
        assert one["status"] == next(status for status in ("complained", "bounced", "active") if status in of_all)
    # without the rule everybody is back
    assert merged(frame, MergeSpec(), rank).equals(frame)


def test_a_completed_file_has_the_schema_whatever_it_holds():
    nobody = rows().match_to_schema(ROWS_SCHEMA)
    assert completed(nobody, pl.DataFrame(schema=DOMAINS_SCHEMA)).schema == CONTACTS_SCHEMA
    some = completed(rows({"email": "a@x.org"}, {"phone": "+4930123456"}), pl.DataFrame(schema=DOMAINS_SCHEMA))
    assert some.schema == CONTACTS_SCHEMA and some["phone_code"].to_list() == [None, "+49"]
