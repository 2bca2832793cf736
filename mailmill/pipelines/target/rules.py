"""The grammar of a segment's rule: what a person may write, checked word by word. docs/segments.md explains it.

A rule is a mapping. Its keys are groups (`all`, `any`, `none`, each with a list of rules) and subjects (`tag`,
`country`, `opened` …, each with what they are compared with); several keys in one mapping must all hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Literal
from zoneinfo import available_timezones

Kind = Literal["text", "number", "list", "phone", "date", "engagement"]
Place = tuple[str | int, ...]
Value = str | float | bool | datetime | tuple[str, ...]

GROUPS = ("all", "any", "none")
# what can be asked about a contact -> how it is compared, and the column of the contacts generation that answers
SUBJECTS: dict[str, tuple[Kind, str]] = {
    "tag": ("list", "tags"),
    "source": ("list", "sources"),
    "language": ("text", "language"),
    "category": ("text", "category"),
    "country": ("text", "country"),
    "time_zone": ("text", "time_zone"),
    "domain": ("text", "email"),
    "verdict": ("text", "verdict"),
    "phone_code": ("phone", "phone"),
    "first_seen": ("date", "first_seen"),
    "last_seen": ("date", "last_seen"),
    "created": ("date", "created_at"),
    "mailed": ("engagement", "last_accepted"),
    "opened": ("engagement", "last_opened"),
    "clicked": ("engagement", "last_clicked"),
    "bounced": ("engagement", "last_bounced"),
}
OPERATORS: dict[Kind, tuple[str, ...]] = {
    "text": ("in", "not", "exists"),
    "number": ("in", "not", "exists", "starts_with", "contains", "at_least", "at_most"),
    "list": ("any", "all", "none", "exists"),
    "phone": ("in", "not", "exists"),
    "date": ("within_days", "not_within_days", "before", "after"),
    "engagement": ("within_days", "not_within_days", "before", "after", "exists"),
}
MAX_DEPTH, MAX_LEAVES, MAX_VALUES = 16, 500, 1000
MAX_DAYS = 36_500
_FIELD = re.compile(r"^[a-z][a-z0-9_]{0,62}$")
_SHAPES: dict[str, tuple[re.Pattern[str], str]] = {
    "language": (re.compile(r"^[a-z]{2}$"), "two letters of ISO 639-1, such as de"),
    "country": (re.compile(r"^[A-Z]{2}$"), "two letters of ISO 3166-1, such as DE"),
    "phone_code": (re.compile(r"^\+[1-9]\d{0,14}$"), "the first digits of the number in quotes, such as '+49'"),
    "domain": (re.compile(r"^[a-z0-9.-]+\.[a-z0-9-]+$"), "a domain, such as example.org"),
    "verdict": (re.compile(r"^(valid|risky|invalid)$"), "valid, risky or invalid"),
}


class RuleError(ValueError):
    """A rule nobody can follow. `place` leads to it from the rule's top, `message` says what is allowed there."""

    def __init__(self, message: str, place: Place) -> None:
        self.message, self.place = message, place
        super().__init__(f"{written('rule', place)}: {message}")


def written(root: str, place: Place) -> str:
    """A place as people write it: rule.all[1].country."""
    return root + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison: the operator and what to compare with."""

    operator: str
    value: Value


@dataclass(frozen=True, slots=True)
class Leaf:
    """What is asked about one column. `custom` names the custom field; all conditions must hold."""

    kind: Kind
    column: str
    conditions: tuple[Condition, ...]
    custom: str | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """all: every part holds; any: at least one does; none: not one does."""

    quantifier: Literal["all", "any", "none"]
    parts: tuple[Group | Leaf, ...]


def parse(rule: Mapping[str, Any]) -> Group:
    """The rule as a tree.

    Raises: RuleError with the place of the first thing that is wrong.
    """
    tree = _group_of(rule, (), 0)
    if sum(1 for _ in leaves(tree)) > MAX_LEAVES:
        raise RuleError(f"more than {MAX_LEAVES} comparisons", ())
    return tree


def leaves(node: Group | Leaf) -> Iterator[Leaf]:
    """Every comparison of a tree."""
    if isinstance(node, Leaf):
        yield node
    else:
        for part in node.parts:
            yield from leaves(part)


def _group_of(rule: Any, place: Place, depth: int) -> Group:
    if not isinstance(rule, Mapping) or not rule:
        raise RuleError("a mapping is needed here, such as {tag: newsletter} or {all: [...]}", place)
    if depth > MAX_DEPTH:
        raise RuleError(f"nested deeper than {MAX_DEPTH}", place)
    parts: list[Group | Leaf] = []
    for key, value in rule.items():
        here = (*place, str(key))
        if key in GROUPS:
            parts.append(_parts(key, value, here, depth))
        elif key == "field":
            parts.extend(_custom(value, here))
        elif key in SUBJECTS:
            kind, column = SUBJECTS[key]
            parts.append(Leaf(kind, column, _conditions(kind, str(key), value, here)))
        else:
            raise RuleError(f"unknown; allowed are {', '.join((*GROUPS, *SUBJECTS, 'field'))}", here)
    return Group("all", tuple(parts))


def _parts(quantifier: Literal["all", "any", "none"], value: Any, place: Place, depth: int) -> Group:
    if not isinstance(value, list | tuple):
        raise RuleError("a list of rules is needed here", place)
    if not value and quantifier != "all":  # `all: []` is every contact, said on purpose
        raise RuleError("an empty list says nothing; `all: []` is every contact", place)
    return Group(quantifier, tuple(_group_of(part, (*place, i), depth + 1) for i, part in enumerate(value)))


def _custom(value: Any, place: Place) -> Iterator[Leaf]:
    if not isinstance(value, Mapping) or not value:
        raise RuleError("custom fields are needed here, such as {company_size: {at_least: 50}}", place)
    for name, wanted in value.items():
        here = (*place, str(name))
        if not isinstance(name, str) or not _FIELD.match(name):
            raise RuleError("a custom field has small letters, digits and underscores", here)
        yield Leaf("number", "fields", _conditions("number", "field", wanted, here), custom=name)


def _conditions(kind: Kind, subject: str, value: Any, place: Place) -> tuple[Condition, ...]:
    if kind == "engagement" and value in ("never", "ever"):
        return (Condition("exists", value == "ever"),)
    if not isinstance(value, Mapping):
        if kind in ("date", "engagement"):
            words = " (or never, ever)" if kind == "engagement" else ""
            raise RuleError(f"a comparison is needed here, such as {{within_days: 30}}{words}", place)
        return (Condition("any" if kind == "list" else "in", _values(subject, value, place)),)
    if not value:
        raise RuleError(f"a comparison is needed here: {', '.join(OPERATORS[kind])}", place)
    for operator in value:
        if operator not in OPERATORS[kind]:
            raise RuleError(f"unknown; allowed are {', '.join(OPERATORS[kind])}", (*place, str(operator)))
    return tuple(Condition(op, _operand(op, subject, what, (*place, op))) for op, what in value.items())


def _operand(operator: str, subject: str, value: Any, place: Place) -> Value:
    match operator:
        case "exists":
            if not isinstance(value, bool):
                raise RuleError("true or false is needed here", place)
            return value
        case "within_days" | "not_within_days":
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_DAYS:
                raise RuleError(f"a number of days is needed here, up to {MAX_DAYS}", place)
            return float(value)
        case "at_least" | "at_most":
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise RuleError("a number is needed here", place)
            return float(value)
        case "before" | "after":
            return _instant(value, place)
        case "starts_with" | "contains":
            if not isinstance(value, str) or not value:
                raise RuleError("a text is needed here", place)
            return value
    return _values(subject, value, place)


def _instant(value: Any, place: Place) -> datetime:
    """A date is its midnight in UTC; so is a time that names no offset."""
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        elif isinstance(value, date) and not isinstance(value, datetime):
            value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    except ValueError:
        value = None
    if not isinstance(value, datetime):
        raise RuleError("a date is needed here, such as 2026-12-01 or 2026-12-01T09:00:00+01:00", place)
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _values(subject: str, value: Any, place: Place) -> tuple[str, ...]:
    several = isinstance(value, list | tuple)
    values = list(value) if several else [value]
    if not values or len(values) > MAX_VALUES:
        raise RuleError(f"between one and {MAX_VALUES} values are needed here", place)
    return tuple(_text(subject, one, (*place, i) if several else place) for i, one in enumerate(values))


def _text(subject: str, value: Any, place: Place) -> str:
    if isinstance(value, bool):
        raise RuleError(f"YAML reads this as {str(value).lower()}; put the word in quotes", place)
    if subject in ("field", "phone_code") and isinstance(value, int | float):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise RuleError("a text is needed here", place)
    value = value.strip()
    if subject == "phone_code" and not value.startswith("+"):
        value = f"+{value}"
    value = {"country": value.upper(), "language": value.lower(), "domain": value.lower()}.get(subject, value)
    if subject in _SHAPES and not _SHAPES[subject][0].match(value):
        raise RuleError(f"{value!r} is not {_SHAPES[subject][1]}", place)
    if subject == "time_zone" and value not in available_timezones():
        raise RuleError(f"{value!r} is no time zone of the tz database, such as Europe/Berlin", place)
    return str(value)
