"""The sources of a message's parts with our links in them: clicks counted, pixel at the end.

Each link becomes `{{ _token_N }}`: 0 the unsubscribe link, 1 the pixel, n + 2 the variant's link n.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from mailmill.pipelines.target import inserts
from mailmill.pipelines.target.anchors import anchors, without_comments

_TEXT_URL = re.compile(r"https?://[^\s<>\"'{}]+", re.IGNORECASE)
_END_OF_BODY = re.compile(r"</body\s*>", re.IGNORECASE)
_PIXEL = '<img src="{{ _token_1 }}" alt="" width="1" height="1" style="display:none">'


def tracked_html(source: str, links: Sequence[str]) -> str:
    """The HTML source whose links go through us, with the pixel at its end."""
    numbers = {url: number for number, url in enumerate(links)}
    for anchor in reversed(anchors(source)):
        if not anchor.dynamic and anchor.url in numbers:
            source = f"{source[: anchor.start]}{{{{ _token_{numbers[anchor.url] + 2} }}}}{source[anchor.end :]}"
    ends = list(_END_OF_BODY.finditer(without_comments(source)))  # in a comment a picture is not fetched
    at = ends[-1].start() if ends else len(source)
    return source[:at] + _PIXEL + source[at:]


def tracked_text(source: str, links: Sequence[str]) -> str:
    """The text source; an address that is also a link of the HTML goes through us, so that its clicks count alike."""
    numbers = {url: number for number, url in enumerate(links)}
    chunks = inserts.split(source)  # text and Jinja2 by turns
    end = len(chunks) - 1

    def tracked(chunk: str, last: bool) -> str:
        def click(found: re.Match[str]) -> str:
            url = found[0]
            while url not in numbers and url.endswith((".", ",", ";", ":", "!", "?", ")")):  # of the sentence, then
                url = url[:-1]
            whole = last or found.end() < len(chunk)  # else it goes on with a merge field
            known = whole and url in numbers
            return f"{{{{ _token_{numbers[url] + 2} }}}}{found[0][len(url) :]}" if known else found[0]

        return _TEXT_URL.sub(click, chunk)

    return "".join([chunk if at % 2 else tracked(chunk, at == end) for at, chunk in enumerate(chunks)])
