"""What a refusal or bounce says: whether the person, the road or we ourselves are at fault.

The one table of bounce classes. The sender asks it about an answer in the session, the ingress about a report that
came later; the fold suppresses by what it says. Only `hard` may suppress, and nothing that is `ours` is ever hard:
authentication, content and reputation say nothing about the person.

Source: RFC 3463 (enhanced codes), the IANA registry as kumomta's `assets/bounce_classifier/iana.toml` reads it,
sisimai's status table, PowerMTA's classes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Name = Literal[
    "bad_mailbox", "bad_domain", "inactive_mailbox",
    "mailbox_disabled", "mailbox_full", "mailbox_busy", "list_expansion", "message_expired", "no_answer", "congestion",
    "routing", "dns", "temporary", "unknown",
    "too_big", "too_many_recipients", "protocol", "content", "invalid_sender", "policy", "authentication", "rate",
]  # fmt: skip
HARD: frozenset[Name] = frozenset(("bad_mailbox", "bad_domain", "inactive_mailbox"))
OURS: frozenset[Name] = frozenset((
    "too_big", "too_many_recipients", "protocol", "content", "invalid_sender", "policy", "authentication", "rate",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class BounceClass:
    """`hard`: this address will never work, suppress it. `ours`: our fault, look at us and not at the person."""

    kind: Literal["hard", "soft"]
    name: Name
    ours: bool


# subject.detail of RFC 3463 -> class. What is ambiguous is not here: its text decides (5.1.0, 5.2.1, 5.7.1, 5.5.0 …).
_BY_DETAIL: dict[str, Name] = {
    "1.1": "bad_mailbox", "1.3": "bad_mailbox",
    "1.2": "bad_domain", "1.10": "bad_domain", "7.18": "bad_domain",
    "1.6": "inactive_mailbox", "7.13": "inactive_mailbox", "7.17": "inactive_mailbox",
    "1.7": "invalid_sender", "1.8": "invalid_sender", "7.27": "invalid_sender",
    "2.2": "mailbox_full", "2.3": "too_big", "3.4": "too_big", "7.16": "too_big",
    "2.4": "list_expansion",
    "3.1": "congestion", "3.2": "congestion", "4.5": "congestion", "4.1": "no_answer", "4.2": "no_answer",
    "4.3": "dns", "4.6": "routing", "4.7": "message_expired",
    "5.3": "too_many_recipients",
    "7.8": "authentication", "7.28": "rate",
    **dict.fromkeys((f"7.{detail}" for detail in (*range(20, 27), 29)), "authentication"),
}  # fmt: skip
# What some say of whom they do not know: Exchange Online, and Outlook.com. By itself neither half says so.
_BY_BOTH: tuple[tuple[str, str, Name], ...] = (
    ("4.1", "recipient address rejected", "bad_mailbox"), ("5.0", "mailbox unavailable", "bad_mailbox"),
)  # fmt: skip
_BY_SUBJECT: dict[str, Name] = {"5": "protocol", "6": "content", "7": "policy"}
_BY_CODE: dict[int, Name] = {
    421: "congestion", 450: "mailbox_busy", 451: "congestion", 452: "congestion",
    552: "mailbox_full",
    556: "bad_domain",  # RFC 7504: the domain takes no mail
    **dict.fromkeys((530, 535), "authentication"), **dict.fromkeys(range(500, 505), "protocol"),
}  # fmt: skip

# What replies say, in this order: what is our fault comes first, so that a doubtful reply suppresses nobody.
_TEXTS: tuple[tuple[Name, str], ...] = (
    ("authentication", r"\b(dkim|dmarc|spf)\b|reverse dns|\bptr\b|unauthenticated (email|mail|sender)"
                       r"|authentication required"),
    ("mailbox_disabled", r"recipient.{0,3} (account|mailbox) (is|has been) blocked"),
    ("policy", r"\bspam|\bbulk mail|block ?list|blacklist|spamhaus|\brbl\b|\bdnsbl\b|reputation|unsolicited|\bblocked\b"
               r"|rejected due|relay(ing)? (access )?(denied|not (permitted|allowed))|unable to relay"),
    ("content", r"\bvirus\b|malware|phish|\bcontent\b.{0,20}(reject|block|refus)|suspicious (url|link|attachment)"),
    ("rate", r"rate limit|too many (messages|connections|emails)|\bthrottl|unusual rate|too fast"),
    ("mailbox_full", r"(mail)?box( is)? (full|over ?quota)|over ?quota|quota exceeded|exceeded.{0,20}quota"
                     r"|insufficient (disk )?(storage|space)|out of storage"),
    ("too_big", r"message (size )?(is )?too (big|large)|size exceeds|exceeds.{0,30}size|size limit"),
    ("bad_mailbox", r"(user|recipient|mailbox|address|account|person)\b.{0,40}"
                    r"(unknown|not found|does ?n.?t exist|not exist|no longer|invalid|not listed|undeliverable)"
                    r"|(no such|unknown|invalid|non-?existent|not a valid) (local )?"
                    r"(user|recipient|mailbox|address|person|account)|no mailbox here"
                    r"|(does not|doesn.?t) have an? (\S+ )?account|not a (known|valid) user"),
    ("mailbox_disabled", r"(account|mailbox|user)\b.{0,30}"
                         r"(disabled|inactive|suspended|closed|deactivated|expired)"),
    ("bad_domain", r"(domain|host)\b.{0,30}(not found|does ?n.?t exist|does not exist|unknown)|nxdomain|null mx"
                   r"|no (valid )?(mx|hosts?)\b|no such domain"),
    ("invalid_sender", r"sender.{0,30}(reject|denied|invalid|unknown|verify|not exist)"),
    ("policy", r"\bpolicy\b|access denied|not allowed|prohibited|administrat"),
    ("no_answer", r"timed? ?out|connection (refused|reset|lost)"),
)  # fmt: skip
_BY_TEXT = tuple((name, re.compile(pattern, re.IGNORECASE)) for name, pattern in _TEXTS)

_ENHANCED = re.compile(r"(?<![\d.])([245])\.(\d{1,3})\.(\d{1,3})(?!\.?\d)")
_CODE = re.compile(r"^\s*([245]\d\d)\b")
# Cisco's gateways say so of every refusal at RCPT; behind it stands what they were told
_PASSED_ON = re.compile(r".*5\.1\.0 - unknown address error (?=[45]\d\d\b)", re.IGNORECASE | re.DOTALL)


def classify(code: int | None, enhanced: str | None, reply: str) -> BounceClass:
    """The class of a refusal.

    In:     code the SMTP reply code, enhanced as "5.1.1"; what is missing is looked for in the reply itself.
    Out:    an answer with 4xx is always soft, whatever its text says: greylisting calls people unknown.
    """
    if passed_on := _PASSED_ON.match(reply):
        return classify(None, None, reply[passed_on.end() :])
    found = _ENHANCED.search(enhanced or "") or _ENHANCED.search(reply)
    if code is None:
        said = _CODE.match(reply)
        code = int(said.group(1)) if said else None
    permanent = code >= 500 if code is not None else bool(found and found.group(1) == "5")
    if found and found.group(1) == "4":
        permanent = False
    name = _name(code, permanent, f"{int(found.group(2))}.{int(found.group(3))}" if found else "", reply)
    if name == "policy" and not permanent:
        name = "rate"  # 4.7.x: greylisting, or the receiver asks us to slow down
    if name in HARD and not permanent and code is not None and code >= 500:
        name = "unknown"  # 550 4.1.1: who contradicts himself suppresses nobody
    return BounceClass("hard" if permanent and name in HARD else "soft", name, name in OURS)


def _name(code: int | None, permanent: bool, detail: str, reply: str) -> Name:
    for at, words, name in _BY_BOTH:
        if permanent and detail == at and words in reply.lower():
            return name
    if detail in _BY_DETAIL:
        return _BY_DETAIL[detail]
    if detail == "4.4":  # 5.4.4 is NXDOMAIN, 4.4.4 a road that is not known at the moment
        return "bad_domain" if permanent else "routing"
    if code in (530, 535, 556):
        return _BY_CODE[code]
    for name, pattern in _BY_TEXT:
        if pattern.search(reply):
            return name
    if detail in ("1.0", "2.1"):
        return "bad_mailbox" if detail == "1.0" else "mailbox_disabled"
    by_subject = _BY_SUBJECT.get(detail.partition(".")[0])
    return by_subject or _BY_CODE.get(code or 0) or ("unknown" if permanent or code is None else "temporary")
