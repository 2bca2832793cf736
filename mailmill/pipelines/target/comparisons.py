"""What a person may compare a contact's values with, checked word by word."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from difflib import get_close_matches
from typing import Any, Literal
from zoneinfo import available_timezones

from mailmill.pipelines.configuration.words import SLUG, tag_slug

Kind = Literal["text", "number", "list", "phone", "date", "engagement", "custom"]
Place = tuple[str | int, ...]
Value = str | float | bool | datetime | tuple[str | float | bool, ...]

OPERATORS: dict[Kind, tuple[str, ...]] = {
    "text": ("in", "not", "exists"),
    "number": ("in", "not", "exists", "at_least", "at_most"),
    "list": ("any", "all", "none", "exists"),
    "phone": ("in", "not", "exists"),
    "date": ("within_days", "not_within_days", "at_least_days_ago", "before", "after"),
    "engagement": ("within_days", "not_within_days", "at_least_days_ago", "before", "after", "exists"),
    "custom": (
        "in", "not", "exists", "starts_with", "contains", "at_least", "at_most",
        "within_days", "not_within_days", "at_least_days_ago", "within_next_days", "before", "after",
    ),
}  # fmt: skip
MAX_VALUES = 1000
MAX_DAYS = 36_500
CONSENTS = (
    "consent", "contract", "legal_obligation", "vital_interests", "public_task", "legitimate_interests", "withdrawn",
)  # fmt: skip
_CLOSED = {"verdict": ("valid", "risky", "invalid"), "consent": CONSENTS}
_SHAPES: dict[str, tuple[re.Pattern[str], str]] = {
    "language": (re.compile(r"^[a-z]{2}$"), "two letters of ISO 639-1, such as de"),
    "country": (re.compile(r"^[A-Z]{2}$"), "two letters of ISO 3166-1, such as DE"),
    "phone_code": (re.compile(r"^\+[1-9]\d{0,14}$"), "the first digits of the number in quotes, such as '+49'"),
    "source": (SLUG, "the slug of a source"),
    "reason": (re.compile(r"^[a-z][a-z0-9_]*$"), "a reason code, such as role_address"),
}
_WRITTEN_SMALL = ("language", "category", "source", "provider", "verdict", "consent", "reason")
_FOLDED = {"country": str.upper, **dict.fromkeys(_WRITTEN_SMALL, str.lower)}
_KEPT = {
    "tag": "a tag, such as newsletter",
    "email": "an e-mail address, such as ann@example.org",
    "domain": "a domain, such as example.org",
    "phone": "a phone number with its +, such as '+4930123456'",
}


class RuleError(ValueError):
    """A rule nobody can follow. `place` leads to it from the rule's top, `message` says what is allowed there."""

    def __init__(self, message: str, place: Place) -> None:
        self.message, self.place = message, place
        super().__init__(f"{written('rule', place)}: {message}")


def written(root: str, place: Place) -> str:
    """A place as people write it: rule.all[1].country."""
    return root + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)


def meant(word: object, allowed: Iterable[str]) -> str:
    """'Did you mean …? ' where a word is close to one that is allowed, else nothing."""
    found = get_close_matches(str(word).lower(), list(allowed), n=1)
    return f"did you mean {found[0]}? " if found else ""


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison: the operator and what to compare with."""

    operator: str
    value: Value


def conditions(kind: Kind, subject: str, value: Any, place: Place) -> tuple[Condition, ...]:
    """What a subject is compared with; all must hold.

    Raises: RuleError.
    """
    if kind == "engagement" and value in ("never", "ever"):
        return (Condition("exists", value == "ever"),)
    if not isinstance(value, Mapping):
        if kind in ("date", "engagement"):
            words = " (or never, ever)" if kind == "engagement" else ""
            raise RuleError(f"a comparison is needed here, such as {{within_days: 30}}{words}", place)
        return (Condition("any" if kind == "list" else "in", _values(kind, subject, value, place)),)
    if not value:
        raise RuleError(f"a comparison is needed here: {', '.join(OPERATORS[kind])}", place)
    for operator in value:
        if operator not in OPERATORS[kind]:
            close = meant(operator, OPERATORS[kind])
            raise RuleError(f"unknown; {close}allowed are {', '.join(OPERATORS[kind])}", (*place, str(operator)))
    return tuple(Condition(op, _operand(op, kind, subject, what, (*place, op))) for op, what in value.items())


def _operand(operator: str, kind: Kind, subject: str, value: Any, place: Place) -> Value:
    match operator:
        case "exists":
            if not isinstance(value, bool):
                raise RuleError("true or false is needed here", place)
            return value
        case "within_days" | "not_within_days" | "at_least_days_ago" | "within_next_days":
            if not (number := _number(value)) or not 0 < number <= MAX_DAYS:
                raise RuleError(f"a number of days is needed here, up to {MAX_DAYS}", place)
            return number
        case "at_least" | "at_most":
            if (number := _number(value)) is None:
                raise RuleError("a number is needed here", place)
            return number
        case "before" | "after":
            return _instant(value, place)
        case "starts_with" | "contains":
            if not isinstance(value, str) or not value:
                raise RuleError("a text is needed here", place)
            return value
    return _values(kind, subject, value, place)


def _number(value: Any) -> float | None:
    """None for what is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        return None
    return float(value)


def _instant(value: Any, place: Place) -> datetime:
    """A date is its midnight in UTC; so is a time that names no offset."""
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        elif isinstance(value, date) and not isinstance(value, datetime):
            value = datetime(value.year, value.month, value.day, tzinfo=UTC)
        if isinstance(value, datetime):
            return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise RuleError("a date is needed here, such as 2026-12-01 or 2026-12-01T09:00:00+01:00", place)


def _values(kind: Kind, subject: str, value: Any, place: Place) -> tuple[str | float | bool, ...]:
    several = isinstance(value, list | tuple)
    values = list(value) if several else [value]
    if not values or len(values) > MAX_VALUES:
        raise RuleError(f"between one and {MAX_VALUES} values are needed here", place)
    places = [(*place, i) if several else place for i in range(len(values))]
    found = [_one(kind, subject, one, where) for one, where in zip(values, places, strict=True)]
    return tuple(_kept(subject, found, places) if subject in _KEPT else found)


def _kept(subject: str, values: Sequence[Any], places: Sequence[Place]) -> list[str]:
    """Texts in the one form that ingest keeps; an address becomes its key."""
    if subject == "tag":
        kept = [tag_slug(value) or None for value in values]
    else:
        # they bring polars, which most of those who read a rule would load for nothing
        import polars as pl

        from mailmill.pipelines.ingest import addresses, phones

        match subject:
            case "email":
                kept = addresses.examine(pl.Series(values))["address_key"].to_list()
            case "domain":
                kept = addresses.examine(pl.Series([f"a@{value}" for value in values]))["domain"].to_list()
            case _:
                nowhere = pl.Series([None] * len(values), dtype=pl.String)
                kept = phones.examine(pl.Series(values), nowhere).to_list()
    for value, form, place in zip(values, kept, places, strict=True):
        if form is None:
            raise RuleError(f"{value!r} is not {_KEPT[subject]}", place)
    return [form for form in kept if form is not None]


def _one(kind: Kind, subject: str, value: Any, place: Place) -> str | float | bool:
    """A custom field is compared as what YAML reads: a text, a number, true or false."""
    if kind == "custom" and isinstance(value, bool):
        return value
    if kind == "number" or (kind == "custom" and not isinstance(value, str)):
        if (number := _number(value)) is None:
            raise RuleError("a number is needed here" if kind == "number" else "a text is needed here", place)
        return number
    return _text(subject, value, place)


def _text(subject: str, value: Any, place: Place) -> str:
    if isinstance(value, bool):
        raise RuleError(f"YAML reads this as {str(value).lower()}; put the word in quotes", place)
    if subject == "phone_code" and isinstance(value, int):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise RuleError("a text is needed here", place)
    value = value.strip()
    if subject == "phone_code" and not value.startswith("+"):
        value = f"+{value}"
    value = _FOLDED.get(subject, str)(value)
    if subject in _CLOSED and value not in (allowed := _CLOSED[subject]):
        words = f"{', '.join(allowed[:-1])} or {allowed[-1]}"
        raise RuleError(f"{value!r} is not {words}; {meant(value, allowed)}".removesuffix("; ").rstrip(), place)
    if subject in _SHAPES and not _SHAPES[subject][0].match(value):
        raise RuleError(f"{value!r} is not {_SHAPES[subject][1]}", place)
    if subject == "time_zone" and value not in (zones := available_timezones()):
        found = get_close_matches(value, zones, n=1)
        raise RuleError(
            f"{value!r} is no time zone of the tz database, such as {found[0] if found else 'Europe/Berlin'}", place
        )
    return str(value)
