"""Preflight as decisions: what DNS holds -> what passes, and the record that mends what does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest

from mailmill.pipelines.configuration.sending import IdentitySpec
from mailmill.pipelines.target.identities import sender_of
from mailmill.pipelines.target.preflight import DkimRecord, Finding, Sender, aligned, check, failures
from mailmill.pipelines.target.records import Question

KEY = DkimRecord(name="m1._domainkey.acme.example", domain="acme.example", text="v=DKIM1; k=ed25519; p=AbC+/=")
SENDER = Sender(
    from_domain="acme.example", return_path_domain="bounce.acme.example", dkim=(KEY,),
    public_url="https://t.acme.example/x",
)  # fmt: skip
GOOD: dict[Question, list[str]] = {
    ("bounce.acme.example", "MX"): ["mx.acme.example"],
    ("mx.acme.example", "AAAA"): ["2001:db8::25"],
    ("bounce.acme.example", "TXT"): ["verification=1", "v=spf1 include:relay.example -all"],
    ("relay.example", "TXT"): ["v=spf1 ip4:192.0.2.0/24 ip6:2001:db8::/32 ~all"],
    ("m1._domainkey.acme.example", "TXT"): ["v=DKIM1; k=ed25519; p=AbC +/="],
    ("_dmarc.acme.example", "TXT"): ["v=DMARC1; p=quarantine"],
    ("t.acme.example", "A"): ["192.0.2.7"],
}


@dataclass
class Zone:
    """Answers from a table; a name that is not in it has no records."""

    table: Mapping[Question, Sequence[str]]
    asked: list[Question] = field(default_factory=list)

    def records(self, questions: Sequence[Question]) -> Mapping[Question, Sequence[str]]:
        self.asked += questions
        return {question: self.table.get(question, ()) for question in questions}


def found(sender: Sender = SENDER, **changed: object) -> dict[str, Finding]:
    table = {**GOOD, **changed.get("table", {})}  # type: ignore[dict-item]
    return {one.check: one for one in check(sender, Zone(table))}


def test_a_domain_that_is_set_up_passes_every_check() -> None:
    assert {one.level for one in found().values()} == {"ok"} and failures(list(found().values())) == ""


@pytest.mark.parametrize(
    ("name", "question", "records", "publish"),
    [("return path", ("bounce.acme.example", "MX"), [], "bounce.acme.example. MX"),
     ("return path", ("bounce.acme.example", "MX"), ["."], "bounce.acme.example. MX"),
     ("SPF", ("bounce.acme.example", "TXT"), [], "v=spf1"),
     ("SPF", ("bounce.acme.example", "TXT"), ["v=spf1 +all"], "-all"),
     ("SPF", ("bounce.acme.example", "TXT"), ["v=spf1 a -all", "v=spf1 mx -all"], "-all"),
     ("DKIM", ("m1._domainkey.acme.example", "TXT"), [], KEY.text),
     ("DKIM", ("m1._domainkey.acme.example", "TXT"), ["v=DKIM1; p=other"], KEY.text),
     ("DKIM", ("m1._domainkey.acme.example", "TXT"), ["v=DKIM1; p="], KEY.text),
     ("DMARC", ("_dmarc.acme.example", "TXT"), ["v=spf1 -all"], "_dmarc.acme.example. TXT"),
     ("DMARC", ("_dmarc.acme.example", "TXT"), ["v=DMARC1; p=nothing"], "p=none"),
     ("tracking host", ("t.acme.example", "A"), [], "t.acme.example. A")],
)  # fmt: skip
def test_what_is_missing_fails_and_names_the_record(
    name: str, question: Question, records: list[str], publish: str
) -> None:
    findings = found(table={question: records})
    assert {check for check, one in findings.items() if one.level != "ok"} == {name}
    assert publish in findings[name].publish and name in failures(list(findings.values()))


@pytest.mark.parametrize(
    ("record", "others", "words"),
    [("v=spf1 -all", {}, "lets nobody send"),
     ("v=spf1 include:a.example -all", {"a.example": "v=spf1 -all"}, "lets nobody send"),
     ("v=spf1 include:bounce.acme.example -all", {}, "more than 10 look-ups"),
     ("v=spf1 " + "mx " * 11 + "-all", {}, "more than 10 look-ups"),
     ("v=spf1 include:a.example -all", {}, "a.example has no SPF record"),
     ("v=spf1 include: -all", {}, "cannot be read at 'include:'"),
     ("v=spf1 ip4:999.1 -all", {}, "cannot be read at 'ip4:999.1'"),
     ("v=spf1 ip5:192.0.2.1 -all", {}, "cannot be read at 'ip5:192.0.2.1'"),
     ("v=spf1 ip4:0.0.0.0/0 -all", {}, "lets everybody send"),
     ("v=spf1 redirect=a.example", {"a.example": "v=spf1 all"}, "lets everybody send"),
     ("v=spf1 a/0 -all", {}, "lets everybody send"), ("v=spf1 mx//0 -all", {}, "lets everybody send"),
     ("v=spf1; ip4:192.0.2.1 -all", {}, "has no SPF record"), ("v=spf1 a:/24 -all", {}, "cannot be read at 'a:/24'"),
     ("v=spf1 a:nothing.example -all", {}, "lets nobody send: nothing is found at a:nothing.example"),
     ("v=spf1 mx:t.acme.example -all", {}, "lets nobody send: nothing is found at mx:t.acme.example"),
     ("v=spf1 a:a.example a:b.example mx:c.example ip4:192.0.2.1 -all", {}, "counts as broken, as nothing is found")],
)  # fmt: skip
def test_an_spf_record_that_lets_nobody_everybody_or_cannot_be_evaluated_fails(
    record: str, others: dict[str, str], words: str
) -> None:
    table = {("bounce.acme.example", "TXT"): [record], **{(name, "TXT"): [text] for name, text in others.items()}}
    said = found(table=table)["SPF"]
    assert said.level == "failed" and words in said.found


@pytest.mark.parametrize(
    ("record", "others"),
    [("v=spf1 mx:bounce.acme.example/24 ?all", {}), ("V=SPF1 a:t.acme.example/24//64 exp=why.acme.example -ALL", {}),
     ("v=spf1 exists:%{i}._spf.acme.example -all", {}), ("v=spf1 include:%{d}.a.example -all", {}),
     ("v=spf1 redirect=a.example", {"a.example": "v=spf1 ip6:2001:db8::1 -all"}),
     ("v=spf1 include:a.example ~all",
      {"a.example": "v=spf1 include:b.example ~all", "b.example": "v=spf1 ip4:192.0.2.1"}),
     ("v=spf1 mx ~all redirect=nowhere.example", {}), ("v=spf1 a:%{d}.a.example -all", {}),
     ("v=spf1 a:nothing.example mx:t.acme.example ip4:192.0.2.1 -all", {})],
)  # fmt: skip
def test_an_spf_record_that_lets_some_send_passes(record: str, others: dict[str, str]) -> None:
    table = {("bounce.acme.example", "TXT"): [record], **{(name, "TXT"): [text] for name, text in others.items()}}
    assert found(table=table)["SPF"].level == "ok"


@pytest.mark.parametrize(
    ("from_domain", "policy", "level"),
    [("acme.example", "v=DMARC1; p=reject; adkim=s; aspf=s", "ok"),  # the key is its own
     ("shop.acme.example", "v=DMARC1; p=reject; adkim=s; aspf=s", "failed"),
     ("shop.acme.example", "v=DMARC1; p=reject; adkim=s", "ok"),  # by the return path
     ("shop.acme.example", "v=DMARC1; p=reject; aspf=s", "ok")],
)  # fmt: skip
def test_a_policy_of_strict_alignment_is_met_by_one_of_the_two(from_domain: str, policy: str, level: str) -> None:
    sender = Sender(
        from_domain=from_domain, return_path_domain="bounce.acme.example", dkim=(KEY,),
        public_url="https://t.acme.example",
    )  # fmt: skip
    assert found(sender, table={("_dmarc.acme.example", "TXT"): [policy]})["DMARC"].level == level


@pytest.mark.parametrize(
    "record",
    ["v=DKIM1; k=ed25519; t=s; h=sha1:sha256; s=email; n=our key; p=AbC+/=", " k=ed25519;p=AbC\t+/= ; "],
)
def test_a_key_may_say_more_than_we_do_as_long_as_verifiers_take_it(record: str) -> None:
    assert found(table={("m1._domainkey.acme.example", "TXT"): [record]})["DKIM"].level == "ok"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_an_installation_on_loopback_is_told_that_nobody_else_reaches_it(host: str) -> None:
    sender = replace(SENDER, public_url=f"https://{host}:8025")
    assert found(sender)["tracking host"].level == "warning"


def test_a_from_domain_beyond_ascii_is_what_dns_calls_it() -> None:
    """As the From header has it, and as the identity has to write its other domains."""
    identity = IdentitySpec(
        kind="identity", tenant="acme", slug="news", from_name="A", from_address="news@B\u00fccher.example",
        return_path_domain="bounce.xn--bcher-kva.example",
    )  # fmt: skip
    assert sender_of(identity, str, "").from_domain == "xn--bcher-kva.example"


def test_several_policies_of_one_domain_end_the_search() -> None:
    sender = Sender(
        from_domain="news.acme.example", return_path_domain="bounce.acme.example", dkim=(KEY,),
        public_url="https://t.acme.example",
    )  # fmt: skip
    said = found(sender, table={("_dmarc.news.acme.example", "TXT"): ["v=DMARC1; p=none", "v=DMARC1; p=reject"]})
    assert said["DMARC"].level == "failed" and "several" in said["DMARC"].found


def test_a_policy_of_the_domain_above_counts() -> None:
    sender = Sender(
        from_domain="news.shop.acme.example", return_path_domain="bounce.acme.example", dkim=(KEY,),
        public_url="https://t.acme.example",
    )  # fmt: skip
    assert found(sender)["DMARC"].level == "ok"
    assert found(sender, table={("_dmarc.acme.example", "TXT"): []})["DMARC"].level == "failed"


def test_without_a_key_the_relay_has_to_sign_and_that_is_said() -> None:
    sender = Sender(
        from_domain="acme.example",
        return_path_domain="bounce.acme.example",
        dkim=(),
        public_url="https://t.acme.example",
    )
    assert found(sender)["DKIM"].level == "warning"


def test_another_organisations_return_path_or_key_is_not_aligned() -> None:
    foreign = DkimRecord(name="m1._domainkey.other.example", domain="other.example", text=KEY.text)
    sender = Sender(
        from_domain="acme.example", return_path_domain="bounce.other.example", dkim=(foreign,),
        public_url="https://t.acme.example",
    )  # fmt: skip
    findings = found(sender)
    assert findings["return path"].level == findings["DKIM"].level == "failed"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("a.org", "a.org", True), ("b.a.org", "a.org", True), ("a.org", "c.b.a.org", True), ("b.a.org", "c.a.org", True),
     ("a.org", "b.org", False), ("xa.org", "a.org", False), ("a.co.uk", "b.co.uk", False),
     ("x.a.co.uk", "y.a.co.uk", True), ("org", "a.org", False)],
)  # fmt: skip
def test_alignment_is_that_of_the_registered_domain(one: str, other: str, same: bool) -> None:
    assert aligned(one, other) == aligned(other, one) == same
