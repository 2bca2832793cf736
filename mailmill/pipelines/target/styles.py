"""CSS put into the elements too, since many mail programs read no `<style>`. That stays, for what they cannot hold:
media queries, `:hover`, what is about elements that some programs put around a message, and what is for some of the
recipients: a `<style>` within a condition, Outlook's too, an element whose class or id Jinja2 makes, or a rule that
counts elements (`:nth-child(even)`) where Jinja2 decides how many there are.

Jinja2 is put out of the HTML parser's way meanwhile, each piece as one character that the source does not have; a
`{% … %}` between elements in a comment, which may stand anywhere. So is what the parser would spoil or apply where it
should not: Outlook's `<![if …]>`, and a `<style>` for some media or recipients only.
"""

from __future__ import annotations

import re

import css_inline

from mailmill.errors import Misconfigured
from mailmill.pipelines.target import attributes, inserts

# what does not close takes the rest along, as it does where HTML is read
_STYLE = re.compile(r"<style\b.*?(?:</style\s*>|\Z)", re.IGNORECASE | re.DOTALL)
_PIECE = re.compile(
    rf"(?P<comment><!--.*?(?:-->|\Z))|(?P<style>{_STYLE.pattern})"
    r"|(?P<text><(?P<name>title|textarea|script)\b.*?(?:</(?P=name)\s*>|\Z))"  # no element or comment stands in these
    rf"|(?P<tag><[A-Za-z/!]{attributes.INSIDE}(?:>|.*))|{inserts.MARK.pattern}",
    re.DOTALL | re.IGNORECASE,
)
_DOCTYPE = re.compile(r"<!doctype[^>]*>", re.IGNORECASE)
_DOCUMENT = re.compile(r"<(?:!doctype|html|head|body)\b", re.IGNORECASE)
_HELD = re.compile(f"<!--{inserts.MARK.pattern}-->|{inserts.MARK.pattern}")
# what stands between these is not for every version of Outlook, mostly for none, and no comment to everybody else
_OTHERS = re.compile(r"<!--\s*\[if\b[^>]*>\s*<!(?:--\s*)?-->|<!\[if\b", re.IGNORECASE)
_OTHERS_END = re.compile(r"(?:<!--\s*)?<!\[endif\]", re.IGNORECASE)
_LEFT_ALONE = ' data-css-inline="ignore"'
_COUNTS = r"(?:first|last|only|nth|nth-last)-(?:child|of-type)\b"
_COUNTING = re.compile(rf":(?={_COUNTS}|not\((?:[^()]|\([^()]*\))*:{_COUNTS})", re.IGNORECASE)


def inlined(html: str) -> str:
    """The source with its styles in its elements; as it is when it has none for everybody, or Jinja2 writes them.

    Raises: Misconfigured when the CSS cannot be read, or a tag not because of Jinja2 between its attributes.
    """
    source, held = inserts.masked(html)
    return _Inlining(source, held).done() if _STYLE.search(source) else html


class _Inlining:
    """One source's. `held`: what stands for what."""

    def __init__(self, source: str, held: dict[str, str]) -> None:
        self._source, self._held, self._jinja = source, held, frozenset(held)
        self._fresh = inserts.marks(source)
        self._depth = 0  # of conditions and loops
        # what no element is meanwhile, put into the selector of a rule that counts elements
        self._nobody = f"/*{next(self._fresh)}*/:active" if any(map(inserts.opened, held.values())) else ""
        self._others = False  # whether it is not for Outlook
        self._applied = self._written = False  # whether there is a style for everybody, and one that Jinja2 writes
        self._between_at: int | None = None  # where a tag has Jinja2 between its attributes
        # of a source without a head, the parser would put a condition that stands before all else into the one it
        # makes, and its end elsewhere; once there is a body, another <body> is nothing
        self._body = "" if _DOCUMENT.search(source) else "<body>"

    def done(self) -> str:
        held = _PIECE.sub(self._hold, self._source)
        if self._written or not self._applied:
            return inserts.back(self._source, self._held)
        if self._between_at is not None:
            raise _between_attributes(inserts.back(self._source[: self._between_at], self._held).count("\n") + 1)
        try:
            done = _INLINER.inline(held)
        except (css_inline.InlineError, ValueError) as error:
            raise Misconfigured(f"its CSS cannot be put into the elements: {error}"[:300], place="html") from None
        done = done.replace(self._nobody, "") if self._nobody else done
        was, now = _DOCTYPE.search(self._source), _DOCTYPE.search(done)
        if was and now:  # the parser writes but one, and programs lay out by it
            done = done[: now.start()] + was[0] + done[now.end() :]
        return _HELD.sub(self._back, done.replace(_LEFT_ALONE, ""))

    def _hold(self, found: re.Match[str]) -> str:
        text, kind = found[0], found.lastgroup
        self._depth += sum(inserts.opened(self._held.get(mark, "")) for mark in inserts.MARK.findall(text))
        if text.startswith("<!"):
            self._others = (self._others or _OTHERS.match(text) is not None) and not _OTHERS_END.match(text)
        if kind == "style":
            if self._depth > 0 or self._others or _for_some_media(text):
                return self._apart(text)
            self._applied, self._written = True, self._written or not self._jinja.isdisjoint(text)
            return _COUNTING.sub(f"{self._nobody}:", text)
        if kind != "tag":  # a comment, a text, or a piece between elements
            return self._between(text) if self._held.get(text, "{{").startswith(("{%", "{#")) else text
        if text.startswith("<!["):
            return self._apart(text)
        if text.endswith(">") and not self._jinja.isdisjoint(text):
            return self._tag(text, found.start())
        return text

    def _between(self, mark: str) -> str:
        comment = f"<!--{mark}-->"
        self._held[comment] = self._held[mark]
        return (self._body if inserts.opened(self._held[mark]) > 0 else "") + comment

    def _apart(self, text: str) -> str:
        comment = f"<!--{next(self._fresh)}-->"
        self._held[comment] = inserts.back(text, self._held)
        return comment

    def _tag(self, text: str, start: int) -> str:
        if not self._jinja.isdisjoint(attributes.FOUND.sub("", text)):
            self._between_at = start if self._between_at is None else self._between_at
        if text[1] in "/!" or not self._for_some(attributes.read(text)):
            return text
        return attributes.NAME.sub(lambda name: name[0] + _LEFT_ALONE, text, count=1)

    def _for_some(self, values: dict[str, str]) -> bool:
        """Whether not everybody's element is what the same rules are about, or its own style is no list before Jinja2
        makes it one."""
        of_rules, own = values.get("class", "") + values.get("id", ""), values.get("style", "")
        if not self._jinja.isdisjoint(of_rules):
            return True
        return not self._jinja.isdisjoint(own) and any(":" not in one for one in own.split(";") if one.strip())

    def _back(self, found: re.Match[str]) -> str:
        return self._held[found[0]] if found[0] in self._held else inserts.back(found[0], self._held)


def _for_some_media(element: str) -> bool:
    tag = re.match(rf"<style{attributes.INSIDE}>", element, re.IGNORECASE)
    media = attributes.read(tag[0]).get("media", "") if tag else ""
    return media.strip().lower() not in ("", "all", "screen")


def _between_attributes(line: int) -> Misconfigured:
    return Misconfigured(
        "Jinja2 stands between the attributes of a tag, and the template has a <style>", place=f"html:{line}",
        remedy="CSS cannot be put into such an element. Put the Jinja2 into a value, as in "
        """class="{% if vip %}gold{% endif %}".""",
    )  # fmt: skip


# nothing is read from disk or network: a template that could would read our files
_INLINER = css_inline.CSSInliner(keep_style_tags=True, keep_link_tags=True, load_remote_stylesheets=False)
