"""What a relay's answer means for the message, the route and the next attempt. Pure decisions, one table.

An answer speaks of us until MAIL has passed: a 5xx before RCPT is no recipient's fault and holds the route. At RCPT
and after the final dot the class of the reply decides, by its enhanced code (RFC 3463), else by its words, never by the
first digit alone; where the two disagree the basic code wins.

Source: RFC 5321 section 4.2, RFC 3463, the IANA registry of enhanced codes; classes as PowerMTA names them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from mailmill.pipelines.ingest.addresses import mask

Stage = Literal["connect", "banner", "ehlo", "starttls", "auth", "mail", "rcpt", "data", "dot", "render"]
State = Literal["sent", "deferred", "failed", "held", "in_doubt", "invalid", "expired", "suppressed", "queued"]
BEFORE_RECIPIENT: tuple[Stage, ...] = ("connect", "banner", "ehlo", "starttls", "auth", "mail")

SUPPRESSING = frozenset({"bad_mailbox", "bad_domain", "inactive_mailbox"})  # the address, at once
OUR_FAULT = frozenset({"policy", "content", "authentication", "invalid_sender", "protocol"})  # never a person
RUN_THAT_HOLDS = 10  # answers of OUR_FAULT one behind the other

_CLASS = {
    "1.0": "bad_mailbox", "1.1": "bad_mailbox", "1.3": "bad_mailbox", "1.2": "bad_domain", "1.10": "bad_domain",
    "4.4": "bad_domain", "7.18": "bad_domain", "1.6": "inactive_mailbox", "7.13": "inactive_mailbox",
    "7.17": "inactive_mailbox", "1.7": "invalid_sender", "1.8": "invalid_sender", "7.27": "invalid_sender",
    "2.1": "mailbox_disabled", "2.2": "mailbox_full", "2.3": "too_big", "3.4": "too_big", "7.16": "too_big",
    "2.4": "list_expansion", "3.1": "congestion", "3.2": "congestion", "4.1": "no_answer", "4.2": "no_answer",
    "4.5": "congestion", "4.3": "dns", "4.6": "routing", "4.7": "message_expired", "5.3": "too_many_recipients",
    "7.0": "policy", "7.1": "policy", "7.8": "authentication", "7.28": "rate",
    **{f"7.{detail}": "authentication" for detail in (*range(20, 27), 29)},
}  # fmt: skip
_BY_SUBJECT = {"5": "protocol", "6": "content", "7": "policy"}
# 2.1 and 4.4 mean different things as 4 and as 5
_SOFT_CLASS = {"2.1": "mailbox_disabled", "4.4": "routing"}
_BY_CODE = {421: "congestion", 450: "mailbox_busy", 451: "congestion", 452: "congestion", 530: "authentication",
            535: "authentication", 552: "mailbox_full", 556: "bad_domain"}  # fmt: skip
_NO_SUCH_USER = re.compile(
    r"(user|mailbox|recipient|address|account)[^.;]{0,30}(unknown|not found|does ?n.t exist|does not exist|unavailable"
    r"|invalid|no longer)|(no such|unknown|invalid) (user|mailbox|recipient|address|account)|user unknown",
    re.IGNORECASE,
)
_WORDS = (
    (re.compile(r"spam|blocked|blacklist|blocklist|reputation|policy|rejected due|not allowed", re.I), "policy"),
    (re.compile(r"\bspf\b|\bdkim\b|dmarc|ptr record|reverse dns", re.I), "authentication"),
    (re.compile(r"quota|mailbox (is )?full|over ?quota|insufficient storage", re.I), "mailbox_full"),
    (re.compile(r"too many|rate limit|throttl|try again later", re.I), "rate"),
    (re.compile(r"too (big|large)|size limit|exceeds", re.I), "too_big"),
)
_ENHANCED = re.compile(r"\s*([245])\.(\d{1,3})\.(\d{1,3})(?![.\d])")
_MAILBOX = re.compile(r"[^\s<>@\"'(),;:\[\]]+@[^\s<>@\"'(),;:\[\]]+")
REPLY_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back for one message. `code` 0: nothing did, and `reply` says how the link ended."""

    stage: Stage
    code: int
    reply: str
    latency_ms: int = 0

    @property
    def enhanced(self) -> str | None:
        found = _ENHANCED.match(self.reply)
        return f"{found[1]}.{int(found[2])}.{int(found[3])}" if found else None


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a campaign goes on trying. `first_s` doubles with each attempt up to `longest_s`."""

    max_attempts: int = 8
    first_s: int = 300
    longest_s: int = 4 * 3600


SANDBOX_PATIENCE = Patience(first_s=1, longest_s=30)  # of a relay that is there to be tried


@dataclass(frozen=True, slots=True)
class Decision:
    """The ledger's new state with its reason, when to try again, and whether the route is held for everybody."""

    state: State
    reason: str
    retry_s: int = 0
    holds_route: bool = False

    @property
    def our_fault(self) -> bool:
        return self.reason in OUR_FAULT and self.state in ("failed", "deferred", "held")


def decide(answer: Answer, *, attempt: int, patience: Patience = Patience(), spread: int = 0) -> Decision:
    """In: attempt counts from 1; `spread` (a message id, say) moves retries apart, so that they do not come as one."""
    if answer.code == 0:
        if answer.stage == "dot":
            return Decision("in_doubt", "no_answer")
        return _deferred("no_answer", attempt, patience, spread)
    if 200 <= answer.code < 300:
        if answer.stage == "dot":
            return Decision("sent", "accepted")
        return _deferred("protocol", attempt, patience, spread)  # an answer out of place
    reason = classify(answer)
    if 400 <= answer.code < 500:
        return _deferred(reason, attempt, patience, spread)
    if answer.stage in BEFORE_RECIPIENT:
        return Decision("held", "route_refused", holds_route=True)
    if answer.code < 500 or answer.code > 599:  # 1xx, 354 in the wrong place, 9xx
        if answer.stage == "dot":
            return Decision("in_doubt", "garbled_answer")
        return _deferred("protocol", attempt, patience, spread)
    if reason == "too_many_recipients":
        return _deferred(reason, attempt, patience, spread)
    return Decision("failed", reason)


def _deferred(reason: str, attempt: int, patience: Patience, spread: int) -> Decision:
    if attempt >= patience.max_attempts:
        return Decision("failed", reason)
    return Decision("deferred", reason, retry_s=back_off_s(attempt, patience, spread))


def back_off_s(attempt: int, patience: Patience, spread: int = 0) -> int:
    """Seconds until the next attempt: doubled each time, and up to a quarter more so that retries spread."""
    delay: int = min(patience.longest_s, patience.first_s << min(attempt - 1, 20))
    return max(1, delay + delay * (spread % 64) // 256)


def classify(answer: Answer) -> str:
    """The class of a refusal: a code of the ledger's column `reason`."""
    found = _ENHANCED.match(answer.reply)
    hard = answer.code >= 500
    if found:
        detail = f"{int(found[2])}.{int(found[3])}"
        soft = None if hard else _SOFT_CLASS.get(detail)
        known = soft or _CLASS.get(detail)
        if known == "mailbox_disabled" and hard and _NO_SUCH_USER.search(answer.reply):
            return "bad_mailbox"
        if known == "policy":
            return _by_words(answer.reply, only=("authentication", "rate")) or "policy"
        if known:
            return known
        if found[2] in _BY_SUBJECT:
            return _BY_SUBJECT[found[2]]
    if hard and answer.code in (550, 551, 553) and _NO_SUCH_USER.search(answer.reply):
        return "bad_mailbox"
    if 500 <= answer.code <= 504:
        return "protocol"
    return _by_words(answer.reply) or _BY_CODE.get(answer.code) or ("unknown" if hard else "temporary")


def _by_words(reply: str, only: tuple[str, ...] = ()) -> str | None:
    return next((name for words, name in _WORDS if (not only or name in only) and words.search(reply)), None)


def masked(reply: str) -> str:
    """A reply as it may be stored: no control characters, addresses masked, at most REPLY_CHARACTERS.

    In: of any length; only its beginning is looked at.
    """
    text = reply[: 2 * REPLY_CHARACTERS]
    if "@" in text:
        text = _MAILBOX.sub(lambda found: mask(found[0]), text)
    if not text.isprintable():
        text = "".join([c if c.isprintable() else " " for c in text])
    return text[:REPLY_CHARACTERS]
