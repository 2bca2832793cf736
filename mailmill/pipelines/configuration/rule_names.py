"""Whether some contact has the tags and sources that segments name; apart, since it reads contacts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, cast

import polars as pl

from mailmill.pipelines.configuration.documents import Declared, Problem
from mailmill.pipelines.configuration.specs import SegmentSpec
from mailmill.pipelines.target.comparisons import Place, meant, written
from mailmill.pipelines.target.rules import Leaf, leaves, parse

_WORDS = {"tags": "no contact has the tag", "sources": "no contact came from a source"}
MAX_NAMED = 10


def check(declared: Iterable[Declared], contacts: Mapping[str, pl.LazyFrame]) -> list[Problem]:
    """What to warn of: tags and sources that no contact has. It is no mistake: a later import may bring them.

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
    columns = {leaf.column for one in asked for leaf in one}
    known = {column: _held(column, contacts) for column in columns}
    if not all(known.values()):  # of a tenant without contacts nothing is known
        empty = contacts.head(1).collect().is_empty()
        known = {} if empty else known
    return [[(leaf.place, words) for leaf in one for words in _vain(leaf, known)] for one in asked]


def _held(column: str, contacts: pl.LazyFrame) -> Set[str]:
    values = contacts.select(pl.col(column).explode(empty_as_null=False).drop_nulls().unique())
    return set(values.collect(engine="streaming").to_series())


def _vain(leaf: Leaf, known: Mapping[str, Set[str]]) -> Iterator[str]:
    held = known.get(leaf.column)
    if held is None:
        return
    for condition in leaf.conditions:
        for name in cast("tuple[str, ...]", condition.value) if condition.operator != "exists" else ():
            if name not in held:
                there = ", ".join(sorted(held)[:MAX_NAMED]) + (", …" if len(held) > MAX_NAMED else "")
                yield f"{_WORDS[leaf.column]} {name!r}; {meant(name, held)}there are {there or 'none'}"
