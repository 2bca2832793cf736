"""Segments: a rule compiled to one polars expression over the contacts generation, and what it takes in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import reduce
from operator import and_, or_
from typing import Any, cast

import polars as pl

from mailmill.pipelines.target.rules import Condition, Group, Leaf, parse

SEGMENT_SCHEMA = pl.Schema({"contact_id": pl.Int64()})


def compile_rule(rule: Mapping[str, Any], now: datetime) -> pl.Expr:
    """The rule as one expression over CONTACTS_SCHEMA: true or false for every contact, never null.

    In:     now, aware; `within_days` counts back from it.
    Raises: RuleError with the place of what is wrong.
    """
    return _expression(parse(rule), now)


def _expression(node: Group | Leaf, now: datetime) -> pl.Expr:
    if isinstance(node, Leaf):
        return reduce(and_, (_holds(node, condition, now) for condition in node.conditions))
    parts = [_expression(part, now) for part in node.parts]
    if node.quantifier == "all":
        return reduce(and_, parts, pl.lit(True)) if len(parts) != 1 else parts[0]
    one = reduce(or_, parts)
    return one if node.quantifier == "any" else ~one


def custom_field(name: str) -> pl.Expr:
    """A custom field's text, null where a contact lacks it. The name holds letters, digits and underscores only."""
    return pl.col("fields").str.json_path_match(f"$.{name}")


def _holds(leaf: Leaf, condition: Condition, now: datetime) -> pl.Expr:
    if leaf.kind == "list":
        return _list_holds(pl.col(leaf.column), condition)
    if leaf.kind in ("date", "engagement"):
        return _date_holds(pl.col(leaf.column), condition, now)
    if leaf.column == "email":
        return _text_holds(pl.col("email").str.extract("@([^@]+)$"), condition)
    if leaf.kind == "phone" and condition.operator != "exists":
        starts = reduce(or_, (pl.col("phone").str.starts_with(code) for code in _texts(condition)))
        found = starts.fill_null(False)
        return found if condition.operator == "in" else ~found
    return _text_holds(custom_field(leaf.custom) if leaf.custom else pl.col(leaf.column), condition)


def _texts(condition: Condition) -> tuple[str, ...]:
    return cast("tuple[str, ...]", condition.value)


def _text_holds(column: pl.Expr, condition: Condition) -> pl.Expr:
    """A missing value is in no list, so `not` holds for it."""
    value = condition.value
    match condition.operator:
        case "exists":
            return column.is_not_null() if value else column.is_null()
        case "starts_with":
            return column.str.starts_with(str(value)).fill_null(False)
        case "contains":
            return column.str.contains(str(value), literal=True).fill_null(False)
        case "at_least":
            return column.cast(pl.Float64, strict=False).ge(value).fill_null(False)
        case "at_most":
            return column.cast(pl.Float64, strict=False).le(value).fill_null(False)
    found = column.is_in(list(_texts(condition))).fill_null(False)
    return ~found if condition.operator == "not" else found


def _list_holds(column: pl.Expr, condition: Condition) -> pl.Expr:
    if condition.operator == "exists":
        filled = (column.list.len() > 0).fill_null(False)
        return filled if condition.value else ~filled
    each = [column.list.contains(value).fill_null(False) for value in _texts(condition)]
    if condition.operator == "all":
        return reduce(and_, each)
    found = reduce(or_, each)
    return ~found if condition.operator == "none" else found


def _date_holds(column: pl.Expr, condition: Condition, now: datetime) -> pl.Expr:
    """What never happened is not within any number of days, and neither before nor after any date."""
    match condition.operator:
        case "exists":
            return column.is_not_null() if condition.value else column.is_null()
        case "before":
            return (column < cast("datetime", condition.value)).fill_null(False)
        case "after":
            return (column >= cast("datetime", condition.value)).fill_null(False)
    recent = (column >= now - timedelta(days=cast("float", condition.value))).fill_null(False)
    return ~recent if condition.operator == "not_within_days" else recent


def members(contacts: pl.LazyFrame, rule: Mapping[str, Any], now: datetime) -> pl.LazyFrame:
    """The contacts a rule takes in, all columns.

    In:     CONTACTS_SCHEMA, any order.
    Raises: RuleError.
    """
    return contacts.filter(compile_rule(rule, now))


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A segment against the one before it. `joined` and `left` count contacts."""

    rows: int
    joined: int
    left: int


def compare(before: pl.DataFrame, after: pl.DataFrame) -> Change:
    """What a refresh changed. In: SEGMENT_SCHEMA, unique ids."""
    stayed = after.join(before, on="contact_id", how="semi").height
    return Change(rows=after.height, joined=after.height - stayed, left=before.height - stayed)
