"""Where mailmill and email-validator think differently of an address, and why that is meant.

Each row: a pattern of what was typed, what mailmill makes of it, an example, the reason. What fits no row has to agree.
"""

from __future__ import annotations

from typing import NamedTuple


class Disagreement(NamedTuple):
    pattern: str
    taken: bool  # by mailmill; email-validator does the other
    example: str
    reason: str


DISAGREEMENTS = (
    Disagreement(r"^\s|\s$", True, " a@x.org ", "space around an address is a slip of the cell, not of the address"),
    Disagreement(r"\.$", True, "a@x.org.", "a full name with its root dot, or the end of a sentence: the same mailbox"),
    Disagreement(r"[,;]\s*$", True, "a@x.org;", "what a list of recipients leaves behind when it is cut up"),
    Disagreement(r"(?i)^mailto:", True, "mailto:a@x.org", "a link that was copied (RFC 6068)"),
    Disagreement("[\u00ad\u200b-\u200f\u2060-\u2064\ufeff]", True, "a\u200b@x.org", "invisible, comes from web pages"),
    Disagreement(
        r"^[^\"<>]*[^\x00-\x7f.<>\"][^\"<>]*<[^<>]+>$|^[^\"<>]*\.[^\"<>]*<[^<>]+>$", True, "Jürgen J. <a@x.org>",
        "a display name that should be quoted; every mail program writes and reads it without",
    ),
    Disagreement(
        r"(?i)[@.](test|invalid|localhost|local|onion|alt|arpa|example)>?$", True, "a@x.test",
        "reserved domains are risky and not lost, so that mailmill can be tried out",
    ),
    Disagreement(
        r"\.[^.@]*[0-9-][^.@]*$", False, "a@x.0a",
        "a top-level domain is letters, or another script by IDNA (RFC 3696 2): no host's number is a domain",
    ),
    Disagreement(r"\.[^.@\x80-\uffff]$", False, "a@x.c", "no top-level domain has one letter (ICANN, RFC 3696 2)"),
    Disagreement(
        r'^"[^"]*[^\x00-\x7f][^"]*"@', False, '"Renée"@x.org',
        "RFC 6531 allows quotes around other scripts; no relay and no mailbox is known to use them",
    ),
)  # fmt: skip
