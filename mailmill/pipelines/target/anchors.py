"""The links of an HTML template, found in its Jinja2 source with their places, and values that tags do not quote.

Outlook reads what stands in its conditional comments, buttons as VML above all; to everybody else they are comments.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from mailmill.pipelines.send.mime import ascii_host
from mailmill.pipelines.target import attributes, inserts
from mailmill.pipelines.target.grammar import KEEPING

_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_CONDITIONAL = re.compile(r"<!--\s*\[if\b", re.IGNORECASE)
# one that does not close takes the rest along, as it does where HTML is read
_LINK = re.compile(rf"<(?:a|area|v:[a-z]+)(?=[\s/>]){attributes.INSIDE}(?:(>)|.*)", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(rf"<[A-Za-z]{attributes.INSIDE}(?:>|.*)", re.DOTALL)
_FOUND = re.compile(r"https?://[^/]|data:|\{[{%]", re.IGNORECASE)  # of a picture; what Jinja2 prints, nobody knows yet
_UNTRACKED = re.compile(r"#|(?:mailto|tel|sms):", re.IGNORECASE)  # a place in the message, or another program's
_UNSUBSCRIBE = re.compile(  # it is always there, so a default of it is never shown
    rf"^\{{\{{-?\s*unsubscribe_url\s*(?:\|\s*(?:{'|'.join(sorted(KEEPING))})\b\s*"
    r"(?:\((?:[^()\"']|\"[^\"]*\"|'[^']*')*+\)\s*)?)*+-?\}\}$"
)
_UNCLOSED = "does not end: its tag, or a quotation in it, is not closed"
# of an address; other characters beyond ASCII, invisible ones too, are written as %XX (in Persian they join words)
BAD = re.compile(r"[\x00-\x20\x7f-\x9f\u2028\u2029\\]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """The `href` of an `<a>`, an `<area>` or a shape of VML: `start` and `end` cut its value out of the source, `url`
    is that value with entities resolved.

    `dynamic`: it holds Jinja2, so it is each recipient's own. `problem` says why it cannot be sent.
    """

    url: str
    start: int
    end: int
    line: int
    dynamic: bool
    problem: str | None


def without_comments(html: str, *, outlook: bool = False) -> str:
    """The source with HTML comments blanked; as `outlook` reads it, to which conditional ones are none."""

    def blank(found: re.Match[str]) -> str:
        return found[0] if outlook and _CONDITIONAL.match(found[0]) else re.sub(r"[^\n]", " ", found[0])

    end = html.rfind("-->") + 3  # behind it none closes
    return _COMMENT.sub(blank, html[:end]) + html[end:]


def anchors(html: str) -> list[Anchor]:
    """Every link of a template's HTML source that leads to the web, in its order; those in comments are none.

    A tag may have several, in branches of a condition. `#place`, `mailto:`, `tel:` and `sms:` are left as they stand.
    """
    chunks = inserts.split(without_comments(html, outlook=True))
    mask = next(inserts.marks(html))  # character for character, so that places stay what they are
    masked = "".join([mask * len(chunk) if at % 2 else chunk for at, chunk in enumerate(chunks)])
    found = []
    for tag in _LINK.finditer(masked):
        if not tag[1]:
            found.append(_anchor(html, masked, mask, tag.start(), min(tag.end(), tag.start() + 80), _UNCLOSED))
            continue
        for attribute in attributes.FOUND.finditer(tag[0], 2):
            group = attribute.lastindex or 1
            if attribute[1].lower() == "href" and group > 1 and not _UNTRACKED.match(attribute[group].strip()):
                start, end = tag.start() + attribute.start(group), tag.start() + attribute.end(group)
                found.append(_anchor(html, masked, mask, start, end))
    return found


def unquoted(html: str) -> int | None:
    """The line of a tag that prints something without quotes around it, None when there is none: a value with a space
    would be an attribute of its own there."""
    chunks = inserts.split(without_comments(html, outlook=True))
    mask = next(inserts.marks(html))
    for at in range(1, len(chunks), 2):
        prints = chunks[at].startswith("{{") and not _UNSUBSCRIBE.match(chunks[at])
        chunks[at] = (mask if prints else "x") * len(chunks[at])
    masked = "".join(chunks)
    for tag in _TAG.finditer(masked):
        outside = attributes.FOUND.sub(lambda found: found[4] or "", tag[0])
        if mask in outside:
            return html.count("\n", 0, tag.start()) + 1
    return None


def picture_nowhere(html: str) -> tuple[int, str] | None:
    """Line and address of the first `<img>` whose picture no mail program can find, such as one beside the file."""
    shown = without_comments(html, outlook=True)
    for tag in _TAG.finditer(shown):
        source = attributes.read(tag[0]).get("src", "").strip() if tag[0][:4].lower() == "<img" else ""
        if source and not _FOUND.match(source):
            return html.count("\n", 0, tag.start()) + 1, source
    return None


def _anchor(html: str, masked: str, mask: str, start: int, end: int, problem: str | None = None) -> Anchor:
    url, shape = attributes.value(html[start:end]).strip(), attributes.value(masked[start:end]).strip()
    return Anchor(
        url=url, start=start, end=end, line=html.count("\n", 0, start) + 1, dynamic=mask in shape,
        problem=problem or (None if _UNSUBSCRIBE.match(url) else _problem(shape, mask)),
    )  # fmt: skip


def _problem(url: str, mask: str) -> str | None:
    """Why an address cannot be sent, None when it can. Scheme and host are never a recipient's to choose."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
        ascii_host((host or "").replace(mask, ""))
    except ValueError:
        return "is no address"
    if parts.scheme not in ("http", "https") or not host:
        return "does not begin with http:// or https:// and a host"
    if mask in parts.netloc:
        return "has a host that depends on a merge field"
    if "@" in parts.netloc:
        return "has a user name or password in it"
    if BAD.search(url):
        return "holds a space, a backslash or a control character"
    if len(url) > 2000:
        return "is longer than 2,000 characters"
    return None
