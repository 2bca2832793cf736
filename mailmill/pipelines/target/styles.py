"""CSS put into the elements too, since many mail programs read no `<style>`. That stays, for what they cannot hold:
media queries, `:hover`, and what is about elements that some programs put around a message.

Jinja2 is put out of the HTML parser's way meanwhile, each piece as one character that the source does not have; a
`{% … %}` between elements in a comment, which may stand anywhere. So is what the parser would spoil or apply where it
should not: Outlook's `<![if …]>`, and a `<style>` for some media only.
"""

from __future__ import annotations

import re

import css_inline

from mailmill.errors import Misconfigured
from mailmill.pipelines.target import attributes, inserts

# what does not close takes the rest along, as it does where HTML is read
_STYLE = re.compile(r"<style\b.*?(?:</style\s*>|\Z)", re.IGNORECASE | re.DOTALL)
_JINJA = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)
_TAG = r"<[A-Za-z/!](?:[^>\"']|\"[^\"]*\"|'[^']*')*+(?:>|.*)"
_PIECE = re.compile(
    rf"(?P<comment><!--.*?(?:-->|\Z))|(?P<style>{_STYLE.pattern})"
    r"|(?P<text><(?P<name>title|textarea|script)\b.*?(?:</(?P=name)\s*>|\Z))"  # no element or comment stands in these
    rf"|(?P<tag>{_TAG})|{_JINJA.pattern}",
    re.DOTALL | re.IGNORECASE,
)
_DOCTYPE = re.compile(r"<!doctype[^>]*>", re.IGNORECASE)
_DOCUMENT = re.compile(r"<(?:!doctype|html|head|body)\b", re.IGNORECASE)
_MARK = re.compile(f"[{inserts.MARKS}]")
_HELD = re.compile(f"<!--{_MARK.pattern}-->|{_MARK.pattern}")


def inlined(html: str) -> str:
    """The source with its styles in its elements; as it is when it has none, or Jinja2 writes them.

    Raises: Misconfigured when the CSS cannot be read, or a tag not because of Jinja2 between its attributes.
    """
    styles = _STYLE.findall(html)
    if not styles or any(_JINJA.search(style) for style in styles):
        return html
    marks, held = inserts.marks(html), dict[str, str]()
    # of a source without a head, the parser would put a condition that stands before all else into the one it makes,
    # and its end elsewhere; once there is a body, another <body> is nothing
    body = "" if _DOCUMENT.search(html) else "<body>"

    def kept(jinja: str, form: str = "{}") -> str:
        mark = form.format(next(marks))
        held[mark] = jinja
        return mark

    def hold(found: re.Match[str]) -> str:
        text = found[0]
        if text.startswith(("{%", "{#", "<![")) or (found.lastgroup == "style" and _for_some_media(text)):
            return (body if text.startswith("{") else "") + kept(text, "<!--{}-->")
        shown = _JINJA.sub(lambda piece: kept(piece[0]), text)
        is_tag = found.lastgroup == "tag" and text.endswith(">")
        if is_tag and any(mark in held for mark in attributes.FOUND.sub("", shown)):
            raise _between_attributes(html.count("\n", 0, found.start()) + 1)
        return shown

    def back(found: re.Match[str]) -> str:
        return held[found[0]] if found[0] in held else _MARK.sub(lambda mark: held.get(mark[0], mark[0]), found[0])

    try:
        done = _INLINER.inline(_PIECE.sub(hold, html))
    except (css_inline.InlineError, ValueError) as error:
        raise Misconfigured(f"its CSS cannot be put into the elements: {error}"[:300], place="html") from None
    was, now = _DOCTYPE.search(html), _DOCTYPE.search(done)
    if was and now:  # the parser writes but one, and programs lay out by it
        done = done[: now.start()] + was[0] + done[now.end() :]
    return _HELD.sub(back, done)


def _for_some_media(element: str) -> bool:
    tag = re.match(_TAG, element)
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
