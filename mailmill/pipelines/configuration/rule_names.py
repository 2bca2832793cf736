"""Whether some contact has the tags, sources and custom fields that segments name; apart, since it reads contacts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, cast

import polars as pl

from mailmill.errors import listed
from mailmill.pipelines.configuration.documents import Declared, Problem
from mailmill.pipelines.configuration.specs import SegmentSpec
from mailmill.pipelines.target.audiences import custom_fields
from mailmill.pipelines.target.comparisons import Place, meant, written
from mailmill.pipelines.target.rules import Leaf, leaves, parse

_WORDS = {
    "tags": "no contact has the tag",
    "sources": "no contact came from a source",
    "fields": "no contact has a custom field",
}
MAX_NAMED = 10


def check(declared: Iterable[Declared], contacts: Mapping[str, pl.LazyFrame]) -> list[Problem]:
    """What to warn of: tags, sources and fields that no contact has. It is no mistake: a later import may bring them.

    In: contacts by the tenant's slug. A tenant without any is left out.
    """
    rules: dict[str, list[tuple[Declared, SegmentSpec]]] = {}
    for one in declared:
        if isinstance(one.spec, SegmentSpec) and one.spec.tenant in contacts:
            rules.setdefault(one.spec.tenant, []).append((one, one.spec))
    found: list[Problem] = []
    for tenant, theirs in rules.items():
        told = _unknown([spec.rule for _, spec in theirs], contacts[tenant])
        for (one, _), unknown in zip(theirs, told, strict=True):
            found += [one.problem(_said(place, words), ("rule", *place)) for place, words in unknown]
    return found


def notes(rule: Mapping[str, Any], contacts: pl.LazyFrame) -> list[str]:
    """The same of one rule, in words with the place in it. Raises: RuleError."""
    (unknown,) = _unknown([rule], contacts)
    return [_said(place, words) for place, words in unknown]


def _said(place: Place, words: str) -> str:
    return f"{written('rule', place)}: {words}"


def _unknown(rules: Sequence[Mapping[str, Any]], contacts: pl.LazyFrame) -> list[list[tuple[Place, str]]]:
    """Place and words of what each rule names in vain; the contacts are read once, and only for what is named."""
    asked = [[leaf for leaf in leaves(parse(rule)) if leaf.column in _WORDS] for rule in rules]
    named: dict[str, set[str]] = {}
    for leaf in (leaf for one in asked for leaf in one):
        named.setdefault(leaf.column, set()).update(_names(leaf))
    known = {column: _held(column, names, contacts) for column, names in named.items()}
    if not all(known.values()):  # of a tenant without contacts nothing is known
        empty = contacts.head(1).collect().is_empty()
        known = {} if empty else known
    return [[(leaf.place, words) for leaf in one for words in _vain(leaf, known)] for one in asked]


def _names(leaf: Leaf) -> Iterator[str]:
    if leaf.custom is not None:
        yield leaf.custom
    else:
        for condition in leaf.conditions:
            yield from cast("tuple[str, ...]", condition.value) if condition.operator != "exists" else ()


def _held(column: str, names: Set[str], contacts: pl.LazyFrame) -> Set[str]:
    """What contacts have; of custom fields no more than these names where all of them are there."""
    if column == "fields":
        held = contacts.select(
            pl.col(column).str.contains(f'"{name}":', literal=True).any().alias(name) for name in names
        )
        there = held.collect(engine="streaming").row(0, named=True)
        return names if all(there.values()) else set(custom_fields(contacts))
    values = contacts.select(pl.col(column).explode(empty_as_null=False).drop_nulls().unique())
    return set(values.collect(engine="streaming").to_series())


def _vain(leaf: Leaf, known: Mapping[str, Set[str]]) -> Iterator[str]:
    held = known.get(leaf.column)
    if held is None:
        return
    for name in _names(leaf):
        if name not in held:
            there = listed(sorted(held), MAX_NAMED) or "none"
            yield f"{_WORDS[leaf.column]} {name!r}; {meant(name, held)}there are {there}"
