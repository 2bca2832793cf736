"""Headers: what an operator or a name in any script puts into them comes back as it was, and nothing gets beside it."""

from __future__ import annotations

import re
from email import message_from_bytes
from email.header import decode_header, make_header
from email.policy import default as policy
from email.utils import parseaddr
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailmill.pipelines.send import headers, mime
from mailmill.pipelines.send.headers import problem

LINES = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=200)


def fixed(**changed: Any) -> Any:
    content = {
        "from_name": "Harbor", "from_address": "news@harbor.example", "reply_to": None,
        "list_id": "spring.harbor.example", **changed,
    }  # fmt: skip
    lines = headers.fixed(content, tenant=7, campaign=8, boundary="=_b")
    # a word of ASCII that an operator wrote is never broken
    assert all(len(line) <= 78 or (len(line) <= 998 and b" " not in line[1:]) for line in lines.split(b"\r\n")), lines
    message = message_from_bytes(lines + b"\r\n", policy=policy)
    assert not [defect for name, value in message.items() for defect in value.defects if name != "Content-Type"]
    return message


def shown_name(name: str) -> str:
    """By the older reader of the standard library: the newer one keeps the space between encoded words (3.11)."""
    raw = fixed(from_name=name)
    assert len(raw["From"].addresses) == 1 and raw["From"].addresses[0].addr_spec == "news@harbor.example"
    line = next(value for key, value in raw.raw_items() if key == "From")
    return str(make_header(decode_header(parseaddr(str(line).replace("\r\n", ""))[0])))


@settings(max_examples=200, deadline=None)
@given(LINES.filter(str.strip))
def test_any_name_comes_back_as_it_was(name: str) -> None:
    assert shown_name(name) == name.strip()


@pytest.mark.parametrize(
    "name", ['Anna "Ann" Lee', "O'Brien\\", "a,b;c:d<e>@f", "=?utf-8?q?x?=", "x" * 300, "(c)", "é" * 90]
)
def test_an_odd_name_comes_back_as_it_was(name: str) -> None:
    assert shown_name(name) == name


@settings(max_examples=200, deadline=None)
@given(LINES.filter(str.strip))
def test_an_operators_header_comes_back_as_it_was(value: str) -> None:
    message = fixed(headers={"X-Campaign-With-A-Rather-Long-Name-For-A-Header": value})
    # the standard library keeps the space that a folded line begins with
    assert str(message["X-Campaign-With-A-Rather-Long-Name-For-A-Header"]).lstrip(" ") == value.lstrip(" ")


HELP = "<https://www.example.com/help/about/our/newsletter/and/how/to/leave/it/again?x==?a?q?b?=>"


@pytest.mark.parametrize("name", ["List-Help", "list-owner", "Errors-To", "X-Reference"])
@pytest.mark.parametrize(
    "value", [HELP, f"<mailto:help@harbor.example> (by mail), {HELP}", "<" + "x" * 898 + ">", " a  b "]
)
def test_a_field_that_programs_read_has_no_encoded_words(name: str, value: str) -> None:
    """RFC 2369 and RFC 2047 section 5. Nor does a long word of ASCII need any elsewhere, an address say."""
    if name.startswith("X-"):
        value = value.replace("=?", "=").strip()
    message = fixed(headers={name: value})
    (raw,) = [said for key, said in message.raw_items() if key == name]
    assert "=?utf-8" not in raw and " ".join(str(raw).split()) == " ".join(value.split())
    if not name.startswith("X-"):
        assert "nothing beyond ASCII" in str(problem(name, "<https://www.example.com/hilfe/für/alle>"))
    assert problem("X-Reference", "Für alle") is None


@pytest.mark.parametrize(
    "name", ["Bcc", "received", "Return-Path", "DKIM-Signature", "Authentication-Results", "Sender", "Content-Type",
             "content-anything", "MIME-Version", "From", "List-Unsubscribe", "X-Mailmill-Id", "ARC-Seal", "Resent-To",
             "X Y", "X:Y", "", "Ü", "X\r\nBcc"],
)  # fmt: skip
def test_M10_a_header_that_is_not_theirs_is_refused(name: str) -> None:
    assert problem(name, "x")
    with pytest.raises(ValueError):
        fixed(headers={name: "x"})


@pytest.mark.parametrize("value", ["a\r\nBcc: x@y.z", "a\nb", "a\0b", "a\u2028b", "a\x85b", "", "  ", "x" * 901])
def test_M10_a_value_that_would_break_out_is_refused(value: str) -> None:
    assert problem("X-Ok", value)
    with pytest.raises(ValueError):
        fixed(headers={"X-Ok": value})


def test_a_domain_beyond_ascii_goes_out_as_punycode() -> None:
    assert fixed(from_address="news@büro.example")["From"].addresses[0].domain == "xn--bro-hoa.example"
    for wrong in ("nüws@harbor.example", "news", "news@a..b"):
        with pytest.raises(ValueError):
            mime.ascii_address(wrong if wrong != "news@a..b" else "news@ü..b")


def test_M4_one_https_and_one_mailto_when_somebody_reads_it() -> None:
    start = headers.leave_by_mail({"unsubscribe_mailbox": "leave@harbor.example"})
    assert start == b"mailto:leave@harbor.example?subject=unsubscribe%20"
    assert headers.leave_by_mail({}) == b""
    assert re.search(rb"\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n",
                     headers.fixed({"from_name": "a", "from_address": "a@b.example", "list_id": "x"}, tenant=1,
                                   campaign=2, boundary="b"))  # fmt: skip
