"""Decoding keeps every record in its place: as an event or as poison with its reason."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mailmill.pipelines.listen.decode import EVENT_SCHEMA, decode
from mailmill.pipelines.listen.events import MAX_EVENT_BYTES, event_id
from mailmill.pipelines.listen.ports import Records


def a_value(**fields: Any) -> bytes:
    event = {"event_id": event_id("x"), "tenant": 1, "campaign": 2, "message": 3, "kind": "opened", "at": 1790000000000}
    return json.dumps(event | fields).encode()


def records(*values: bytes | None) -> Records:
    n = len(values)
    return Records(parts=[0] * n, offs=list(range(100, 100 + n)), values=values, next={0: 100 + n})


def test_a_good_batch_is_read_at_once() -> None:
    events, poison = decode(records(*[a_value(message=n + 1, transport=7) for n in range(100)]))
    assert (events.height, poison) == (100, [])
    assert events.schema == EVENT_SCHEMA
    assert events["message"].to_list() == list(range(1, 101))
    assert events["off"].to_list() == list(range(100, 200))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "null"),
        (b"", "not_json"),
        (b"   ", "not_json"),
        (b"\xff\xfe", "not_json"),
        (b'{"event_id": ', "not_json"),
        (a_value() + a_value(), "not_json"),
        (a_value() + b" " + a_value(), "not_json"),
        (a_value() + b"\r" + a_value(), "not_json"),
        (a_value() + b"\n" + a_value(), "not_json"),
        (b'{"a": \n1', "not_json"),
        (b"[" * 100_000 + b"]" * 100_000, "not_json"),
        (b"[1, 2]", "not_an_object"),
        (b"null", "not_an_object"),
        (a_value(user_agent="x" * MAX_EVENT_BYTES), "too_large"),
        (b"{}", "missing_or_wrong_type"),
        (a_value(message=None), "missing_or_wrong_type"),
        (a_value(message="3"), "missing_or_wrong_type"),
        (a_value(message=3.5), "missing_or_wrong_type"),
        (a_value(tenant=True), "missing_or_wrong_type"),
        (a_value(tenant=2**40), "missing_or_wrong_type"),
        (a_value(kind="exploded"), "unknown_kind"),
        (a_value(event_id="abc"), "bad_event_id"),
        (a_value(event_id="'" * 32), "bad_event_id"),
        (a_value(at=1.5), "missing_or_wrong_type"),
        (a_value(at=-5), "out_of_range"),
        (a_value(at=2**45), "out_of_range"),
        (a_value(tenant=0), "out_of_range"),
        (a_value(link=-1), "out_of_range"),
    ],
)
def test_F26_poison_goes_out_with_its_reason_and_shifts_nothing(value: bytes | None, reason: str) -> None:
    events, poison = decode(records(a_value(message=10), value, a_value(message=12)))
    assert [(one.off, one.reason, one.value) for one in poison] == [(101, reason, value or b"")]
    assert events.select("message", "off", "row").rows() == [(10, 100, 0), (12, 102, 2)]


def test_a_value_over_several_lines_is_one_event() -> None:
    pretty = json.dumps(json.loads(a_value(message=11)), indent=2).encode() + b"\n"
    events, poison = decode(records(a_value(message=10), pretty, a_value(message=12)))
    assert not poison
    assert events.select("message", "off").rows() == [(10, 100), (11, 101), (12, 102)]


def test_fields_nobody_knows_are_no_fault() -> None:
    events, poison = decode(records(a_value(new={"a": [1]}), a_value()))
    assert (events.height, poison) == (2, [])


def test_a_value_is_judged_alike_in_whatever_batch_it_comes() -> None:
    odd = [
        a_value(reason=["x"]),
        a_value()[:-1] + b', "tenant": 5}',
        a_value(user_agent=5),
        a_value(code="5xx"),
        a_value(user_agent="\ud800"),
    ]
    for value in odd:
        assert decode(records(value))[0].equals(decode(records(value, b"{"))[0])


def test_many_poisons_in_one_batch_are_told_apart_quickly() -> None:
    events, poison = decode(records(*[b"x" if n % 3 else a_value(message=n + 1) for n in range(30000)]))
    assert (events.height, len(poison)) == (10000, 20000)
