"""Who asks by mail to be left alone: the token is found in whatever mail programs make of the subject."""

from __future__ import annotations

import pytest

from mailmill.pipelines.listen.leaving import token_of

TOKEN = "AAIAAAAAAAEAAAABAAAAAAAAjBkYUxHpI7N8dE-_"


@pytest.mark.parametrize(
    "header",
    [f"Subject: unsubscribe {TOKEN}", f"subject:unsubscribe\r\n {TOKEN}", f"Subject: Unsubscribe  {TOKEN} ",
     f"Subject: AW: unsubscribe {TOKEN}", f"Subject: =?utf-8?Q?unsubscribe_{TOKEN.replace('_', '=5F')}?=",
     f"X-Other: a\r\nSubject: unsubscribe {TOKEN}\r\nTo: leave@acme.example"],
)  # fmt: skip
def test_the_token_is_found(header: str) -> None:
    assert token_of(f"{header}\r\n\r\nsent from my telephone".encode()) == TOKEN


@pytest.mark.parametrize(
    "message",
    [b"", b"\xff\x00\xfe", b"Subject: unsubscribe\r\n\r\n", f"Subject: unsubscribe {TOKEN}x\r\n\r\n".encode(),
     f"Subject: hello\r\n\r\nSubject: unsubscribe {TOKEN}".encode(), f"Subject: {TOKEN}\r\n\r\n".encode(),
     b"Subject: =?broken?Q?x?=\r\n\r\n", b"Subject: =?utf-8?B?####?=\r\n\r\n"],
)  # fmt: skip
def test_what_holds_none_is_none(message: bytes) -> None:
    assert token_of(message) is None
