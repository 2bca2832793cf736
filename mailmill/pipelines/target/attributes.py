"""The attributes of an HTML tag.

Source: HTML Living Standard, sections 13.2.5.32 to 13.2.5.39 (attributes) and 13.2.5.73 (named character references).
"""

from __future__ import annotations

import re
from html import unescape
from html.entities import html5

from mailmill.pipelines.target import inserts

# name and value, as HTML's tokenizer parts them; what Jinja2 says between two belongs to neither
FOUND = re.compile(rf"([^\s\"'>/={inserts.MARKS}]+)(?:\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s\"'>]+)))?")
NAME = re.compile(r"<[^\s/>]*")  # of a tag, with what opens it
INSIDE = r"""(?:[^>"']|"[^"]*"|'[^']*')*+"""  # a tag up to its end, which is in no quotation
_REFERENCE = re.compile(r"&(#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[A-Za-z][A-Za-z0-9]*[;=]?)")


def read(tag: str) -> dict[str, str]:
    """The attributes of a tag's source by name in small letters; of several with one name the first counts."""
    found: dict[str, str] = {}
    start = NAME.match(tag)
    for one in FOUND.finditer(tag, start.end() if start else 0):
        group = one.lastindex or 1
        found.setdefault(one[1].lower(), value(one[group]) if group > 1 else "")
    return found


def value(written: str) -> str:
    """An attribute's value with its character references resolved.

    In text `&region` is `®ion`. In an attribute it stays as it is: without `;` a name counts only where neither `=`
    nor a letter or digit follows, so that addresses may hold a bare `&`.
    """
    return _REFERENCE.sub(_resolved, written)


def _resolved(found: re.Match[str]) -> str:
    return unescape(found[0]) if found[1].startswith("#") or found[1] in html5 else found[0]
