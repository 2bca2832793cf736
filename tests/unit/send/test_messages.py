"""Messages: what a mail program reads is what Jinja2 would have written, whatever the values are."""

from __future__ import annotations

import html
import re
import tracemalloc
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default as policy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailmill.pipelines.send import mime
from mailmill.pipelines.send.links import tracked_text
from mailmill.pipelines.send.messages import MISSING, Composer, Outgoing, SigningKeys, Unrenderable
from mailmill.pipelines.send.slots import Block, Names, Slot, pieces
from mailmill.pipelines.send.tokens import Key, Token, verify
from mailmill.pipelines.target.templates import compile as compile_template

KEYS = {purpose: Key(number, bytes([number]) * 32) for number, purpose in enumerate(("t", "u", "r"), 1)}
DATE = b"Fri, 20 Nov 2026 10:00:00 +0000"
LINKS = ["https://shop.example/a?x=1&y=2", "https://shop.example/b"]
HTML = (
    "<html><body><p>Hello {{ first }} of {{ city | default('your & town') }},</p>\n.\n.. dots\n"
    + "<p>" + "long line with ümläuts and = signs " * 30 + "</p>\n"
    '<a href="https://shop.example/a?x=1&amp;y=2">A</a> <a class=x href=\'https://shop.example/b\'>B</a> \n'
    '<a href="https://shop.example/b">again</a> <a href="https://me.example/{{ first }}">own</a>\n'
    '<p>{{ postal_address }} <a href="{{ unsubscribe_url }}">leave</a></p></body></html>\n'
)  # fmt: skip
TEXT = (
    "Hello {{ first }} from {{ city | default('') }} \n.\n.leading dot\ntrailing space \n"
    "See https://shop.example/b. or https://shop.example/b/{{ first }}\n{{ postal_address }}\n{{ unsubscribe_url }}\n"
)
CONDITION = "{% if city %}in {{ city | upper }}{% else %}somewhere{% endif %}"
LONG = "Лето, äö = . <b>  x</b>\n.\n" * 40
SET = (
    "{% set up = first | upper %}{% set no = city %}{{ up }} {% if city %}{{ up }}" + LONG + "{{ first }}{% endif %} "
    "{% for word in first.split() %}{% set up = word | title %}" + LONG + "{{ up }}, {% endfor %}{{ up | lower }}"
)  # fmt: skip
WITHIN = "{% if city %}{% set up = city | upper %}{% else %}{% set up = 'x' %}{% endif %}{{ up }} {{ first }}"

CHAIN = (
    "{% set a = first %}{% set b = a | upper %}{{ b }}{% set first = city | default('') %}{% set a = first ~ b %}"
    "{{ a | lower }}{% if a %}{{ 'x' ~ b if b is defined else 'none' }}{% endif %}"
)  # fmt: skip
CHANGED = (
    "{% filter upper %}" + LONG + "{{ city | default('') }}{% endfilter %}"
    "{% set told %}" + LONG + "{{ first }}{% endset %}{{ told | upper }}"
)  # fmt: skip


PARTS = {"subject": "Hi {{ first }}", "html": HTML, "text": TEXT}


def a_content(**changed: Any) -> dict[str, Any]:
    return {
        "merge_fields": ["first", "city"],
        "variants": [{part: changed.pop(part, source) for part, source in PARTS.items()} | {"links": [0, 1]}],
        "from_name": "Harbor, Café", "from_address": "news@harbor.example", "reply_to": None,
        "return_path_domain": "bounce.harbor.example", "list_id": "spring.harbor.example",
        "postal_address": "1 <Quay> Street", "tenant_name": "Harbor", "public_url": "https://t.example",
        "links": LINKS, **changed,
    }  # fmt: skip


def composer(**changed: Any) -> Composer:
    content = a_content(**changed)
    keys = SigningKeys(tracking=KEYS["t"], unsubscribe=KEYS["u"], return_path=KEYS["r"])
    return Composer(content, tenant=7, campaign=8, keys=keys)


def compose(values: list[str | None], address: str = "anna@example.org", **changed: Any) -> Outgoing:
    raw = [MISSING if value is None else value.encode() for value in values]
    return composer(**changed).compose(9, address.encode(), raw, DATE)


def read(sent: Outgoing) -> EmailMessage:
    message = message_from_bytes(sent.content, policy=policy)
    assert isinstance(message, EmailMessage)
    assert not message.defects
    return message


def parts(sent: Outgoing) -> tuple[str, str]:
    plain, rich = read(sent).iter_parts()
    assert isinstance(plain, EmailMessage) and isinstance(rich, EmailMessage)
    assert (plain.get_content_type(), rich.get_content_type()) == ("text/plain", "text/html")
    return plain.get_content(), rich.get_content()


# merge values as ingest leaves them: no control characters
values = st.one_of(st.none(), st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=120))


def rendered(kind: Any, source: str, first: str | None, city: str | None, **more: str) -> str:
    known = {name: value for name, value in (("first", first), ("city", city)) if value is not None}
    content = a_content()
    constants = {name: content[name] for name in ("postal_address", "tenant_name")}
    return compile_template(kind, source).render({**constants, **known, **more}).replace("\r\n", "\n")


def plain_links(text: str) -> str:
    """Every token's link back to what it stands for, so that two renderings compare."""

    def back(found: re.Match[str]) -> str:
        token = verify(found[2], {1: bytes([1]) * 32}, "click")
        return html.escape(LINKS[token.link], quote=False) if token and token.link is not None else found[0]

    return re.sub(r"https://t\.example/(c)/([\w-]{40})", back, text)


@settings(max_examples=150, deadline=None)
@given(
    st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=120),
    values,
    st.sampled_from(["", CONDITION, SET, WITHIN, CHAIN, CHANGED]),
)
def test_joined_pieces_read_as_jinja_renders_them(first: str, city: str | None, extra: str) -> None:
    sent = composer(html=HTML + extra, text=TEXT + extra, subject="Hi").compose(
        9, b"anna@example.org", [first.encode(), MISSING if city is None else city.encode()], DATE
    )
    plain, rich = parts(sent)
    leave = re.search(r"https://t\.example/u/[\w-]{40}", plain)
    assert leave
    more = {"unsubscribe_url": leave[0]}
    rich = re.sub(r'<img src="https://t\.example/o/[\w-]{40}"[^>]*>', "", rich)
    assert plain_links(plain).replace("\r\n", "\n") == rendered("text", TEXT + extra, first, city, **more)
    expected = rendered("html", HTML + extra, first, city, **more)
    assert plain_links(rich).replace("\r\n", "\n").replace("&amp;", "&") == expected.replace("&amp;", "&")


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=300), st.text(max_size=300))
def test_F41_whatever_the_values_are_lines_are_short_and_no_line_is_a_dot(first: str, city: str) -> None:
    first, city = (text.encode("utf-8", "replace").decode() for text in (first, city))
    try:
        content = compose([first, city], subject="Hi").content
    except Unrenderable:
        return
    assert b"\n." not in content and content.endswith(b"\r\n")
    assert content.count(b"\n") == content.count(b"\r\n") == content.count(b"\r")
    body = content.split(b"\r\n\r\n", 1)[1]
    assert max(len(line) for line in body.split(b"\r\n")) <= 76


@pytest.mark.parametrize(
    "wild", ["\r\n.\r\n", "\n.\n", "\r.\r", "\n.\r\n", "\r\n.\n", "\r\n.\r", "\x00.\r\n", ".", "..\r\n", "\r\n..\r\n"]
)
def test_F41_smuggling_sequences_stay_one_message(wild: str) -> None:
    content = compose([f"a{wild}MAIL FROM:<x@y>", wild], subject="Hi").content
    assert b"\r\n.\r\n" not in content and b"\n.\n" not in content and b"\r.\r" not in content
    assert b"\nMAIL FROM" not in content


@pytest.mark.parametrize("evil", ["x\r\nBcc: a@b.c", "x\nBcc: a@b.c", "x\ry", "x\x00y", "x\u2028y", "x\x85y"])
def test_F40_a_value_cannot_add_a_header(evil: str) -> None:
    with pytest.raises(Unrenderable) as refused:
        compose([evil, "x"])
    assert refused.value.reason == "render_error"
    assert evil not in str(refused.value)


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=300))
def test_a_subject_comes_back_as_it_was(text: str) -> None:
    sent = compose([text, "x"], subject="{{ first }}")
    assert read(sent)["Subject"] == text
    head = sent.content.split(b"\r\n\r\n")[0]
    subject = re.search(rb"^Subject:.*(?:\r\n .*)*", head, re.MULTILINE)
    assert subject and max(map(len, subject[0].split(b"\r\n"))) <= 76


def test_headers_are_what_bulk_mail_needs() -> None:
    message = read(sent := compose(["Anna", "Oslo"], reply_to="help@harbor.example"))
    for name in ("From", "To", "Subject", "Date", "Message-ID", "MIME-Version", "List-Unsubscribe", "List-Id",
                 "List-Unsubscribe-Post", "Feedback-ID", "X-Mailmill-Id", "Reply-To"):  # fmt: skip
        assert len(message.get_all(name, [])) == 1, name
    assert message["From"].addresses[0].display_name == "Harbor, Café"
    assert message["To"] == "anna@example.org" and message["Date"].datetime.year == 2026
    assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    token = message["X-Mailmill-Id"]
    assert verify(token, {3: KEYS["r"].secret}, "return_path") == Token(7, 8, 9)
    assert message["Message-ID"] == f"<{token}@bounce.harbor.example>"
    assert sent.return_path.decode() == f"b+{token}@bounce.harbor.example"
    leave = re.match(r"<https://t\.example/u/([\w-]+)>$", message["List-Unsubscribe"])
    assert leave and verify(leave[1], {2: KEYS["u"].secret}, "unsubscribe") == Token(7, 8, 9)


def test_the_message_id_is_the_same_at_every_attempt() -> None:
    assert compose(["Anna", "Oslo"]).content == compose(["Anna", "Oslo"]).content


def test_links_go_through_us_and_the_recipients_own_do_not() -> None:
    _, rich = parts(compose(["Anna", "Oslo"], html=HTML + "<!--[if mso]></body><![endif]-->"))
    clicked = [verify(token, {1: KEYS["t"].secret}, "click") for token in re.findall(r"/c/([\w-]{40})", rich)]
    assert [token.link for token in clicked if token] == [0, 1, 1]
    assert 'href="https://me.example/Anna"' in rich
    pixel = re.search(r"/o/([\w-]{40})", rich)
    assert pixel and verify(pixel[1], {1: KEYS["t"].secret}, "open") == Token(7, 8, 9)
    assert pixel.start() < rich.index("</body>"), "and in no comment"


def test_an_address_in_capital_letters_is_counted_in_the_text_too() -> None:
    assert tracked_text("See HTTPS://A.example/x.", ["HTTPS://A.example/x"]) == "See {{ _token_2 }}."


def test_an_address_keeps_its_own_last_sign_in_the_text() -> None:
    known = ["https://a.example/b_(c)", "https://a.example/b"]
    text = "{0} ({1}, {0}) {1}?!".format(*known)
    assert tracked_text(text, known) == "{{ _token_2 }} ({{ _token_3 }}, {{ _token_2 }}) {{ _token_3 }}?!"
    assert tracked_text("https://... https://a.example/c)", known) == "https://... https://a.example/c)"


def test_a_missing_value_without_default_is_an_error_for_this_recipient() -> None:
    with pytest.raises(Unrenderable, match="the merge field first has no value"):
        compose([None, "Oslo"])
    assert "your &amp; town" in parts(compose(["Anna", None]))[1]


def test_F42_html_in_a_name_is_text() -> None:
    assert "&lt;b&gt;" in parts(compose(["<b>", "x"]))[1]


@pytest.mark.parametrize("address", ["", "a", "a@", "@b", "a b@c.d", "a@b\r\nc", "ü\u2028@example.org", "a@ü.org",
                                     "a@b>", "a" * 65 + "@b.c", "a@b.c\n", "<a@b.c>", '"a\r"@b.c'])  # fmt: skip
def test_an_address_that_smtp_cannot_carry_is_invalid(address: str) -> None:
    with pytest.raises(Unrenderable) as refused:
        compose(["Anna", "Oslo"], address=address)
    assert refused.value.reason == "unsupported_address"


@pytest.mark.parametrize("address", ["a@b.c", "O'Brien+tag@x-y.example", '"quoted local"@example.org', "a@localhost",
                                     "ü@example.org", "用户@example.org"])  # fmt: skip
def test_an_address_that_smtp_can_carry_is_carried(address: str) -> None:
    assert compose(["Anna", "Oslo"], address=address).recipient == address.encode()


def test_too_few_values_are_an_error_and_not_a_shift() -> None:
    with pytest.raises(Unrenderable):
        composer().compose(1, b"a@b.c", [b"x"], DATE)


def test_what_is_set_holds_up_only_what_uses_it() -> None:
    """`set` shows nothing: the text around it stays text, and a plain field stays a slot."""
    names = Names(fields=["first", "city"], constants={})
    found = pieces(
        "html", "{% set up = city | upper %}" + LONG + "{{ first }}{{ up }}{% if first %}x{% endif %}", names
    )
    assert [type(piece) for piece in found] == [str, Slot, Block, Block]
    assert [piece.fields for piece in found if isinstance(piece, Block)] == [(1,), (0,)]


def test_a_block_is_given_the_links_it_names_and_no_others() -> None:
    """Or a template with many of both would take as long as their product, each time."""
    names = Names(fields=["city"], constants={"tenant_name": "Acme"}, urls=["/u/", "/o/", "/c/1", "/c/2"])
    source = "".join("{% if city %}{{ " + name + " }}{% endif %}" for name in ("_token_2", "_token_3", "tenant_name"))
    found = [piece for piece in pieces("html", source, names) if isinstance(piece, Block)]
    assert [list(block.fixed) for block in found] == [["_token_2"], ["_token_3"], ["tenant_name"]]
    assert [block.text([b"Oslo"]) for block in found] == ["/c/1\x002\0", "/c/2\x003\0", "Acme"]


def test_a_blocks_long_text_is_encoded_once_for_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    made = composer(html=HTML + "{% if city %}" + LONG + "{{ city }}{% endif %}")
    encoded: list[str] = []
    whole = mime.quoted_printable
    monkeypatch.setattr(mime, "quoted_printable", lambda text: encoded.append(text) or whole(text))
    for city in ("Oslo", "Rome"):
        made.compose(9, b"a@b.example", [b"Ann", city.encode()], DATE)
    assert "".join(encoded) == "OsloRome"


@pytest.mark.parametrize(
    ("html", "city"),
    [("{% for word in city.split() %}" + LONG * 10 + "{% endfor %}", "a " * 900), ("{{ city }}" * 1000, "a" * 9000)],
)
def test_what_values_make_too_much_of_is_refused_before_it_is_made(html: str, city: str) -> None:
    made = composer(html=HTML + html)
    tracemalloc.start()
    with pytest.raises(Unrenderable, match="more than 5,000,000 bytes"):
        made.compose(9, b"a@b.example", [b"Ann", city.encode()], DATE)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
