"""Where Jinja2 stands in a template's source, and what stands for it while HTML is read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from html import unescape

MARKS = "\U00040000-\U000dffff"  # as a class of a regular expression; no character of these planes is assigned
MARK = re.compile(f"[{MARKS}]")
_OPENS = re.compile(r"(?=(\{[{%#]))")  # of {{{% each of the three may open one
_CLOSES = {"{{": "}}", "{%": "%}", "{#": "#}"}
_BLOCK = re.compile(r"\{%[-+]?\s*(end)?(?:if|for)\b")


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


def marks(source: str) -> Iterator[str]:
    """Characters that the source shows nowhere, not by a character reference either: each may stand for a piece of its
    Jinja2. There are more of them than a part has characters."""
    shown = set(unescape(source))
    return (mark for mark in map(chr, range(0x40000, 0xE0000)) if mark not in shown)


def masked(source: str) -> tuple[str, dict[str, str]]:
    """The source with a mark for each piece of its Jinja2, and what each of them stands for."""
    chunks, fresh, held = split(source), marks(source), dict[str, str]()
    for at in range(1, len(chunks), 2):
        mark = next(fresh)
        held[mark], chunks[at] = chunks[at], mark
    return "".join(chunks), held


def back(text: str, held: Mapping[str, str]) -> str:
    """The text with what its marks stand for."""
    return MARK.sub(lambda found: held.get(found[0], found[0]), text)


def opened(piece: str) -> int:
    """How many blocks a piece of Jinja2 opens, whose content not everybody gets: 1, -1 where it ends one, or 0."""
    found = _BLOCK.match(piece)
    return 0 if found is None else -1 if found[1] else 1
