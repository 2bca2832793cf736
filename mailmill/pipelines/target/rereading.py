"""Reading the published contacts, and other files of the lake, while somebody is forgotten."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from mailmill.errors import StoreUnavailable

MAX_TRIES = 5
LOST = "a file of the published contacts is gone; the next publication makes it anew"
T = TypeVar("T")


def reread(read: Callable[[], T], *, lost: str = LOST) -> T:
    """What reads published contacts or segments, from looking up their files on; again where one of these goes
    meanwhile: a forget takes it away as soon as another one is listed in its place.

    Raises: StoreUnavailable when one is listed and is not there.
    """
    for _ in range(MAX_TRIES):
        try:
            return read()
        except FileNotFoundError:
            continue
    raise StoreUnavailable(lost)
