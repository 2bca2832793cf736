"""Rules over a handful of contacts: what each comparison takes in, and where a mistake is."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest
from pydantic import ValidationError

from mailmill.pipelines.configuration.specs import SegmentSpec
from mailmill.pipelines.ingest.generations import CONTACTS_SCHEMA
from mailmill.pipelines.target.comparisons import RuleError
from mailmill.pipelines.target.rules import leaves, parse
from mailmill.pipelines.target.segments import compare, compile_rule, members

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
LONG_AGO, LATELY = NOW - timedelta(days=400), NOW - timedelta(days=3)
CONTACTS = {
    "ann": {
        "email": "Ann@alpha.example", "country": "DE", "language": "de", "category": "Press", "tags": ["news", "vip"],
        "sources": ["fair", "desk"], "fields": '{"company": "Müller & Co", "authority": "55"}', "phone": "+493012345",
        "last_opened": LATELY, "last_accepted": LATELY, "time_zone": "Europe/Berlin", "last_seen": LATELY,
        "provider": "google", "aliases": ["ann@alpha.example", "ann@home.example"],
    },
    "bob": {
        "email": "bob@beta.example", "country": "US", "language": "en", "tags": ["news", "größe-l"],
        "sources": ["desk"], "fields": '{"authority": "7"}', "phone": "+12025550", "last_opened": LONG_AGO,
        "verdict": "risky",
    },
    "cid": {"email": "cid@alpha.example", "tags": [], "sources": ["fair"], "fields": "{}"},
    "dan": {"phone": "+4989999", "tags": None, "sources": None, "fields": None},
}  # fmt: skip
FRAME = pl.DataFrame(
    [
        dict.fromkeys(CONTACTS_SCHEMA.names())
        | {"contact_id": n, "name": name, "verdict": "valid", "first_seen": LONG_AGO, "last_seen": LONG_AGO}
        | contact
        for n, (name, contact) in enumerate(CONTACTS.items())
    ],
    schema=CONTACTS_SCHEMA,
).with_columns(
    domain=pl.col("email").str.extract("@([^@]+)$"),
    match_key=pl.coalesce(pl.col("email").str.to_lowercase(), "phone"),
)


def taken(rule) -> str:
    return " ".join(members(FRAME.lazy(), rule, NOW).collect()["name"])


@pytest.mark.parametrize(
    ("rule", "names"),
    [
        ({"all": []}, "ann bob cid dan"),
        ({"country": "DE"}, "ann"),
        ({"country": ["de", "US"]}, "ann bob"),
        ({"country": {"not": "DE"}}, "bob cid dan"),  # who has no country is not from there
        ({"country": {"exists": False}}, "cid dan"),
        ({"language": {"in": ["de", "en"], "not": "en"}}, "ann"),
        ({"category": "press"}, "ann"),
        ({"category": ["PRESS", "x"]}, "ann"),
        ({"email": "ANN@Alpha.example"}, "ann"),
        ({"none": [{"email": ["ann@alpha.example"]}]}, "bob cid dan"),
        ({"email": ["Ann@home.example", "bob@beta.example"]}, "ann bob"),  # a person by each of their addresses
        ({"none": [{"email": "ann@home.example"}]}, "bob cid dan"),
        ({"email": {"not": "ann@home.example"}}, "bob cid dan"),
        ({"email": {"exists": False}}, "dan"),
        ({"provider": "Google"}, "ann"),
        ({"phone": "+49 30 123-45"}, "ann"),
        ({"tag": "Größe L"}, "bob"),
        ({"tag": {"none": ["News", "VIP!"]}}, "cid dan"),
        ({"source": "Fair"}, "ann cid"),
        ({"time_zone": "Europe/Berlin"}, "ann"),
        ({"domain": "Alpha.example"}, "ann cid"),
        ({"verdict": "risky"}, "bob"),
        ({"tag": "news"}, "ann bob"),
        ({"tag": {"all": ["news", "vip", "News"]}}, "ann"),
        ({"tag": {"none": ["vip"]}}, "bob cid dan"),
        ({"tag": {"all": ["news", "vip", "News", "größe-l"]}}, ""),
        ({"tag": {"any": [f"t{n}" for n in range(500)] + ["vip"]}}, "ann"),
        ({"tag": {"none": [f"t{n}" for n in range(500)] + ["vip"]}}, "bob cid dan"),
        ({"tag": {"exists": False}}, "cid dan"),
        ({"source": ["fair"]}, "ann cid"),
        ({"source": {"any": ["fair", "desk"], "none": ["desk"]}}, "cid"),
        ({"phone_code": "+49"}, "ann dan"),
        ({"phone_code": [49, "1"]}, "ann bob dan"),
        ({"phone_code": {"not": "+49"}}, "bob cid"),
        ({"phone_code": [49, *range(200, 400)]}, "ann dan"),
        ({"phone_code": {"not": ["1", *range(200, 400)]}}, "ann cid dan"),
        ({"phone_code": {"exists": False}}, "cid"),
        ({"field": {"company": "Müller & Co"}}, "ann"),
        ({"field": {"company": {"starts_with": "Mü"}}}, "ann"),
        ({"field": {"company": {"contains": "&"}}}, "ann"),
        ({"field": {"authority": {"at_least": 7.5}}}, "ann"),
        ({"field": {"authority": {"at_most": 7}}}, "bob"),
        ({"field": {"authority": 7}}, "bob"),
        ({"field": {"authority": {"exists": True}, "company": {"exists": False}}}, "bob"),
        ({"last_seen": {"within_days": 30}}, "ann"),
        ({"last_seen": {"not_within_days": 30}}, "bob cid dan"),
        ({"first_seen": {"before": date(2026, 1, 1)}}, "ann bob cid dan"),
        ({"last_seen": {"after": "2026-11-01"}}, "ann"),
        ({"opened": {"within_days": 30}}, "ann"),
        ({"opened": {"not_within_days": 30}}, "bob cid dan"),  # never is not within 30 days either
        ({"opened": "never"}, "cid dan"),
        ({"opened": "ever"}, "ann bob"),
        ({"opened": {"before": "2026-01-01T00:00:00+01:00"}}, "bob"),
        ({"clicked": "never", "mailed": "ever"}, "ann"),
        ({"none": [{"tag": "news"}]}, "cid dan"),
        ({"any": [{"country": "US"}, {"tag": "vip"}]}, "ann bob"),
        ({"all": [{"tag": "news"}, {"none": [{"country": "US"}, {"opened": "never"}]}]}, "ann"),
    ],
    ids=lambda value: str(value)[:80],
)
def test_a_rule_takes_in(rule, names):
    assert taken(rule) == names


@pytest.mark.parametrize("rule", [{"country": {"not": "DE"}}, {"any": [{"tag": "x"}, {"opened": "ever"}]}])
def test_a_rule_is_true_or_false_for_everybody_and_so_is_its_contrary(rule):
    assert FRAME.select(compile_rule(rule, NOW).alias("in"))["in"].null_count() == 0
    assert len(taken(rule).split()) + len(taken({"none": [rule]}).split()) == FRAME.height


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({}, "rule: a mapping is needed"),
        ({"any": []}, r"rule.any: an empty list"),
        ({"any": [{"tag": "x"}, {"all": []}]}, r"rule.any[1].all: an empty list"),  # would be everybody
        ({"all": [], "tag": "x"}, r"rule.all: an empty list"),
        ({"all": {"tag": "x"}}, r"rule.all: a list of rules"),
        ({"all": [{"tag": "x"}, {"country": "Germany"}]}, r"rule.all[1].country: 'GERMANY' is not two letters"),
        ({"all": [{"any": [{"town": "x"}]}]}, r"rule.all[0].any[0].town: unknown; allowed are all, any, none, tag"),
        ({"country": False}, "rule.country: YAML reads this as false; put the word in quotes"),
        ({"country": ["DE", 5]}, "rule.country[1]: a text is needed"),
        ({"language": {"is": "de"}}, "rule.language.is: unknown; allowed are in, not, exists"),
        ({"language": {}}, "rule.language: a comparison is needed"),
        ({"tag": []}, "rule.tag: between one and 1000 values"),
        ({"opened": "sometimes"}, "rule.opened: a comparison is needed here, such as {within_days: 30} (or never"),
        ({"opened": {"within_days": "x"}}, "rule.opened.within_days: a number of days"),
        ({"opened": {"within_days": 0}}, "rule.opened.within_days: a number of days"),
        ({"last_seen": {"before": "soon"}}, "rule.last_seen.before: a date is needed"),
        ({"time_zone": "Mars/Base"}, "rule.time_zone: 'Mars/Base' is no time zone"),
        ({"tag": ["x", "?!"]}, "rule.tag[1]: '?!' is not a tag"),
        ({"email": {"not": "ann"}}, "rule.email.not: 'ann' is not an e-mail address"),
        ({"domain": ["x.org", "x"]}, "rule.domain[1]: 'x' is not a domain"),
        ({"phone": "030 12345"}, "rule.phone: '030 12345' is not a phone number with its +"),
        ({"source": "My list"}, "rule.source: 'my list' is not the slug of a source"),
        ({"phone_code": "abc"}, "rule.phone_code: '+abc' is not the first digits"),
        ({"verdict": "good"}, "rule.verdict: 'good' is not valid, risky or invalid"),
        ({"field": {"Bad Name": "x"}}, "rule.field.Bad Name: a custom field has small letters"),
        ({"field": "x"}, "rule.field: custom fields are needed"),
        ({"field": {"size": {"at_least": "x"}}}, "rule.field.size.at_least: a number"),
    ],
    ids=str,
)
def test_a_mistake_is_named_with_its_place(rule, message):
    with pytest.raises(RuleError) as caught:
        parse(rule)
    assert str(caught.value).startswith(message)


def test_a_rule_nested_without_end_is_refused():
    rule = {"tag": "x"}
    for _ in range(3000):
        rule = {"all": [rule]}
    with pytest.raises(RuleError, match="nested deeper"):
        parse(rule)


def test_a_rule_of_a_thousand_comparisons_is_refused():
    with pytest.raises(RuleError, match="more than 500"):
        parse({"any": [{"tag": str(n)} for n in range(1000)]})


def test_a_domain_is_compared_in_the_form_that_mail_uses():
    (leaf,) = leaves(parse({"domain": ["Münch.de", "x.org"]}))
    assert leaf.conditions[0].value == ("xn--mnch-0ra.de", "x.org")


def test_the_yaml_document_refuses_a_bad_rule_with_its_place():
    with pytest.raises(ValidationError) as caught:
        SegmentSpec(kind="segment", tenant="acme", slug="s", rule={"all": [{"tag": "x"}, {"country": "Germany"}]})
    assert caught.value.errors()[0]["loc"] == ("rule", "all", 1, "country")


def test_a_refresh_knows_who_joined_and_who_left():
    before, after = pl.DataFrame({"contact_id": [1, 2, 3]}), pl.DataFrame({"contact_id": [3, 4]})
    change = compare(before, after)
    assert (change.rows, change.joined, change.left) == (2, 1, 2)
