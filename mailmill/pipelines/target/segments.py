"""Segments: a rule compiled to one polars expression over the contacts generation, and what it takes in."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import reduce
from operator import and_, or_
from typing import Any, cast

import polars as pl

from mailmill.pipelines.target.comparisons import Condition, Kind
from mailmill.pipelines.target.rules import Group, Leaf, leaves, parse

SEGMENT_SCHEMA = pl.Schema({"contact_id": pl.Int64()})
_TIME = pl.Datetime("us", "UTC")
_TYPES: dict[Kind, pl.DataType] = {
    "text": pl.String(), "phone": pl.String(), "custom": pl.String(), "number": pl.Int16(),
    "list": pl.List(pl.String()), "date": _TIME, "engagement": _TIME,
}  # fmt: skip
TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")  # a custom field's text as a boolean, any case
FEW = 3  # beginnings that are each asked for by themselves: of so many that is quicker, of a thousand it never ends
_DATE = r"^\s*(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2})(:\d{2}(?:\.\d+)?)?\s*(Z|[+-]\d{2}(?::?\d{2})?)?)?\s*$"


def compile_rule(rule: Mapping[str, Any], now: datetime) -> pl.Expr:
    """The rule as one expression over CONTACTS_SCHEMA: true or false for every contact, never null.

    In:     now, aware; `within_days` counts back from it.
    Raises: RuleError with the place of what is wrong.
    """
    return _expression(parse(rule), now)


def members(contacts: pl.LazyFrame, rule: Mapping[str, Any], now: datetime) -> pl.LazyFrame:
    """The contacts a rule takes in, all columns; a column that a generation has not got holds nothing for anybody.

    What must hold besides is asked first where it is cheap: lists and custom fields are read of those it leaves over.

    In:     CONTACTS_SCHEMA, any order.
    Raises: RuleError.
    """
    tree = parse(rule)
    held = contacts.collect_schema()
    lacking = {leaf.column: pl.lit(None, _TYPES[leaf.kind]) for leaf in leaves(tree) if leaf.column not in held}
    if "domain" in lacking:
        lacking["domain"] = pl.col("email").str.extract("@([^@]+)$")
    parts = list(_must(tree))
    cheap = [part for part in parts if not any(_reads_much(leaf) for leaf in leaves(part))]
    dear = [part for part in parts if part not in cheap]
    found = contacts.with_columns(**lacking).filter(_all(cheap, now))
    if dear:
        # by way of a column, or polars would ask everything at once
        found = found.with_columns(__dear=_all(dear, now)).filter("__dear").drop("__dear")
    return found.drop(list(lacking))


def materialized(contacts: pl.LazyFrame, rule: Mapping[str, Any], now: datetime) -> pl.DataFrame:
    """Who is in a segment. Out: SEGMENT_SCHEMA in order of contact_id; else as `members`."""
    return members(contacts, rule, now).select("contact_id").sort("contact_id").collect(engine="streaming")


def _must(node: Group | Leaf) -> Sequence[Group | Leaf]:
    """What has to hold for the whole to hold."""
    if isinstance(node, Group) and node.quantifier == "all":
        return [one for part in node.parts for one in _must(part)]
    return [node]


def _reads_much(leaf: Leaf) -> bool:
    return leaf.kind in ("list", "custom") or leaf.column == "email"  # which asks a list of addresses


def _all(parts: Sequence[Group | Leaf], now: datetime) -> pl.Expr:
    return _expression(Group("all", tuple(parts)), now)


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


def _column(leaf: Leaf) -> pl.Expr:
    """What a comparison reads; its values are in the same form (comparisons.conditions)."""
    match leaf.column:
        case "fields":
            return custom_field(leaf.custom or "")
        case "email":  # by its key: the address itself keeps the case that somebody typed
            return pl.when(pl.col("email").is_not_null()).then("match_key")
        case "category":
            return pl.col("category").str.to_lowercase()
    return pl.col(leaf.column)


def _holds(leaf: Leaf, condition: Condition, now: datetime) -> pl.Expr:
    """A comparison; what is missing is in no list, so `not` holds for it."""
    column = _column(leaf)
    if condition.operator == "exists":
        filled = (column.list.len() > 0).fill_null(False) if leaf.kind == "list" else column.is_not_null()
        return filled if condition.value else ~filled
    if leaf.kind == "list":
        return _list_holds(column, condition)
    if condition.operator in ("at_least", "at_most", "starts_with", "contains"):
        return _compared(column, condition, leaf).fill_null(False)
    if condition.operator not in ("in", "not"):
        found = _date_holds(column, condition, now, custom=leaf.custom is not None)
        return found.fill_null(condition.operator == "not_within_days")
    values = cast("tuple[str | float | bool, ...]", condition.value)
    if leaf.kind == "phone":
        if len(values) > FEW:
            found = column.str.contains(rf"^(?:{'|'.join(re.escape(str(code)) for code in values)})")
        else:
            found = reduce(or_, (column.str.starts_with(str(code)) for code in values))
    elif leaf.column == "email":  # a person whom the tenant's rule merges is found by each of their addresses
        others = pl.col("aliases").list.eval(pl.element().is_in(list(values))).list.any()
        found = column.is_in(list(values)).fill_null(False) | others
    else:
        found = _is_one_of(column, values, leaf)
    return ~found.fill_null(False) if condition.operator == "not" else found.fill_null(False)


def _is_one_of(column: pl.Expr, values: Sequence[str | float | bool], leaf: Leaf) -> pl.Expr:
    """A text, a number and a boolean are each compared as what they are."""
    texts = [value for value in values if isinstance(value, str)]
    numbers = [value for value in values if isinstance(value, float)]
    words = [word for value in values if isinstance(value, bool) for word in (TRUE if value else FALSE)]
    found = [column.is_in(texts)] if texts else []
    if numbers:
        found.append(_number(column, leaf).is_in(numbers))
    if words:
        found.append(column.str.strip_chars().str.to_lowercase().is_in(words))
    return reduce(or_, (one.fill_null(False) for one in found))


def _number(column: pl.Expr, leaf: Leaf) -> pl.Expr:
    """Null where a custom field's text is no finite number."""
    number = (column.str.strip_chars() if leaf.custom else column).cast(pl.Float64, strict=False)
    return pl.when(number.is_finite()).then(number)


def _compared(column: pl.Expr, condition: Condition, leaf: Leaf) -> pl.Expr:
    value = cast("str | float", condition.value)
    match condition.operator:
        case "starts_with":
            return column.str.starts_with(str(value))
        case "contains":
            return column.str.contains(str(value), literal=True)
        case "at_least":
            return _number(column, leaf) >= float(value)
    return _number(column, leaf) <= float(value)


def _list_holds(column: pl.Expr, condition: Condition) -> pl.Expr:
    values = set(cast("tuple[str, ...]", condition.value))
    named = pl.element().is_in(list(values))
    if condition.operator == "all":  # of a list that names one twice as well
        found = column.list.unique().list.eval(named).list.sum() == len(values)
    else:
        found = column.list.eval(named).list.any()
    found = found.fill_null(False)
    return ~found if condition.operator == "none" else found


def _dates(text: pl.Expr) -> pl.Expr:
    """A custom field's text as a moment: an ISO 8601 date, its midnight in UTC, or a time; null for anything else."""
    part = text.str.extract_groups(_DATE).struct.field
    zone = part("4").replace("Z", "+0000").str.replace(":", "").str.pad_end(5, "0").fill_null("+0000")
    written = pl.concat_str(
        part("1"), pl.lit("T"), part("2").fill_null("00:00"), part("3").fill_null(":00"), zone
    )  # fmt: skip
    return written.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%z", time_unit="us", strict=False)


def _date_holds(column: pl.Expr, condition: Condition, now: datetime, *, custom: bool) -> pl.Expr:
    """Null where nothing happened. A custom field may lie in the future, which is not within the last days."""
    column = _dates(column) if custom else column
    match condition.operator:
        case "before":
            return column < cast("datetime", condition.value)
        case "after":
            return column >= cast("datetime", condition.value)
    span = timedelta(days=cast("float", condition.value))
    match condition.operator:
        case "at_least_days_ago":
            return column <= now - span
        case "within_next_days":
            return (column > now) & (column <= now + span)
    recent = (column >= now - span) & (column <= now) if custom else column >= now - span
    return ~recent if condition.operator == "not_within_days" else recent


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """Two segments side by side, in contacts."""

    a: int
    b: int
    both: int
    only_a: int
    only_b: int


def overlap(a: pl.DataFrame, b: pl.DataFrame) -> Overlap:
    """In: SEGMENT_SCHEMA, unique ids."""
    both = a.join(b, on="contact_id", how="semi").height
    return Overlap(a=a.height, b=b.height, both=both, only_a=a.height - both, only_b=b.height - both)
