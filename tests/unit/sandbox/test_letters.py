"""What the sandbox finds in a message: pictures and links of the ingress, not of others."""

from __future__ import annotations

import quopri
from email.message import EmailMessage
from email.policy import SMTP

import pytest

from mailmill.sandbox.letters import moved, names, read

BASE = "https://mail.acme.example"
HTML = f"""<p><a href="{BASE}/c/one">one</a> <a class=x href='{BASE}/c/two?a=1&amp;b=2'>two</a>
<a href="https://elsewhere.example/">else</a> <a href="{BASE}/u/tok">unsubscribe</a>
<img alt="" src="{BASE}/o/pix" width="1"><img src="https://cdn.example/logo.png"></p>"""


def a_message(html: str = HTML, unsubscribe: str = f"<mailto:x@y>, <{BASE}/u/tok>") -> bytes:
    message = EmailMessage(policy=SMTP)
    message["From"] = "a@acme.example"
    message["Message-ID"] = "<tok@bounce.acme.example>"
    message["X-Mailmill-Id"] = "77"
    message["List-Unsubscribe"] = unsubscribe
    message.set_content("text")
    message.add_alternative(html, subtype="html", cte="quoted-printable")
    return message.as_bytes()


def test_only_the_sender_s_own_urls_are_found() -> None:
    letter = read(a_message())
    assert letter.unsubscribe == f"{BASE}/u/tok"
    assert letter.links == (f"{BASE}/c/one", f"{BASE}/c/two?a=1&b=2")
    assert letter.pictures == (f"{BASE}/o/pix",)


def test_a_message_without_an_unsubscribe_url_has_nothing_to_follow() -> None:
    letter = read(a_message(unsubscribe="<mailto:x@y>"))
    assert (letter.unsubscribe, letter.links, letter.pictures) == (None, (), ())


def test_names_come_from_the_headers_only() -> None:
    assert names(a_message()) == ("<tok@bounce.acme.example>", "77")
    assert names(b"From: a@b\r\n\r\nMessage-ID: <x@y>\r\n") == ("", "")


def test_a_quoted_printable_link_is_read_whole() -> None:
    html = f'<a href="{BASE}/c/{"x" * 100}">x</a>'
    content = (
        b"List-Unsubscribe:\r\n <" + BASE.encode() + b"/u/t>\r\nContent-Type: text/html\r\n"
        b"Content-Transfer-Encoding: quoted-printable\r\n\r\n" + quopri.encodestring(html.encode())
    )
    assert read(content).links == (f"{BASE}/c/{'x' * 100}",)


@pytest.mark.parametrize(
    ("url", "ingress", "wanted"),
    [
        (f"{BASE}/o/x", "http://127.0.0.1:8025", "http://127.0.0.1:8025/o/x"),
        (f"{BASE}/c/x?a=b", "http://127.0.0.1:8025/in/", "http://127.0.0.1:8025/in/c/x?a=b"),
        ("http://127.0.0.1:9/o/x", None, "http://127.0.0.1:9/o/x"),
        (f"{BASE}/o/x", None, None),
    ],
)
def test_the_sandbox_does_not_leave_this_machine(url: str, ingress: str | None, wanted: str | None) -> None:
    assert moved(url, ingress) == wanted
