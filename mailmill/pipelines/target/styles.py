"""CSS moved from `<style>` into the elements, since many mail programs read no other. What cannot be moved, such as
media queries, stays in the head.

Jinja2 is put out of the HTML parser's way meanwhile: a `{% … %}` between elements is a comment, which may stand
anywhere; everything else is a character of private use.
"""

from __future__ import annotations

import re

import css_inline

from mailmill.errors import Misconfigured

_STYLE = re.compile(r"<style\b.*?</style\s*>", re.IGNORECASE | re.DOTALL)
_JINJA = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)
_TAG_OR_JINJA = re.compile(r"<!--.*?-->|<[A-Za-z/!](?:[^>\"']|\"[^\"]*\"|'[^']*')*>|" + _JINJA.pattern, re.DOTALL)
_FIRST = 0xF0000
_HELD = re.compile("<!--mm(\\d+)-->|[\U000f0000-\U000ffffd]")


def inlined(html: str) -> str:
    """The source with its styles in its elements; as it is when it has none, or Jinja2 writes them.

    Raises: Misconfigured when the CSS cannot be read.
    """
    styles = _STYLE.findall(html)
    if not styles or any(_JINJA.search(style) for style in styles):
        return html
    held: list[str] = []

    def hold(found: re.Match[str]) -> str:
        if not _JINJA.match(found[0]):  # a tag or a comment: in it every piece is a character
            return _JINJA.sub(lambda piece: _kept(held, piece[0]), found[0])
        if found[0].startswith("{%"):
            held.append(found[0])
            return f"<!--mm{len(held) - 1}-->"
        return _kept(held, found[0])

    try:
        done = _INLINER.inline(_TAG_OR_JINJA.sub(hold, html))
    except (css_inline.InlineError, ValueError) as error:
        raise Misconfigured(f"its CSS cannot be put into the elements: {error}"[:300], place="html") from None
    return _HELD.sub(lambda found: held[int(found[1]) if found[1] else ord(found[0]) - _FIRST], done)


def _kept(held: list[str], jinja: str) -> str:
    held.append(jinja)
    return chr(_FIRST + len(held) - 1)


# nothing is read from disk or network: a template that could would read our files
_INLINER = css_inline.CSSInliner(keep_style_tags=False, keep_at_rules=True, load_remote_stylesheets=False)
