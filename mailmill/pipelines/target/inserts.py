"""Where Jinja2 stands in a template's source."""

from __future__ import annotations

import re

_OPENS = re.compile(r"(?=(\{[{%#]))")  # of {{{% each of the three may open one
_CLOSES = {"{{": "}}", "{%": "%}", "{#": "#}"}


def split(source: str) -> list[str]:
    """Text and Jinja2 by turns, the first a text. What opens and never closes is text, and is looked for once only."""
    chunks, done, never = [], 0, set[str]()
    for found in _OPENS.finditer(source):
        if found.start() < done or found[1] in never:
            continue
        end = source.find(_CLOSES[found[1]], found.end(1))
        if end < 0:
            never.add(found[1])
            continue
        chunks += [source[done : found.start()], source[found.start() : end + 2]]
        done = end + 2
    return [*chunks, source[done:]]
