"""The sandbox's rules: who fits which, and what a wrong file gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailmill.errors import Misconfigured
from mailmill.sandbox.rules import Effect, chance, read_rules


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return tmp_path / "sandbox.yaml"


def test_the_first_rule_that_fits_decides(written: Path) -> None:
    written.write_text(
        "rules:\n- {name: a, match: '*@X.example'}\n- {name: b, regex: '^ann'}\n- {name: c, share: 1.0}\n"
    )
    rules = read_rules(written)
    names = [rules.of(who).name for who in ("ann@x.example", "ann@y.example", "bob@y.example")]
    assert names == ["a", "b", "c"]


def test_match_regex_and_share_of_one_rule_have_to_fit_together(written: Path) -> None:
    written.write_text(
        "rules:\n- {name: a, match: '*@x.example', regex: '^ann', share: 1.0}\n- {match: '*@x.example', share: 0}\n"
    )
    rules = read_rules(written)
    assert [rules.of(who).name for who in ("ann@x.example", "bob@x.example")] == ["a", "everyone else"]


def test_a_share_is_the_same_at_every_run_and_about_as_large_as_it_says(written: Path) -> None:
    written.write_text("rules: [{share: 0.2}, {share: 0.5}]")
    rules = read_rules(written)
    names = [rules.of(f"p{n}@x.example").name for n in range(5000)]
    assert 850 < names.count("rule 1") < 1150
    assert 1800 < names.count("rule 2") < 2200  # half of the rest, drawn on its own
    assert names == [rules.of(f"P{n}@X.example").name for n in range(5000)]


@pytest.mark.parametrize(
    ("tag", "rule"),
    [("bounce", "tag bounce"), ("defer", "tag defer"), ("drop", "tag drop"), ("accept", "tag accept")],
)
def test_a_tag_in_the_local_part_chooses_a_default_rule(tag: str, rule: str) -> None:
    assert read_rules().of(f"ann.b+{tag}@example.org").name == rule


def test_the_default_rules_take_most_mail() -> None:
    rules = read_rules()
    refused = sum(rules.of(f"p{n}@x.example").reject is not None for n in range(10_000))
    assert 50 < refused < 200


def test_a_delivery_is_reported_unless_it_bounces(written: Path) -> None:
    written.write_text(
        "rules: [{match: a@*, then: [open]}, {match: b@*, then: [bounce_later]}, {report_delivered: false}]"
    )
    rules = read_rules(written)
    assert [[one.do for one in rules.of(f"{who}@x.y").effects] for who in "abc"] == [
        ["deliver", "open"],
        ["bounce_later"],
        [],
    ]


def test_a_delay_between_two_numbers_is_the_same_for_the_same_recipient() -> None:
    effect = Effect(do="open", after_s=(1, 2))
    delays = {effect.delay_s(f"p{n}@x.example") for n in range(100)}
    assert all(1 <= delay < 2 for delay in delays)
    assert len(delays) == 100
    assert effect.delay_s("p1@x.example") == 1 + chance("delay open", "p1@x.example")


@pytest.mark.parametrize(
    ("text", "place", "about"),
    [
        ("rules: [", ":1", "YAML"),
        ("- a", ":1", "the document"),
        ("rules:\n- {match: a}\n- {mach: b}\n", ":3", "mach"),
        ("rules:\n- {defer: {code: 550}}\n", ":2", "defer.code"),
        ("rules:\n- {defer: {}, reject: {}}\n", ":2", "one of"),
        ("rules:\n- {reject: {}, then: [open]}\n", ":2", "then"),
        ("rules:\n- {regex: '('}\n", ":2", "regex"),
        ("rules:\n- {then: [explode]}\n", ":2", "then.0.do"),
        ("rules:\n- {share: 2}\n", ":2", "share"),
    ],
)
def test_a_wrong_file_is_refused_with_line_and_field(written: Path, text: str, place: str, about: str) -> None:
    written.write_text(text)
    with pytest.raises(Misconfigured) as refused:
        read_rules(written)
    assert str(refused.value.place).endswith(place)
    assert about in str(refused.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured):
        read_rules(tmp_path / "none.yaml")
