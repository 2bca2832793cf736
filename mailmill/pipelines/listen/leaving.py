"""Unsubscribing by mail: the token in the subject that the mailto of List-Unsubscribe asked for.

Source: RFC 2369 section 3.2; RFC 6068 (mailto with a subject).
"""

from __future__ import annotations

import re
from email.parser import BytesHeaderParser
from email.policy import default as policy

_ASKED = re.compile(r"\bunsubscribe\s+([A-Za-z0-9_-]{40})(?![A-Za-z0-9_-])", re.IGNORECASE | re.ASCII)


def token_of(message: bytes) -> str | None:
    """What stands in the subject where our token would; None when there is nothing. Not verified yet.

    In: the message, or as much of it as holds the header.
    """
    try:
        subject = str(BytesHeaderParser(policy=policy).parsebytes(message).get("Subject", ""))
    except (ValueError, LookupError, IndexError):  # headers that email cannot make anything of
        return None
    found = _ASKED.search(subject)
    return None if found is None else found[1]
