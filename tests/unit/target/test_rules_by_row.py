"""A compiled rule against a reference that reads the rule itself, contact by contact, and shares nothing with it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from mailmill.pipelines.ingest.generations import CONTACTS_SCHEMA
from mailmill.pipelines.target.rules import SUBJECTS
from mailmill.pipelines.target.segments import compile_rule, members

NOW = datetime(2026, 3, 29, 12, tzinfo=UTC)
DAY = timedelta(days=1)
US = timedelta(microseconds=1)
Contact = Mapping[str, Any]
FOLDED = ("category", "provider")  # compared without case

WORDS = ["de", "fr", "a", "A", "valid", "role_address", "x@a.example", "X@a.example"]
DAYS = [0.5, 1, 30, 30.25, 400]
EDGES = [NOW + sign * days * DAY + by for days in DAYS for sign in (-1, 1) for by in (-US, timedelta(0), US)]
MOMENTS = st.sampled_from([*EDGES, NOW, NOW - US, NOW + US, datetime(1970, 1, 1, tzinfo=UTC)])
TYPED = st.sampled_from(
    [
        "7", "7.0", " 7", "+7.5", "-3", "1e2", "nan", "inf", "", "seven", "yes", "FALSE", "1", " true ", "off",
        "2026-03-01", "2026-02-30", "2026-02-27T12:00", "2026-02-27T11:59:59Z", "2026-02-27 13:00:00+01:00",
        "2026-02-27T13:00+01", "2026-03-30T12:00:00.250Z", "2026-13-01", "01.03.2026",
        'quoted "text" \\ x', "Müller", "7\n", ".5", "5.",
    ]
)  # fmt: skip


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


def column(kind: pl.DataType) -> st.SearchStrategy[Any]:
    if kind == pl.List(pl.String()):
        return maybe(st.lists(maybe(st.sampled_from(["news", "vip", "trial"])), max_size=3))
    if kind == pl.Datetime("us", "UTC"):
        return maybe(MOMENTS)
    if kind == pl.Int16():
        return maybe(st.integers(-2, 102))
    return maybe(st.sampled_from(WORDS))


CONTACTS = st.fixed_dictionaries(
    {
        **{name: column(kind) for name, kind in CONTACTS_SCHEMA.items() if name != "contact_id"},
        "fields": maybe(st.dictionaries(st.sampled_from(["size", "since", "size2"]), TYPED).map(json.dumps)),
        "match_key": st.sampled_from(["x@a.example", "a@a.example"]),
        "aliases": maybe(st.lists(maybe(st.sampled_from(["x@a.example", "y@a.example", "+4930"])), max_size=3)),
        "provider": maybe(st.sampled_from(["a", "fr"])),
        "phone": maybe(st.sampled_from(["+4930", "+49", "+12025550", "+493012345"])),
    }
)
NUMBER_OF_DAYS = st.sampled_from(DAYS)
INSTANT = MOMENTS.map(lambda at: at.isoformat()) | st.sampled_from(["2026-03-01", "2026-02-27T13:00:00+01:00"])
EXISTS = st.booleans()
SPANS = {"within_days": NUMBER_OF_DAYS, "not_within_days": NUMBER_OF_DAYS, "at_least_days_ago": NUMBER_OF_DAYS}
DATES = {**SPANS, "before": INSTANT, "after": INSTANT}
FIGURES = {"at_least": st.integers(-3, 103), "at_most": st.floats(-3, 103)}


def one_or_more(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return values | st.lists(values, min_size=1, max_size=3)


def some(operators: Mapping[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries({}, optional=dict(operators)).filter(bool)


def asked(subject: str) -> st.SearchStrategy[Any]:
    kind = SUBJECTS[subject][0]
    if kind == "list":
        tags = one_or_more(st.sampled_from(["news", "vip"]))
        return tags | some({"any": tags, "all": tags, "none": tags, "exists": EXISTS})
    if kind == "number":
        figures = one_or_more(st.integers(-3, 103))
        return figures | some({"in": figures, "not": figures, "exists": EXISTS, **FIGURES})
    if kind == "date":
        return some(DATES)
    if kind == "engagement":
        return st.sampled_from(["never", "ever"]) | some({**DATES, "exists": EXISTS})
    words = {
        "phone_code": ["+49", "+493", "+1"], "language": ["de", "fr"], "country": ["DE"], "time_zone": ["UTC"],
        "domain": ["a.example"], "email": ["x@a.example", "X@A.example", "a@a.example"], "phone": ["+493012345"],
        "source": ["fair", "desk"], "verdict": ["valid", "risky"], "consent": ["withdrawn"], "reason": ["role_address"],
    }.get(subject, WORDS)  # fmt: skip
    values = one_or_more(st.sampled_from(words))
    return values | some({"in": values, "not": values, "exists": EXISTS})


TYPES = st.sampled_from([7, 7.5, 100, True, False, "7", "Müller", "yes"])
FIELD = one_or_more(TYPES) | some(
    {
        "in": one_or_more(TYPES), "not": one_or_more(TYPES), "exists": EXISTS,
        "starts_with": st.sampled_from(["7", "M"]),
        "contains": st.sampled_from(['"', "0", "\\"]), **FIGURES, **DATES, "within_next_days": NUMBER_OF_DAYS,
    }
)  # fmt: skip
LEAVES = st.one_of(*(asked(subject).map(lambda value, subject=subject: {subject: value}) for subject in SUBJECTS)) | (
    st.dictionaries(st.sampled_from(["size", "since"]), FIELD, min_size=1).map(lambda fields: {"field": fields})
)
RULES = st.recursive(
    LEAVES,
    lambda parts: st.dictionaries(
        st.sampled_from(["all", "any", "none"]), st.lists(parts, min_size=1, max_size=3), min_size=1, max_size=2
    ),
    max_leaves=6,
)


# ---------------------------------------------------------------- the reference


def holds(rule: Mapping[str, Any], contact: Contact) -> bool:
    return all(part(key, value, contact) for key, value in rule.items())


def part(key: str, value: Any, contact: Contact) -> bool:
    if key in ("all", "any", "none"):
        found = [holds(one, contact) for one in value]
        return {"all": all(found), "any": any(found), "none": not any(found)}[key]
    if key == "field":
        fields = json.loads(contact["fields"]) if contact["fields"] else {}
        return all(leaf("custom", fields.get(name), wanted) for name, wanted in value.items())
    kind, name = SUBJECTS[key]
    held = contact[name]
    if key == "email":  # of a person any address
        keys = [contact["match_key"] if held is not None else None, *(contact["aliases"] or [])]
        asked = value.items() if isinstance(value, Mapping) else [("in", value)]
        return all(
            (held is not None) == wanted if operator == "exists"
            else any(compared("folded", one, "in", wanted) for one in keys) == (operator == "in")
            for operator, wanted in asked
        )  # fmt: skip
    if key in FOLDED:
        return leaf("folded", held, value)
    return leaf(kind, held, value)


def leaf(kind: str, held: Any, wanted: Any) -> bool:
    if wanted in ("never", "ever") and kind == "engagement":
        return (held is not None) == (wanted == "ever")
    if not isinstance(wanted, Mapping):
        wanted = {"any" if kind == "list" else "in": wanted}
    return all(compared(kind, held, operator, value) for operator, value in wanted.items())


def compared(kind: str, held: Any, operator: str, value: Any) -> bool:
    if operator == "exists":
        return bool(held if kind == "list" else held is not None) == value
    if operator == "not":
        return not compared(kind, held, "in", value)
    if operator == "not_within_days":
        return not compared(kind, held, "within_days", value)
    values = value if isinstance(value, list) else [value]
    if kind == "list":
        found = [one in (held or []) for one in values]
        return {"any": any(found), "all": all(found), "none": not any(found)}[operator]
    if held is None:
        return False
    if operator == "in":
        return any(held.startswith(one) if kind == "phone" else equal(kind, held, one) for one in values)
    if operator in ("starts_with", "contains"):
        return bool(held.startswith(value) if operator == "starts_with" else value in held)
    if operator in ("at_least", "at_most"):
        number = as_number(held)
        return number is not None and (number >= value if operator == "at_least" else number <= value)
    return dated(kind, as_moment(held), operator, value)


def equal(kind: str, held: Any, value: Any) -> bool:
    if kind == "custom" and isinstance(value, bool):
        return held.strip().lower() in (("true", "yes", "on", "1") if value else ("false", "no", "off", "0"))
    if kind == "custom" and not isinstance(value, str):
        return as_number(held) == value
    return bool(held.lower() == value.lower() if kind == "folded" else held == value)


def dated(kind: str, at: datetime | None, operator: str, value: Any) -> bool:
    if at is None:
        return False
    if operator in ("before", "after"):
        bound = as_moment(value)
        assert bound is not None
        return at < bound if operator == "before" else at >= bound
    span = timedelta(days=value)
    if operator == "at_least_days_ago":
        return at <= NOW - span
    if operator == "within_next_days":
        return NOW < at <= NOW + span
    return at >= NOW - span and (kind != "custom" or at <= NOW)


def as_number(held: Any) -> float | None:
    if isinstance(held, int):
        return held
    return float(held) if re.fullmatch(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", held) else None


def as_moment(held: Any) -> datetime | None:
    if isinstance(held, datetime):
        return held
    try:
        at = datetime.fromisoformat(held.strip())
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


@settings(max_examples=150)
@given(st.lists(CONTACTS, min_size=1, max_size=12), RULES)
def test_a_compiled_rule_says_what_reading_it_for_each_contact_says(contacts: list[dict[str, Any]], rule: Any) -> None:
    rows = [{"contact_id": number, **contact} for number, contact in enumerate(contacts)]
    frame = pl.DataFrame(rows, schema=CONTACTS_SCHEMA)
    expected = [row["contact_id"] for row in rows if holds(rule, row)]
    told = frame.select("contact_id", held=compile_rule(rule, NOW))
    assert told["held"].null_count() == 0
    assert told.filter("held")["contact_id"].to_list() == expected
    assert members(frame.lazy(), rule, NOW).collect()["contact_id"].to_list() == expected


def test_a_tag_that_a_contact_has_twice_counts_once():
    frame = pl.DataFrame([{"contact_id": 1, "tags": ["news", "news"]}], schema=CONTACTS_SCHEMA)
    told = [frame.select(compile_rule({"tag": {"all": tags}}, NOW)).item() for tags in ("news", ["news", "vip"])]
    assert told == [True, False]
