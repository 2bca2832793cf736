"""Cursors of paged lists: where the next page begins, in a form that nobody is tempted to compute. Pure."""

from __future__ import annotations

import base64
import binascii

from mailmill.errors import Misconfigured

FIRST_PAGE = 2**63 - 1  # lists are newest first: everything is below it


def cursor(name: str, last_id: int) -> str:
    """The cursor behind the row `last_id` of the list `name`."""
    return base64.urlsafe_b64encode(f"{name}:{last_id}".encode()).decode().rstrip("=")


def below(name: str, given: str | None) -> int:
    """The id that the next page lies below.

    Raises: Misconfigured when `given` is no cursor of the list `name`.
    """
    if given is None:
        return FIRST_PAGE
    try:
        text = base64.b64decode(given + "=" * (-len(given) % 4), altchars=b"-_", validate=True).decode("ascii")
        found, _, number = text.partition(":")
        if found == name and number.isdecimal() and 0 < int(number) <= FIRST_PAGE:
            return int(number)
    except (binascii.Error, ValueError):
        pass
    raise Misconfigured(
        f"not a cursor of {name}", place="cursor", remedy="Give back next_cursor as it came, or leave it out."
    )
