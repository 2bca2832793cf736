"""Records of the event log -> a frame with one row per event. What nobody can read goes out with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import orjson
import polars as pl

from mailmill.pipelines.listen.events import KINDS, MAX_EVENT_BYTES
from mailmill.pipelines.listen.ports import Records

_JSON_SCHEMA = pl.Schema(
    {
        "event_id": pl.String(),
        "tenant": pl.Int32(),
        "campaign": pl.Int32(),
        "message": pl.Int64(),
        "kind": pl.String(),
        "at": pl.Int64(),
        "link": pl.Int32(),
        "user_agent": pl.String(),
        "ip": pl.String(),
        "code": pl.Int32(),
        "reason": pl.String(),
        "attempt": pl.Int32(),
        "transport": pl.String(),
    }
)
# what decoding gives and, without `row`, the columns of dataset `events` in the lake: the fields of the JSON as
# events.py describes them (`at` as a time), and where the record lay on the log
EVENT_SCHEMA = pl.Schema(
    {
        **_JSON_SCHEMA,
        "kind": pl.Enum(KINDS),
        "at": pl.Datetime("ms", "UTC"),
        "part": pl.Int16(),
        "off": pl.Int64(),
        "row": pl.UInt32(),
    }
)
_REQUIRED = ("event_id", "tenant", "campaign", "message", "kind", "at")
_LATEST = 2**31 * 1000  # the ledger keeps times as seconds in four bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Poison:
    """A record that is no event, or an event of no message we know; `reason` is a code."""

    part: int
    off: int
    reason: str
    value: bytes


def decode(records: Records) -> tuple[pl.DataFrame, list[Poison]]:
    """Every record becomes one row or one poison.

    Out: events with EVENT_SCHEMA in the order of the records, `row` being the index of the record; and the poison.
    """
    if not records:
        return pl.DataFrame(schema=EVENT_SCHEMA), []
    frame, reasons = _parse(records.values)
    frame = frame.with_columns(
        part=pl.Series(records.parts, dtype=pl.Int16),
        off=pl.Series(records.offs, dtype=pl.Int64),
        row=pl.int_range(len(records), dtype=pl.UInt32),
    ).with_columns(wrong=_wrong())
    refused = frame.filter(pl.col("wrong").is_not_null()).select("row", "wrong").rows()
    poison = [poisoned(records, row, reasons.get(row, wrong)) for row, wrong in refused]
    if poison:
        frame = frame.filter(pl.col("wrong").is_null())
    events = frame.with_columns(
        pl.col("kind").cast(pl.Enum(KINDS)), pl.col("at").cast(pl.Datetime("ms", "UTC"))
    ).match_to_schema(EVENT_SCHEMA, extra_columns="ignore")
    return events, poison


def poisoned(records: Records, row: int, reason: str) -> Poison:
    """The record at this index as poison."""
    return Poison(
        part=records.parts[row], off=records.offs[row], reason=reason, value=bytes(records.values[row] or b"")
    )


def _wrong() -> pl.Expr:
    """Why a row is no event; null for a good one."""
    numbers = [pl.col(name) <= 0 for name in ("tenant", "campaign", "message", "at")]
    reasons = {
        "missing_or_wrong_type": pl.any_horizontal(pl.col(*_REQUIRED).is_null()),
        "unknown_kind": ~pl.col("kind").is_in(KINDS),
        "bad_event_id": ~pl.col("event_id").str.contains("^[0-9a-f]{32}$"),
        "out_of_range": pl.any_horizontal(*numbers, pl.col("at") >= _LATEST, (pl.col("link") < 0).fill_null(False)),
    }
    return pl.coalesce(pl.when(condition).then(pl.lit(reason)) for reason, condition in reasons.items())


def _parse(values: Sequence[bytes | None]) -> tuple[pl.DataFrame, dict[int, str]]:
    """One row a value, in order, a row of nulls for what cannot be read; and why, where the fields don't tell.

    A field of the wrong type is null. It must not matter what else is in the batch, so both ways below agree.
    """
    lines = [_one_line(value) for value in values]
    frame = None
    if not any(b"\\ud" in line or b"\\uD" in line for line in lines):  # polars reads half a surrogate, orjson does not
        frame = _read(lines)
    if frame is None:
        frame = pl.concat(_read_in_parts([line if _is_json(line) else b"{}" for line in lines]))
    empty = frame.select(pl.all_horizontal(pl.all().is_null()).arg_true()).to_series().to_list()
    return frame, {row: reason for row in empty if (reason := _unread(values[row])) is not None}


def _one_line(value: bytes | None) -> bytes:
    """The value as one line; an empty object where it cannot be that."""
    if not value or len(value) > MAX_EVENT_BYTES:
        return b"{}"
    if b"\n" not in value:
        return value
    return orjson.dumps(orjson.loads(value)) if _is_json(value) else b"{}"


def _is_json(value: bytes) -> bool:
    try:
        orjson.loads(value)
    except orjson.JSONDecodeError:
        return False
    return True


def _read(lines: Sequence[bytes]) -> pl.DataFrame | None:
    """All lines at once, None if that does not go.

    A frame of another height is not trusted: polars skips blank lines, which would shift rows against their offsets.
    """
    try:
        frame = pl.read_ndjson(b"\n".join(lines), schema=_JSON_SCHEMA, ignore_errors=True)
    except pl.exceptions.PolarsError:
        return None
    return frame if frame.height == len(lines) else None


def _read_in_parts(lines: Sequence[bytes]) -> list[pl.DataFrame]:
    """All lines in order; what cannot be read at once is read in halves, down to the single line."""
    frame = _read(lines)
    if frame is not None:
        return [frame]
    if len(lines) == 1:
        return [pl.DataFrame([[None]] * len(_JSON_SCHEMA), schema=_JSON_SCHEMA)]
    middle = len(lines) // 2
    return _read_in_parts(lines[:middle]) + _read_in_parts(lines[middle:])


def _unread(value: bytes | None) -> str | None:
    """The reason's code of a value that gave no field at all; None: it is an object, only not of our fields."""
    if value is None:
        return "null"
    if len(value) > MAX_EVENT_BYTES:
        return "too_large"
    try:
        fields = orjson.loads(value)
    except orjson.JSONDecodeError:
        return "not_json"
    return None if isinstance(fields, dict) else "not_an_object"
