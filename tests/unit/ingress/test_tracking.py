"""Where a click may lead."""

from __future__ import annotations

import pytest

from mailmill.api.ingress.tracking import location
from mailmill.api.ingress.unsubscribe import is_one_click


@pytest.mark.parametrize(
    ("url", "header"),
    [
        ("https://shop.example/a?x=1&y=%20z#frag", "https://shop.example/a?x=1&y=%20z#frag"),
        ("http://shop.example", "http://shop.example"),
        ("https://shop.example/bücher", "https://shop.example/b%C3%BCcher"),
        ("https://bücher.example/a", "https://xn--bcher-kva.example/a"),
        ("https://shop.example:8443/~a/(b)", "https://shop.example:8443/~a/(b)"),
        ("https://shop.example/?q=[a]|b", "https://shop.example/?q=[a]%7Cb"),
        (
            "https://fa.example/نیم\u200cفاصله",
            "https://fa.example/%D9%86%DB%8C%D9%85%E2%80%8C%D9%81%D8%A7%D8%B5%D9%84%D9%87",
        ),
        (
            "https://shop.example/👩\u200d👧\u00a0\u00ad",
            "https://shop.example/%F0%9F%91%A9%E2%80%8D%F0%9F%91%A7%C2%A0%C2%AD",
        ),
        ("https://Faß.example/", "https://xn--fa-hia.example/"),  # fass.example is somebody else
        ("https://क्\u200dष.example/", "https://xn--11b2ezcw70k.example/"),
        ("https://😀.example/", "https://xn--e28h.example/"),
    ],
)
def test_a_web_page_is_written_as_a_header_holds_it(url: str, header: str) -> None:
    assert location(url) == header


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)", "JaVaScRiPt:alert(1)", "data:text/html,x", "//evil.example/", "/path", "",
        "shop.example", "https://", "https:///x", "file:///etc/passwd", "ftp://shop.example/",
        "https://a.example/\r\nSet-Cookie: a=b",
        "https://a.example/ b", "https://a.example/\u2028", "\thttps://a.example", "https://[bad/", "https://\u200b/",
    ],
)  # fmt: skip
def test_F47_anything_else_leads_nowhere(url: str) -> None:
    assert location(url) is None


def test_a_multipart_field_of_another_name_is_no_one_click() -> None:
    def body(name: str) -> bytes:
        return f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\nOne-Click\r\n--b--\r\n'.encode()

    assert is_one_click("multipart/form-data; boundary=b", body("List-Unsubscribe"))
    assert not is_one_click("multipart/form-data; boundary=b", body("Other"))
    assert not is_one_click("multipart/form-data; boundary=c", body("List-Unsubscribe"))
