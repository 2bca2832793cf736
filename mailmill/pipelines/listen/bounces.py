"""What a refusal or bounce says: whether the person, the road or we ourselves are at fault.

The one table of bounce classes. The sender asks it about an answer in the session, the ingress about a report that
came later; the fold suppresses by what it says. Only `hard` may suppress, and nothing that is `ours` is ever hard:
authentication, content and reputation say nothing about the person.

Source: RFC 3463 (enhanced codes), the IANA registry as kumomta's `assets/bounce_classifier/iana.toml` reads it,
sisimai's status table; class names as PowerMTA has them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Name = Literal[
    "bad_mailbox", "bad_domain", "inactive_mailbox", "quota_issues", "list_expansion", "message_expired",
    "no_answer", "routing_errors", "dns_failure", "message_too_big", "too_many_recipients", "protocol_errors",
    "content", "invalid_sender", "policy_related", "spam_related", "authentication", "flood", "relay_access", "unknown",
]  # fmt: skip
HARD: frozenset[Name] = frozenset(("bad_mailbox", "bad_domain", "inactive_mailbox"))
OURS: frozenset[Name] = frozenset((
    "message_too_big", "too_many_recipients", "protocol_errors", "content", "invalid_sender", "policy_related",
    "spam_related", "authentication", "flood", "relay_access",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class BounceClass:
    """`hard`: this address will never work, suppress it. `ours`: our fault, look at us and not at the person."""

    kind: Literal["hard", "soft"]
    name: Name
    ours: bool


# subject.detail of RFC 3463 -> class. What is ambiguous is not here: its text decides (5.2.1, 5.7.1, 5.5.0 …).
_BY_CODE: dict[str, Name] = {
    "1.0": "bad_mailbox", "1.1": "bad_mailbox", "1.3": "bad_mailbox",
    "1.2": "bad_domain", "1.10": "bad_domain", "4.4": "bad_domain", "7.18": "bad_domain",
    "1.6": "inactive_mailbox", "7.13": "inactive_mailbox", "7.17": "inactive_mailbox",
    "1.7": "invalid_sender", "1.8": "invalid_sender", "7.27": "invalid_sender",
    "2.2": "quota_issues", "2.3": "message_too_big", "3.4": "message_too_big", "7.16": "message_too_big",
    "2.4": "list_expansion",
    "3.1": "no_answer", "3.2": "no_answer", "4.1": "no_answer", "4.2": "no_answer", "4.5": "no_answer",
    "4.3": "dns_failure", "4.6": "routing_errors", "4.7": "message_expired",
    "5.3": "too_many_recipients",
    "7.8": "relay_access",
    "7.20": "authentication", "7.21": "authentication", "7.22": "authentication", "7.23": "authentication",
    "7.24": "authentication", "7.25": "authentication", "7.26": "authentication", "7.29": "authentication",
    "7.28": "flood",
}  # fmt: skip

# What replies say, most telling first. Asked where the code is ambiguous or missing.
_TEXTS: tuple[tuple[Name, str], ...] = (
    ("authentication", r"\b(dkim|dmarc|spf)\b|reverse dns|\bptr\b|unauthenticated (email|mail|sender)"),
    ("spam_related", r"\bspam|\bbulk mail|blocklist|blacklist|block list|spamhaus|\brbl\b|\bdnsbl\b|reputation"
                     r"|unsolicited|blocked using"),
    ("content", r"\bvirus\b|malware|phish|\bcontent\b.{0,20}(reject|block|refus)|suspicious (url|link|attachment)"),
    ("flood", r"rate limit|too many (messages|connections|emails)|\bthrottl|unusual rate|too fast"),
    ("quota_issues", r"(mail)?box( is)? (full|over ?quota)|over ?quota|quota exceeded|exceeded.{0,20}quota"
                     r"|insufficient (disk )?(storage|space)|out of storage"),
    ("message_too_big", r"message (size )?(is )?too (big|large)|size exceeds|exceeds.{0,30}size"),
    ("relay_access", r"relay(ing)? (access )?(denied|not (permitted|allowed))|unable to relay"
                     r"|authentication required"),
    ("bad_mailbox", r"(user|recipient|mailbox|address|account|person)\b.{0,40}"
                    r"(unknown|not found|does ?n.?t exist|not exist|no longer|invalid|not listed|undeliverable)"
                    r"|(no such|unknown|invalid|non-?existent|not a valid) (local )?"
                    r"(user|recipient|mailbox|address|person|account)|no mailbox here"
                    r"|does not have an account|not a (known|valid) user"),
    ("inactive_mailbox", r"(account|mailbox|user)\b.{0,30}"
                         r"(disabled|inactive|suspended|closed|deactivated|expired)"),
    ("bad_domain", r"(domain|host)\b.{0,30}(not found|does ?n.?t exist|does not exist|unknown)|nxdomain|null mx"
                   r"|no (valid )?(mx|hosts?)\b"),
    ("invalid_sender", r"sender.{0,30}(reject|denied|invalid|unknown|verify|not exist)"),
    ("policy_related", r"\bpolicy\b|access denied|not allowed|prohibited|administrat"),
    ("no_answer", r"timed? ?out|connection (refused|reset|lost)|try again later|temporar|unavailable|greylist"),
)  # fmt: skip
_BY_TEXT = tuple((name, re.compile(pattern, re.IGNORECASE)) for name, pattern in _TEXTS)

_ENHANCED = re.compile(r"(?<![\d.])([245])\.(\d{1,3})\.(\d{1,3})(?!\.?\d)")
_CODE = re.compile(r"^\s*([245]\d\d)\b")


def classify(code: int | None, enhanced: str | None, reply: str) -> BounceClass:
    """The class of a refusal.

    In:     code the SMTP reply code, enhanced as "5.1.1"; what is missing is looked for in the reply itself.
    Out:    an answer with 4xx is always soft, whatever its text says: greylisting calls people unknown.
    """
    found = _ENHANCED.search(enhanced or "") or _ENHANCED.search(reply)
    if code is None:
        said = _CODE.match(reply)
        code = int(said.group(1)) if said else None
    permanent = code >= 500 if code is not None else bool(found and found.group(1) == "5")
    if found and found.group(1) == "4":
        permanent = False
    name = _name(code, f"{int(found.group(2))}.{int(found.group(3))}" if found else "", reply)
    if name == "policy_related" and not permanent:
        name = "flood"  # 4.7.x: the receiver asks us to slow down
    return BounceClass("hard" if permanent and name in HARD else "soft", name, name in OURS)


def _name(code: int | None, detail: str, reply: str) -> Name:
    if detail in _BY_CODE:
        return _BY_CODE[detail]
    if code in (530, 535):
        return "relay_access"
    if code == 556:
        return "bad_domain"  # RFC 7504: the domain takes no mail
    for name, pattern in _BY_TEXT:
        if pattern.search(reply):
            return name
    subject = detail.partition(".")[0]
    if subject == "7":
        return "policy_related"
    if subject in ("5", "6"):
        return "protocol_errors" if subject == "5" else "content"
    if code == 552:
        return "quota_issues"
    if code == 421:
        return "no_answer"
    return "inactive_mailbox" if detail == "2.1" and code is not None and code < 500 else "unknown"
