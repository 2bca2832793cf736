"""Preflight as decisions: what DNS holds -> what passes, and the record that mends what does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from mailmill.pipelines.target.preflight import DkimRecord, Finding, Question, Sender, aligned, check, failures

KEY = DkimRecord(name="m1._domainkey.acme.example", domain="acme.example", text="v=DKIM1; k=ed25519; p=AbC+/=")
SENDER = Sender(
    from_domain="acme.example", return_path_domain="bounce.acme.example", dkim=(KEY,),
    public_url="https://t.acme.example/x",
)  # fmt: skip
GOOD: dict[Question, list[str]] = {
    ("bounce.acme.example", "MX"): ["mx.acme.example"],
    ("bounce.acme.example", "TXT"): ["verification=1", "v=spf1 include:relay.example -all"],
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
