"""What a relay's answer means for the message, the route and the next attempt. Pure decisions, one table.

An answer speaks of us until MAIL has passed: a 5xx before RCPT is no recipient's fault and holds the route, unless it
is about what MAIL says of the message (SIZE, SMTPUTF8); a 4xx there fails nobody, however often. At RCPT and after
the final dot the class of the reply decides, which bounces.py knows.

Source: RFC 5321 section 4.2, RFC 1870 section 6.1 (552), RFC 6531 section 3.5 (5.6.7).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

from mailmill.pipelines.ingest.masks import mask
from mailmill.pipelines.listen import bounces

Stage = Literal["connect", "banner", "ehlo", "starttls", "auth", "mail", "rcpt", "data", "dot", "render"]
State = Literal["sent", "deferred", "failed", "held", "in_doubt", "invalid", "expired", "suppressed", "queued"]
BEFORE_RECIPIENT: tuple[Stage, ...] = ("connect", "banner", "ehlo", "starttls", "auth", "mail")

# of the classes that are ours those that say the road is closed; too fast or too big says less
OUR_FAULT: frozenset[bounces.Name] = frozenset({"policy", "content", "authentication", "invalid_sender", "protocol"})
RUN_THAT_HOLDS = 10  # answers of OUR_FAULT one behind the other

_ENHANCED = re.compile(r"([245])\.(\d{1,3})\.(\d{1,3})(?![.\d])")
_LONGEST = len("5.123.123 ")
_MAILBOX = re.compile(r"[^\s<>@\"'(),;:\[\]]+@[^\s<>@\"'(),;:\[\]]+")
REPLY_CHARACTERS = 500


class Answer(NamedTuple):  # as Decision: made for every message, and a frozen dataclass costs three times as much
    """What came back for one message. `code` 0: nothing did, and `reply` says how the link ended."""

    stage: Stage
    code: int
    reply: str
    latency_ms: int = 0

    @property
    def enhanced(self) -> str | None:
        return _enhanced(self.reply.lstrip()[:_LONGEST])


@lru_cache(1024)  # a relay says the same of many
def _enhanced(beginning: str) -> str | None:
    found = _ENHANCED.match(beginning)
    return f"{found[1]}.{int(found[2])}.{int(found[3])}" if found else None


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a campaign goes on trying. `first_s` doubles with each attempt up to `longest_s`.

    So many attempts take 77 hours: it is `give_up_after_s`, 72 hours, that ends them.
    """

    max_attempts: int = 24
    first_s: int = 300
    longest_s: int = 4 * 3600


SANDBOX_PATIENCE = Patience(first_s=1, longest_s=30)  # of a relay that is there to be tried


class Decision(NamedTuple):
    """The ledger's new state with its reason, when to try again, and whether the route is held for everybody."""

    state: State
    reason: str
    retry_s: int = 0
    holds_route: bool = False

    @property
    def our_fault(self) -> bool:
        return self.reason in OUR_FAULT and self.state in ("failed", "deferred", "held")


ACCEPTED = Decision("sent", "accepted")


def decide(answer: Answer, *, attempt: int, patience: Patience = Patience(), spread: int = 0) -> Decision:
    """In: attempt counts from 1, at RCPT and later only what came so far; `spread` (a message id, say) moves retries
    apart, so that they do not come as one."""
    if answer.code == 0:
        if answer.stage == "dot":
            return Decision("in_doubt", "no_answer")
        return _deferred("no_answer", answer, attempt, patience, spread)
    if 200 <= answer.code < 300:
        if answer.stage == "dot":
            return ACCEPTED
        return _deferred("protocol", answer, attempt, patience, spread)  # an answer out of place
    reason = classify(answer)
    if 400 <= answer.code < 500:
        return _deferred(reason, answer, attempt, patience, spread)
    if answer.enhanced == "5.6.7":
        return Decision("failed", "unsupported_address")
    if answer.stage == "mail" and (reason == "too_big" or (answer.code == 552 and answer.enhanced is None)):
        return Decision("failed", "too_big")
    if answer.stage in BEFORE_RECIPIENT:
        return Decision("held", "route_refused", holds_route=True)
    if answer.code < 500 or answer.code > 599:  # 1xx, 354 in the wrong place, 9xx
        if answer.stage == "dot":
            return Decision("in_doubt", "garbled_answer")
        return _deferred("protocol", answer, attempt, patience, spread)
    if reason == "too_many_recipients":
        return _deferred(reason, answer, attempt, patience, spread)
    return Decision("failed", reason)


def _deferred(reason: str, answer: Answer, attempt: int, patience: Patience, spread: int) -> Decision:
    if attempt >= patience.max_attempts and answer.stage not in BEFORE_RECIPIENT:
        return Decision("failed", reason)
    return Decision("deferred", reason, retry_s=back_off_s(attempt, patience, spread))


def back_off_s(attempt: int, patience: Patience, spread: int = 0) -> int:
    """Seconds until the next attempt: doubled each time, and up to a quarter more so that retries spread."""
    delay: int = min(patience.longest_s, patience.first_s << min(attempt - 1, 20))
    return max(1, delay + delay * (spread % 64) // 256)


def classify(answer: Answer) -> bounces.Name:
    """The class of a refusal: a code of the ledger's column `reason`."""
    return bounces.classify(answer.code, answer.enhanced, answer.reply).name


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
