"""DNS records as text: what is asked, who answers, and which record of several speaks of one thing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from mailmill.errors import TransientError

Kind = Literal["TXT", "MX", "A", "AAAA"]
Question = tuple[str, Kind]


class DnsSilent(TransientError):
    """No server answered a question; that says nothing about the identity."""


class Records(Protocol):
    """Where DNS is asked."""

    def records(self, questions: Sequence[Question]) -> Mapping[Question, Sequence[str]]:
        """Every question's records as text (an MX as its host, '.' for none); empty where there are none.

        Raises: DnsSilent.
        """
        ...


def of_version(texts: Sequence[str], version: str) -> list[str]:
    """Those records that begin with a version such as v=spf1. Several count as none (RFC 7208 4.5, RFC 7489 6.6.3)."""
    return [text for text in texts if re.match(rf"{re.escape(version)}(?:[\s;]|$)", text, re.IGNORECASE)]
