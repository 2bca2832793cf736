"""CSS moved from `<style>` into the elements, since many mail programs read no other. What cannot be moved, such as
media queries, stays in the head.

Jinja2 is put out of the HTML parser's way meanwhile, each piece as one character that the source does not have; a
`{% … %}` between elements in a comment, which may stand anywhere.
"""

from __future__ import annotations

import re

import css_inline

from mailmill.errors import Misconfigured
from mailmill.pipelines.target import inserts

_STYLE = re.compile(r"<style\b.*?</style\s*>", re.IGNORECASE | re.DOTALL)
_JINJA = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)
_TAG_OR_JINJA = re.compile(r"<!--.*?-->|<[A-Za-z/!](?:[^>\"']|\"[^\"]*\"|'[^']*')*>|" + _JINJA.pattern, re.DOTALL)
_MARK = re.compile(f"[{inserts.MARKS}]")
_HELD = re.compile(f"<!--{_MARK.pattern}-->|{_MARK.pattern}")


def inlined(html: str) -> str:
    """The source with its styles in its elements; as it is when it has none, or Jinja2 writes them.

    Raises: Misconfigured when the CSS cannot be read.
    """
    styles = _STYLE.findall(html)
    if not styles or any(_JINJA.search(style) for style in styles):
        return html
    marks, held = inserts.marks(html), dict[str, str]()

    def kept(jinja: str, form: str = "{}") -> str:
        mark = form.format(next(marks))
        held[mark] = jinja
        return mark

    def hold(found: re.Match[str]) -> str:
        if not _JINJA.match(found[0]):  # a tag or a comment: in it every piece is a character
            return _JINJA.sub(lambda piece: kept(piece[0]), found[0])
        return kept(found[0], "<!--{}-->" if found[0].startswith("{%") else "{}")

    def back(found: re.Match[str]) -> str:
        return held[found[0]] if found[0] in held else _MARK.sub(lambda mark: held.get(mark[0], mark[0]), found[0])

    try:
        done = _INLINER.inline(_TAG_OR_JINJA.sub(hold, html))
    except (css_inline.InlineError, ValueError) as error:
        raise Misconfigured(f"its CSS cannot be put into the elements: {error}"[:300], place="html") from None
    return _HELD.sub(back, done)


# nothing is read from disk or network: a template that could would read our files
_INLINER = css_inline.CSSInliner(keep_style_tags=False, keep_at_rules=True, load_remote_stylesheets=False)
