"""Verdict, reason and score: from an address's letters, its domain's name and what DNS said of it."""

from __future__ import annotations

import polars as pl
import pytest

from mailmill.pipelines.ingest.addresses import check
from mailmill.pipelines.ingest.domains import DOMAINS_SCHEMA
from mailmill.pipelines.ingest.verdicts import JUDGED_SCHEMA, judged


def asked(**states: str) -> pl.DataFrame:
    rows = [{"domain": name.replace("_", "."), "state": state} for name, state in states.items()]
    return pl.DataFrame(rows, schema=DOMAINS_SCHEMA)


def one(
    email: str | None, domains: pl.DataFrame | None = None, verdict: str = "valid", reason: str | None = None
) -> dict:
    frame = pl.DataFrame({"email": [email], "verdict": [verdict], "verdict_reason": [reason]},
                         schema=dict.fromkeys(("email", "verdict", "verdict_reason"), pl.String()))  # fmt: skip
    return judged(frame, domains).row(0, named=True)


@pytest.mark.parametrize(
    ("email", "state", "verdict", "reason"),
    [
        ("a@x.org", "mx", "valid", None),
        ("a@x.org", "implicit_mx", "valid", None),
        ("a@x.org", "unknown", "valid", None),
        ("a@x.org", "not_found", "invalid", "domain_not_found"),
        ("a@x.org", "null_mx", "invalid", "domain_refuses_mail"),
        ("a@x.org", "no_mail", "invalid", "domain_without_mail"),
        ("info@x.org", "not_found", "invalid", "domain_not_found"),
        ("info@x.org", "mx", "risky", "role_address"),
    ],
)
def test_what_dns_says_reaches_the_verdict(email, state, verdict, reason):
    found = one(email, asked(x_org=state))
    assert (found["domain"], found["verdict"], found["verdict_reason"]) == ("x.org", verdict, reason)
    assert (found["score"] == 0) == (verdict == "invalid")


def test_a_reserved_domain_is_risky_and_never_lost():
    for domains in (None, asked(example_org="not_found")):
        found = one("a@example.org", domains)
        assert (found["verdict"], found["verdict_reason"]) == ("risky", "reserved_domain")
        assert found["score"] > 0


def test_a_domain_below_no_top_level_domain_is_impossible_until_the_list_has_it():
    assert one("a@x.newest")["verdict_reason"] == "domain_impossible"
    assert one("a@x.org", None, "invalid", "domain_impossible")["verdict"] == "valid", "by an older list"
    assert one("a@gmail.con")["verdict_reason"] == "likely_typo", "its suggestion says what was meant"


@pytest.mark.parametrize("state", ["mx", "implicit_mx"])
def test_a_top_level_domain_that_dns_knows_is_one_whatever_the_list_says(state):
    found = one("a@x.newest", asked(x_newest=state), "invalid", "domain_impossible")
    assert (found["verdict"], found["verdict_reason"]) == ("valid", None)
    assert found["score"] > 0
    for other in ("unknown", "not_found"):
        assert one("a@x.newest", asked(x_newest=other))["verdict"] == "invalid"


def test_what_letters_made_invalid_stays_so_and_an_old_verdict_of_a_domain_does_not():
    assert one("a@x.org", asked(x_org="mx"), "invalid", "local_part_syntax")["verdict"] == "invalid"
    assert one("a@x.org", asked(x_org="mx"), "invalid", "domain_not_found")["verdict"] == "valid"
    assert one("a@x.org", None, "risky", "disposable_domain")["verdict"] == "valid", "no longer on the list"


@pytest.mark.parametrize("typed", ['"info"@x.org', '"In\\fo+7"@x.org', '"a b"@x.org', "info@x.org", "ünï@x.org"])
def test_a_published_contact_has_the_score_that_its_address_had_when_it_came(typed):
    now = check(typed)
    found = one(now.address, None, now.verdict, now.verdict_reason)
    assert (found["verdict_reason"], found["score"]) == (now.verdict_reason, now.score)


def test_a_contact_without_an_address_keeps_its_verdict():
    found = one(None, asked(x_org="mx"))
    assert found == {"domain": None, "provider": None, "verdict": "valid", "verdict_reason": None, "score": None,
                     "suggestion": None}  # fmt: skip


def test_rows_stay_in_their_order_and_scores_sort_the_good_first():
    emails = ["x@mailinator.com", None, "a@x.org", "info@x.org", "info@mailinator.com", "a@gmial.com", "a@gone.org"]
    frame = pl.DataFrame({"email": emails, "verdict": ["valid"] * 7, "verdict_reason": [None] * 7})
    found = judged(frame.cast({"verdict_reason": pl.String}), asked(x_org="mx", gone_org="not_found"))
    assert found.schema == JUDGED_SCHEMA
    assert found["suggestion"].to_list()[5] == "a@gmail.com"
    order = frame.hstack(found.select("score")).drop_nulls("email").sort("score", descending=True)["email"].to_list()
    assert order == ["a@x.org", "info@x.org", "a@gmial.com", "x@mailinator.com", "info@mailinator.com", "a@gone.org"]


def test_the_provider_is_told_by_mx_and_before_it_is_known_by_the_big_ones_names():
    table = asked(firm_example="mx").with_columns(provider=pl.lit("google"))
    assert one("a@firm.example", table)["provider"] == "google"
    assert one("a@gmail.com")["provider"] == "google"
    assert one("a@x.org")["provider"] is None


def test_an_address_at_a_provider_of_free_mail_sorts_behind_one_of_a_domain_of_its_own():
    domains = asked(x_org="mx", gmail_com="mx", gmx_net="mx")
    own, *free = (one(email, domains) for email in ("a@x.org", "a@gmail.com", "a@gmx.net"))
    assert own["verdict"] == "valid" and all(0 < it["score"] < own["score"] and it["verdict"] == "valid" for it in free)
