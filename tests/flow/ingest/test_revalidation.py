"""Validating again: what is due is asked for once, what older rules examined is examined again."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import dagster as dg
import polars as pl
import pytest
from dns_server import Zone, serving
from typer.testing import CliRunner

from mailmill import definitions  # noqa: F401 - its filters silence what Dagster calls preview
from mailmill.assets import validation
from mailmill.cli import check as verb
from mailmill.cli.app import app
from mailmill.errors import Misconfigured
from mailmill.io.dns import DnsResolver, Server
from mailmill.io.postgres import explain
from mailmill.io.postgres.revalidation import RevalidationStore
from mailmill.pipelines.ingest.revalidation import Revalidated, revalidate
from mailmill.pipelines.target.audiences import SUPPRESSION_SCHEMA, judged

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
ZONE = {
    "firm.org": [("MX", "5 aspmx.l.google.com")],
    "host.org": [("A", "192.0.2.1")],
    "null.org": [("MX", "0 .")],
}
PEOPLE = "email\na@firm.org\nb@firm.org\nc@host.org\nd@null.org\ne@gone.org\nf@shaky.org\n"


@pytest.fixture(autouse=True)
def _no_domains(mill):
    with mill.database.transaction() as conn:
        conn.execute("TRUNCATE domains")


@pytest.fixture
def zone():
    return Zone(ZONE, trouble={"shaky.org": ["servfail", "servfail"]})


@pytest.fixture
def resolver(zone):
    with serving(zone) as port:
        yield DnsResolver(servers=(Server(address="127.0.0.1", port=port),), timeout_s=20.0)


def again(mill, resolver, *, now: datetime = NOW) -> Revalidated:
    store = RevalidationStore(database=mill.database)
    return revalidate(
        mill.tenant(), domains=store, contacts=store, resolver=resolver, now=lambda: now, progress=lambda _: None
    )


def states(mill) -> dict[str, str]:
    return {row["name"]: row["state"] for row in mill.rows("SELECT name, state FROM domains")}


def test_F17_each_domain_is_asked_for_once_and_again_when_its_answer_has_run_out(mill, zone, resolver):
    mill.read(mill.source(), PEOPLE)
    done = again(mill, resolver)
    assert done.states == {"mx": 1, "implicit_mx": 1, "null_mx": 1, "not_found": 1, "unknown": 1}
    assert (done.problems, done.domains_changed) == ({"servfail": 1}, 5)
    assert zone.asked["MX firm.org udp"] == 1, "two contacts, one question"
    assert again(mill, resolver).domains_asked == 0
    soon = again(mill, resolver, now=NOW + timedelta(minutes=6))
    assert soon.states == {"not_found": 1}, "what gave no answer is asked for again soon, and now there is one"
    assert again(mill, resolver, now=NOW + timedelta(hours=3)).domains_asked == 5
    zone.trouble["firm.org"] = ["always servfail"]
    later = again(mill, resolver, now=NOW + timedelta(hours=6))
    assert later.states["unknown"] == 1 and states(mill)["firm.org"] == "mx", "an old answer stands for a while"


def test_without_a_resolver_nothing_is_asked_and_the_answer_says_so(mill):
    mill.read(mill.source(), PEOPLE)
    done = again(mill, None)
    assert (done.asked_dns, done.domains_asked, states(mill)) == (False, 0, {})


def test_contacts_that_older_rules_examined_are_examined_again_once(mill):
    mill.read(mill.source(), "email,phone,country\ninfo@x.org,,\nann@x.org,,\n,5552345678,US\n")
    with mill.database.transaction() as conn:
        conn.execute("UPDATE contacts SET verdict = 'valid', verdict_reason = NULL")
        conn.execute("UPDATE contacts SET verdict = 'risky', verdict_reason = 'old' WHERE email = 'ann@x.org'")
    done = again(mill, None)
    assert (done.contacts_examined, done.contacts_changed) == (2, 2)
    assert {key: (row["verdict"], row["verdict_reason"]) for key, row in mill.contacts().items()} == {
        "ann@x.org": ("valid", None),
        "info@x.org": ("risky", "role_address"),
        "+15552345678": ("valid", None),
    }
    assert again(mill, None).contacts_examined == 0, "by the same rules there is nothing to do"


def test_a_run_that_was_killed_half_way_goes_on(mill, zone, resolver):
    mill.read(mill.source(), "email\n" + "".join(f"p{n}@d{n}.org\n" for n in range(30)))
    store = RevalidationStore(database=mill.database)

    class Killed(RevalidationStore):
        def settle(self, answers, now):
            super().settle(answers[:10], now)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        revalidate(
            mill.tenant(), domains=Killed(database=mill.database), contacts=store, resolver=resolver,
            now=lambda: NOW, progress=lambda _: None,
        )  # fmt: skip
    assert len(states(mill)) == 10
    assert again(mill, resolver).domains_asked == 20


def test_P07_F17_a_domain_that_takes_no_mail_keeps_its_people_out_of_every_audience_and_explain_says_so(mill, resolver):
    mill.read(mill.source(), PEOPLE)
    again(mill, resolver)
    members = judged(mill.generation().lazy(), pl.DataFrame(schema=SUPPRESSION_SCHEMA))
    excluded = dict(members.select("email", "excluded").iter_rows())
    assert excluded == {
        "a@firm.org": None, "b@firm.org": None, "c@host.org": None, "f@shaky.org": None,
        "d@null.org": "invalid", "e@gone.org": "invalid",
    }  # fmt: skip
    with mill.database.transaction() as conn:
        told = explain.by_key(conn, mill.lake, tenant_id=mill.tenant(), tenant="acme", key="e@gone.org")
    assert told is not None and told.contact is not None
    assert (told.contact["verdict"], told.contact["verdict_reason"]) == ("invalid", "domain_not_found")


def materialized(mill, resolver, **config) -> dict:
    """One run of the asset. Out: its numbers."""
    here = SimpleNamespace(database=mill.database, lake=mill.lake, ingest=mill.store, resolver=resolver)
    with dg.instance_for_test() as instance:
        instance.add_dynamic_partitions("tenants", ["acme"])
        result = dg.materialize(
            [validation.revalidated_contacts], selection=[validation.revalidated_contacts], partition_key="acme",
            instance=instance, resources={"mill": here},
            run_config={"ops": {"revalidated_contacts": {"config": config}}},
        )  # fmt: skip
        [materialization] = result.asset_materializations_for_node("revalidated_contacts")
    return {name: value.value for name, value in materialization.metadata.items()}


def test_the_asset_publishes_what_changed_and_shows_no_address(mill, resolver):
    mill.read(mill.source(), PEOPLE)
    mill.generation()
    numbers = materialized(mill, resolver)
    assert (numbers["domains_asked"], numbers["contacts_examined"], numbers["published"]) == (5, 6, True)
    assert "@" not in json.dumps({name: value for name, value in numbers.items() if name != "chart"})


def test_what_a_killed_run_has_found_out_is_published_by_the_next_one_that_finds_nothing(mill, resolver):
    mill.read(mill.source(), PEOPLE)
    mill.generation()
    again(mill, resolver, now=datetime.now(UTC))  # and no publication
    numbers = materialized(mill, resolver)
    assert (numbers["domains_asked"], numbers["contacts_changed"], numbers["published"]) == (0, 0, True)
    assert materialized(mill, resolver)["published"] is False
    shown = dict(mill.generation().select("email", "verdict").iter_rows())
    assert shown["e@gone.org"] == "invalid"


def test_what_a_wrong_resolver_said_is_asked_for_anew_at_a_persons_word(mill, resolver):
    mill.read(mill.source(), PEOPLE)
    with serving(Zone({})) as port:  # of a captive network
        wrong = DnsResolver(servers=(Server(address="127.0.0.1", port=port),), timeout_s=20.0)
        assert materialized(mill, wrong)["states"] == {"not_found": 5}
    assert materialized(mill, resolver)["domains_asked"] == 0
    assert materialized(mill, resolver, domains=["firm.org"])["states"] == {"mx": 1}
    shown = dict(mill.generation().select("email", "verdict").iter_rows())
    assert (shown["a@firm.org"], shown["c@host.org"]) == ("valid", "invalid")
    with pytest.raises(Misconfigured, match=r"no contact of this tenant is at other\.org"):
        materialized(mill, resolver, domains=["firm.org", "other.org"])
    assert materialized(mill, resolver, all_domains=True)["domains_asked"] == 5
    assert dict(mill.generation().select("email", "verdict").iter_rows())["c@host.org"] == "valid"
    with pytest.raises(Misconfigured, match="no DNS can be asked"):
        materialized(mill, None, all_domains=True)


@pytest.fixture
def check(monkeypatch):
    def run(address: str, resolver: DnsResolver | None, code: int = 0) -> dict:
        monkeypatch.setattr(verb, "installation", lambda: SimpleNamespace(resolver=resolver))
        result = CliRunner().invoke(app, ["check", address, "--json"])
        assert result.exit_code == code, result.output
        shown = CliRunner().invoke(app, ["check", address])
        assert shown.exit_code == code and json.loads(result.stdout)["verdict"] in shown.stdout
        return json.loads(result.stdout)

    return run


def test_check_tells_syntax_domain_mx_provider_score_and_suggestion(check, zone, resolver):
    zone.trouble["shaky.org"] = ["always servfail"]
    good = check("Ann <Ann@FIRM.org>", resolver)
    assert (good["verdict"], good["provider"], good["score"], good["address"]) == (
        "valid",
        "google",
        100,
        "Ann@firm.org",
    )
    assert good["mail"] == {"state": "mx", "exchangers": ["aspmx.l.google.com"], "problem": None}
    gone = check("ann@gmial.org.gone.org", resolver, code=1)
    assert (gone["verdict_reason"], gone["score"]) == ("domain_not_found", 0)
    assert check("ann@null.org", resolver, code=1)["verdict_reason"] == "domain_refuses_mail"
    shaky = check("ann@shaky.org", resolver)
    assert (shaky["verdict"], shaky["mail"]["state"], shaky["mail"]["problem"]) == ("valid", "unknown", "servfail")
    assert check("a@@b", resolver, code=1)["verdict_reason"] == "local_part_syntax"


def test_check_says_that_no_dns_was_asked(check):
    typo = check("ann@gmial.com", None)
    assert (typo["verdict_reason"], typo["suggestion"]) == ("likely_typo", "ann@gmail.com")
    assert typo["mail"]["state"] == "unasked" and "MAILMILL_RESOLVER" in typo["mail"]["problem"]
    assert check("Info@BÜCHER.org", None)["verdict_reason"] == "role_address"
