"""The generic webhook's signature and form, as tables."""

from __future__ import annotations

import json
from typing import Any

import pytest
from made_tokens import return_path_token

from mailmill.pipelines.listen.webhooks import (
    MalformedReport,
    events,
    parse,
    signature,
    token_of,
    verified,
)
from mailmill.pipelines.send.tokens import Key, Token

NOW = 1_790_000_000
BODY = b'[{"a": 1}]'
KEY = Key(3, b"k" * 32)
TOKEN = Token(1, 2, 77)
TEXT = return_path_token(KEY, 1, 2, 77)


def a_report(**changed: Any) -> dict[str, Any]:
    report = {"message": f"<{TEXT}@b.example>", "type": "delivered", "at": "2026-11-20T10:00:00Z", **changed}
    return {name: value for name, value in report.items() if value != "absent"}


def test_a_signature_of_now_is_taken() -> None:
    assert verified(signature("s", BODY, NOW), "s", BODY, now_s=NOW + 299)


@pytest.mark.parametrize(
    ("header", "body", "now"),
    [
        (signature("s", BODY, NOW), BODY + b" ", NOW),
        (signature("other", BODY, NOW), BODY, NOW),
        (signature("s", BODY, NOW), BODY, NOW + 301),
        (signature("s", BODY, NOW), BODY, NOW - 301),
        (signature("s", BODY, NOW).replace(f"t={NOW}", f"t={NOW + 1}"), BODY, NOW),
        (signature("s", BODY, NOW).upper(), BODY, NOW),
        (signature("s", BODY, NOW) + ",v1=00", BODY, NOW),
        (signature("s", BODY, NOW)[:-1], BODY, NOW),
        ("t=1,v1=é", BODY, NOW),
        ("", BODY, NOW),
        (None, BODY, NOW),
    ],
)
def test_F29_any_other_signature_is_refused(header: str | None, body: bytes, now: int) -> None:
    assert not verified(header, "s", body, now_s=now)


@pytest.mark.parametrize(
    ("body", "index", "field"),
    [
        (b"", None, None),
        (b"{}", None, None),
        (b"[1]", 0, None),
        (b"[" * 100_000, None, None),
        (json.dumps([a_report(), a_report(message="absent")]).encode(), 1, "message"),
        (json.dumps([a_report(message=7)]).encode(), 0, "message"),
        (json.dumps([a_report(message="")]).encode(), 0, "message"),
        (json.dumps([a_report(type="exploded")]).encode(), 0, "type"),
        (json.dumps([a_report(type=["delivered"])]).encode(), 0, "type"),
        (json.dumps([a_report(at="yesterday")]).encode(), 0, "at"),
        (json.dumps([a_report(at="2026-11-20T10:00:00")]).encode(), 0, "at"),
        (json.dumps([a_report(at=1_790_000_000)]).encode(), 0, "at"),
        (json.dumps([a_report(at=True)]).encode(), 0, "at"),
        (json.dumps([a_report(at="absent")]).encode(), 0, "at"),
        (json.dumps([a_report(code=99)]).encode(), 0, "code"),
        (json.dumps([a_report(code="550")]).encode(), 0, "code"),
        (json.dumps([a_report(enhanced="5.1")]).encode(), 0, "enhanced"),
        (json.dumps([a_report(link=-1)]).encode(), 0, "link"),
        (json.dumps([a_report(link=True)]).encode(), 0, "link"),
        (json.dumps([a_report(reply=["x"])]).encode(), 0, "reply"),
        (json.dumps([a_report(id=5)]).encode(), 0, "id"),
        (json.dumps([a_report(email="a@b.example")]).encode(), 0, "email"),
    ],
)
def test_a_malformed_body_names_event_and_field(body: bytes, index: int | None, field: str | None) -> None:
    with pytest.raises(MalformedReport) as refused:
        parse(body)
    assert (refused.value.index, refused.value.field) == (index, field)


@pytest.mark.parametrize("text", [TEXT, f"<{TEXT}@b.example>", f"b+{TEXT}@b.example", f" <{TEXT.upper()}@B.EXAMPLE>"])
def test_a_message_is_named_by_message_id_or_return_path(text: str) -> None:
    assert token_of(text, {3: KEY.secret}) == TOKEN


@pytest.mark.parametrize("text", ["", "x@y", f"c+{TEXT}@b.example", TEXT[:-1], "<é@b.example>"])
def test_whatever_is_no_token_of_ours_names_nobody(text: str) -> None:
    assert token_of(text, {3: KEY.secret}) is None


def made(**changed: Any) -> dict[str, Any]:
    (report,) = parse(json.dumps([a_report(**changed)]).encode())
    ((key, value),) = events(
        [(report, TOKEN)], transport=9, now_ms=1_800_000_000_000, links={2: ("https://a/", "https://b/")}
    )
    assert key == TOKEN.message
    return dict(json.loads(value))


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({}, {"kind": "delivered", "at": 1_795_168_800_000, "transport": 9, "reason": None}),
        ({"at": 1_795_168_800_000}, {"at": 1_795_168_800_000}),
        ({"at": "2099-01-01T00:00:00+02:00"}, {"at": 1_800_000_000_000}),
        (
            {"type": "bounced", "code": 550, "enhanced": "5.1.1"},
            {"kind": "bounced_hard", "reason": "bad_mailbox", "code": 550},
        ),
        ({"type": "bounced", "code": 552, "enhanced": "5.2.2"}, {"kind": "bounced_soft", "reason": "mailbox_full"}),
        ({"type": "bounced", "reply": "550 5.7.26 no DKIM"}, {"kind": "bounced_soft", "reason": "authentication"}),
        ({"type": "bounced"}, {"kind": "bounced_soft", "reason": "unknown"}),
        ({"type": "deferred", "code": 421}, {"kind": "deferred", "reason": "congestion"}),
        ({"type": "complained"}, {"kind": "complained"}),
        ({"type": "clicked", "link": 1}, {"kind": "clicked", "link": 1}),
        ({"type": "clicked", "link": "https://b/"}, {"kind": "clicked", "link": 1}),
        ({"type": "clicked", "link": "https://c/"}, {"kind": "clicked", "link": None}),
        ({"type": "opened", "link": 1}, {"kind": "opened", "link": None}),
    ],
)
def test_a_report_becomes_one_event(changed: dict[str, Any], wanted: dict[str, Any]) -> None:
    event = made(**changed)
    assert {name: event[name] for name in wanted} == wanted


def test_F28_the_same_report_has_the_same_id_and_another_one_has_not() -> None:
    distinct = [
        {},
        {"id": "1"},
        {"id": "2"},
        {"type": "complained"},
        {"id": "1", "type": "complained"},
        {"at": NOW * 1000},
    ]
    ids = [made(**one)["event_id"] for one in distinct]
    assert ids == [made(**one)["event_id"] for one in distinct]
    assert len(set(ids)) == len(distinct)
    # with an id of its own a report may be corrected in its details and stays the same one
    assert made(id="1", at=NOW * 1000)["event_id"] == made(id="1")["event_id"]
