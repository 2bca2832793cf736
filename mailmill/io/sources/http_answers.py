"""An API's answer as a page of items (docs/sources.md), or what is wrong with it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import orjson

from mailmill.errors import Misconfigured

_LONGEST_MARK = 8_192  # characters of a cursor or an `as_of`, which go back in a request's URL


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    items: list[dict[str, Any]]
    next_cursor: str | None
    as_of: str


def page(body: bytes, *, place: str) -> Page | None:
    """The page; None when the body is no JSON (cut off on its way, or a proxy's error page: worth a retry).

    Raises: Misconfigured when it is another form than the contract's, or holds what could not be kept or asked with.
    """
    try:
        answer = _parsed(body)
    except RecursionError:
        raise wrong("the answer is nested too deeply to be read", place) from None
    except ValueError:
        return None
    items = answer.get("items") if isinstance(answer, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise wrong("the answer has no list of objects called `items`", place)
    following, as_of = answer.get("next_cursor"), answer.get("as_of")
    if following == "":  # as many say that it was the last page
        following = None
    if not isinstance(as_of, str) or not isinstance(following, str | None):
        raise wrong("the answer lacks `as_of`, or its `next_cursor` is no text", place)
    for name, mark in (("as_of", as_of), ("next_cursor", following or "")):
        if "\x00" in mark:
            raise wrong(f"the answer's `{name}` holds U+0000", place)
        if len(mark) > _LONGEST_MARK:
            raise wrong(f"the answer's `{name}` is longer than {_LONGEST_MARK:,} characters", place)
    return Page(items=items, next_cursor=following, as_of=as_of)


def wrong(message: str, place: str, remedy: str = "docs/sources.md says what it has to answer.") -> Misconfigured:
    return Misconfigured(message, place=place, remedy=remedy)


def _parsed(body: bytes) -> Any:
    """JSON, also as careless programs write it: half of a surrogate pair, a byte that is no UTF-8, NaN, 1e999.

    One such value is no reason to lose a page: what is no character becomes U+FFFD or `?`, no number stays text.
    Raises: ValueError where it is no JSON; RecursionError.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if "depth limit" in error.msg:
            raise RecursionError from None
    answer = json.loads(body.decode("utf-8", "replace"), parse_constant=str, parse_float=_number, parse_int=_number)
    return orjson.loads(json.dumps(answer, ensure_ascii=False).encode("utf-8", "replace"))


def _number(text: str) -> Any:
    """As the fast reader sees it, else as it is written."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
