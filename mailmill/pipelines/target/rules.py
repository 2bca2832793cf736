"""The grammar of a segment's rule: what a person may write, as a tree. docs/segments.md explains it.

A rule is a mapping. Its keys are groups (`all`, `any`, `none`, each with a list of rules) and subjects (`tag`,
`country`, `opened` …, each with what they are compared with); several keys in one mapping must all hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mailmill.pipelines.target.comparisons import Condition, Kind, Place, RuleError, conditions, meant

GROUPS = ("all", "any", "none")
# what can be asked about a contact -> how it is compared, and the column of the contacts generation that answers
SUBJECTS: dict[str, tuple[Kind, str]] = {
    "tag": ("list", "tags"),
    "source": ("list", "sources"),
    "language": ("text", "language"),
    "category": ("text", "category"),
    "country": ("text", "country"),
    "time_zone": ("text", "time_zone"),
    "email": ("text", "email"),
    "phone": ("text", "phone"),
    "name": ("text", "name"),
    "domain": ("text", "domain"),
    "provider": ("text", "provider"),
    "verdict": ("text", "verdict"),
    "reason": ("text", "verdict_reason"),
    "score": ("number", "score"),
    "suggestion": ("text", "suggestion"),
    "consent": ("text", "consent"),
    "phone_code": ("phone", "phone"),
    "first_seen": ("date", "first_seen"),
    "last_seen": ("date", "last_seen"),
    "created": ("date", "created_at"),
    "mailed": ("engagement", "last_accepted"),
    "delivered": ("engagement", "last_delivered"),
    "opened": ("engagement", "last_opened"),
    "clicked": ("engagement", "last_clicked"),
    "bounced": ("engagement", "last_bounced"),
}
MAX_DEPTH, MAX_LEAVES = 16, 500
_FIELD = re.compile(r"^[a-z][a-z0-9_]{0,62}$")


@dataclass(frozen=True, slots=True)
class Leaf:
    """What is asked about one column. `custom` names the custom field; all conditions must hold."""

    kind: Kind
    column: str
    conditions: tuple[Condition, ...]
    place: Place
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
    if rule == {"all": []}:  # every contact, said on purpose; within another rule it would be a slip
        return Group("all", ())
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
            parts.append(Leaf(kind, column, conditions(kind, str(key), value, here), here))
        else:
            allowed = (*GROUPS, *SUBJECTS, "field")
            raise RuleError(f"unknown; {meant(key, allowed)}allowed are {', '.join(allowed)}", here)
    return Group("all", tuple(parts))


def _parts(quantifier: Literal["all", "any", "none"], value: Any, place: Place, depth: int) -> Group:
    if not isinstance(value, list | tuple):
        raise RuleError("a list of rules is needed here", place)
    if not value:
        raise RuleError("an empty list says nothing; every contact is `rule: {all: []}` with nothing else in it", place)
    return Group(quantifier, tuple(_group_of(part, (*place, i), depth + 1) for i, part in enumerate(value)))


def _custom(value: Any, place: Place) -> Iterator[Leaf]:
    if not isinstance(value, Mapping) or not value:
        raise RuleError("custom fields are needed here, such as {company_size: {at_least: 50}}", place)
    for name, wanted in value.items():
        here = (*place, str(name))
        if not isinstance(name, str) or not _FIELD.match(name):
            raise RuleError("a custom field has small letters, digits and underscores", here)
        yield Leaf("custom", "fields", conditions("custom", "field", wanted, here), here, custom=name)
