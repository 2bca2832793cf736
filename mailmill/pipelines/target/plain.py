"""What a reader sees of HTML: as the text part of a message, and to know whether something is shown at all.

Jinja2 in the source stays where it stands, so that the text is a template too.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from html.parser import HTMLParser
from urllib.parse import unquote

from mailmill.pipelines.target import attributes, inserts

_AROUND_END = re.compile(r"(?:(?<![ \t])[ \t]+)?\n[ \t]*")  # a run of spaces is tried from its beginning only
_BLOCKS = frozenset({
    "address", "article", "aside", "blockquote", "body", "center", "dd", "div", "dl", "dt", "figure", "footer", "form",
    "h1", "h2", "h3", "h4", "h5", "h6", "header", "html", "hr", "main", "nav", "ol", "p", "pre", "section", "table",
    "tbody", "tfoot", "thead", "tr", "ul",
})  # fmt: skip
_APART = frozenset({"p", "h1", "h2", "h3", "h4", "h5", "h6", "table", "ul", "ol", "blockquote", "pre", "hr"})
_UNSEEN = frozenset({"head", "title", "style", "script", "template", "noscript", "svg", "object", "select"})
_VOID = frozenset({
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr",
})  # fmt: skip
_HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
_UNFINISHED = re.compile(r"<(?:!--|/?[A-Za-z])")
# of what is around it, and of nothing they are nothing
_RELATIVE = frozenset({"em", "%", "ex", "ch", "cap", "ic", "lh", "larger", "smaller", "inherit", "unset"})
_SIZE = re.compile(
    r"(?<![\w-])font(?:-size\s*:\s*(\d+\.?\d*|\.\d+)?\s*([a-z%]*)"
    # of a font the size is the first number with a unit, or with a line's height behind it
    r"|\s*:[^;]{0,200}?(?<![\w.])(\d+\.?\d*|\.\d+)(?:([a-z%]+)|(?=\s*/)))", re.IGNORECASE,
)  # fmt: skip


def plain_text(html: str) -> str:
    """The text of an HTML source: a line a block, links as `words: address`, nothing that is hidden."""
    source, held = inserts.masked(html)
    reader = _Reader(held)
    reader.feed(source)
    if not _UNFINISHED.match(reader.rawdata):  # a tag or comment that does not end shows nothing of the rest
        reader.close()
    text = _AROUND_END.sub("\n", "".join(reader.out).replace("{{", "{ {").replace("{%", "{ %"))
    text = re.sub(r"\n{3,}", "\n\n", text).strip("\n ") + "\n"
    return inserts.back(text, held)


def _tiny(style: str, around: bool) -> bool:
    """Whether an element's letters have no size. Layouts give it to a cell and take it back within (MJML, say)."""
    tiny = around
    for size, of_size, font, of_font in _SIZE.findall(style):
        number, unit = size or font, of_size or of_font
        if number and not float(number):
            tiny = True
        elif unit.lower() not in _RELATIVE:
            tiny = False
    return tiny


def _shown(href: str) -> str:
    """What of a link's address a reader can use: of a mailto the mailbox, of a place in the message nothing."""
    scheme, colon, rest = href.partition(":")
    if colon and scheme.lower() in ("mailto", "tel", "sms"):
        return unquote(rest.partition("?")[0])
    return "" if href.startswith("#") else href


class _Reader(HTMLParser):
    def __init__(self, held: Mapping[str, str]) -> None:
        super().__init__(convert_charrefs=True)
        self._held = held
        self.out: list[str] = []
        self._open: list[tuple[str, bool, bool]] = []  # elements, whether hidden, whether their letters have no size
        self._opened: Counter[str] = Counter()  # how often each stands in it
        self._links: list[tuple[str, int, int]] = []  # address, where its words begin, and pictures before it
        self._ended = "", 0, 0  # the last of them
        self._pictures = 0
        self._kept = 0  # depth of <pre>

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = attributes.read(self.get_starttag_text() or "")  # the library resolves `&region` in attributes too
        style, (_, hidden, tiny) = found.get("style", ""), self._inner()
        hidden = hidden or tag in _UNSEEN or "hidden" in found or _HIDDEN.search(style) is not None
        if tag not in _VOID:
            self._open.append((tag, hidden, _tiny(style, tiny)))
            self._opened[tag] += 1
        if hidden:
            return
        if tag in _BLOCKS:
            self._break(2 if tag in _APART else 1)
        match tag:
            case "br":
                self.out.append("\n")
            case "li":
                self._break(1)
                self.out.append("- ")
            case "td" | "th":
                self._space()
            case "img":
                self._pictures += 1
                self.out += filter(None, [found.get("alt", "").strip()])
            case "a":
                href = found.get("href", "").strip()
                self._links.append((self._or_before(href), len(self.out), self._pictures))
            case "pre":
                self._kept += 1

    def handle_endtag(self, tag: str) -> None:
        _, hidden, _ = self._inner()
        while self._opened[tag]:  # what was left open in it ends with it
            name, hidden, _ = self._open.pop()
            self._opened[name] -= 1
            if name == tag:
                break
        if hidden:
            return
        if tag == "a" and self._links:
            href, begin, pictures = self._links.pop()
            if self._opened_in(href) > 0:
                href += "".join(self.out[begin:]).lstrip()[:1]  # what ends the condition
            words = " ".join("".join(self.out[begin:]).split())
            said = [one for one in words if not self._held.get(one, "").startswith("{%")]
            self._ended = href, begin, pictures
            if href and (said or self._pictures > pictures):  # else there is nothing to click at
                shown = _shown(href)
                if shown and shown not in words.split():
                    inline = words and not self.out[-1].endswith("\n")  # else it was a block
                    self.out.append(f": {shown}" if inline else shown)
                self.out.append(" ")
        elif tag == "pre":
            self._kept = max(0, self._kept - 1)
        if tag in _BLOCKS:
            self._break(2 if tag in _APART else 1)

    def _or_before(self, href: str) -> str:
        """The address of a link that begins, with that of one that began before it in another branch of a condition:
        `{% if vip %}<a href="a">{% else %}<a href="b">{% endif %}` has one of both. A parser ends the first one there.
        """
        before, begin, _ = self._links[-1] if self._links else self._ended
        between = "".join(self.out[begin:]).strip()
        opens = "" if self._opened_in(before) > 0 else "".join(self.out[:begin]).rstrip()[-1:]
        if not (before and between and set(between) <= self._held.keys() and self._opened_in(opens + before) == 1):
            return href
        del self._links[-1:]
        return opens + before + between + href

    def _opened_in(self, text: str) -> int:
        return sum(inserts.opened(self._held.get(mark, "")) for mark in inserts.MARK.findall(text))

    def _inner(self) -> tuple[str, bool, bool]:
        return self._open[-1] if self._open else ("", False, False)

    def handle_data(self, data: str) -> None:
        if any(self._inner()[1:]):
            return
        if self._kept:
            self.out.append(data)
            return
        text = re.sub(r"[ \t\r\n\f]+", " ", data)
        if text.startswith(" ") and (not self.out or self.out[-1].endswith((" ", "\n"))):
            text = text[1:]
        if text:
            self.out.append(text)

    def _space(self) -> None:
        if self.out and not self.out[-1].endswith((" ", "\n")):
            self.out.append(" ")

    def _break(self, lines: int) -> None:
        """At least so many line ends before what follows."""
        if not self.out:
            return
        tail = "".join(self.out[-lines:])
        ends = len(tail) - len(tail.rstrip("\n"))
        self.out.append("\n" * max(0, lines - ends))
