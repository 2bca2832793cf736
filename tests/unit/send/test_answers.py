"""What an answer means: one table."""

from __future__ import annotations

import pytest

from mailmill.pipelines.configuration.specs import CampaignSpec
from mailmill.pipelines.send.answers import (
    REPLY_CHARACTERS,
    SANDBOX_PATIENCE,
    Answer,
    Patience,
    Stage,
    back_off_s,
    decide,
    masked,
)


@pytest.mark.parametrize(
    ("stage", "code", "reply", "state", "reason", "holds"),
    [
        ("dot", 250, "2.0.0 queued as 1", "sent", "accepted", False),
        ("dot", 0, "the connection was lost", "in_doubt", "no_answer", False),
        ("dot", 354, "what?", "in_doubt", "garbled_answer", False),
        # F9: 4xx at any stage is tried again, and is nobody's bounce
        ("mail", 451, "4.3.2 later", "deferred", "congestion", False),
        ("rcpt", 450, "4.2.1 busy", "deferred", None, False),
        ("data", 451, "4.3.0 later", "deferred", None, False),
        ("dot", 451, "4.7.1 greylisted", "deferred", None, False),
        ("rcpt", 421, "4.7.0 slow down", "deferred", None, False),
        ("rcpt", 0, "the connection was lost", "deferred", "no_answer", False),
        ("mail", 0, "no answer in time", "deferred", "no_answer", False),
        # F10: 5xx before a recipient was named is about us
        ("mail", 550, "5.7.1 sender not allowed", "held", "route_refused", True),
        ("mail", 530, "5.7.0 authentication required", "held", "route_refused", True),
        # but not what is about our SIZE or SMTPUTF8: released, the same message would hold it again and again
        ("mail", 552, "5.3.4 message size exceeds fixed limit", "failed", "too_big", False),
        ("mail", 552, "message size exceeds fixed maximum message size", "failed", "too_big", False),
        ("mail", 552, "exceeded storage allocation", "failed", "too_big", False),
        ("mail", 552, "5.2.2 you are over quota", "held", "route_refused", True),
        ("mail", 550, "5.6.7 address not ASCII", "failed", "unsupported_address", False),
        ("rcpt", 553, "5.6.7 address not ASCII", "failed", "unsupported_address", False),
        # at RCPT and after the dot the class decides
        ("rcpt", 550, "5.1.1 no such user", "failed", "bad_mailbox", False),
        ("rcpt", 550, "user unknown", "failed", "bad_mailbox", False),
        ("rcpt", 552, "5.2.2 mailbox full", "failed", "mailbox_full", False),
        ("rcpt", 452, "4.5.3 too many recipients", "deferred", "too_many_recipients", False),
        ("dot", 550, "5.7.26 unauthenticated mail", "failed", "authentication", False),
        ("dot", 554, "5.7.1 message looks like spam", "failed", "policy", False),
        # F12: the basic code's class wins over the enhanced one
        ("rcpt", 550, "4.1.1 odd", "failed", None, False),
        ("rcpt", 450, "5.1.1 odd", "deferred", None, False),
        ("rcpt", 550, "", "failed", None, False),
    ],
)
def test_P13_an_answer_decides(
    stage: Stage, code: int, reply: str, state: str, reason: str | None, holds: bool
) -> None:
    decision = decide(Answer(stage, code, reply), attempt=1)
    assert (decision.state, decision.holds_route) == (state, holds)
    assert decision.reason == reason or reason is None
    assert (decision.retry_s > 0) == (state == "deferred")


def test_after_the_last_attempt_a_deferral_is_a_failure_that_keeps_its_class() -> None:
    answer = Answer("rcpt", 452, "4.2.2 mailbox full")
    assert decide(answer, attempt=24).state == "failed"
    assert decide(answer, attempt=24).reason == decide(answer, attempt=23).reason == "mailbox_full"


@pytest.mark.parametrize("code", [0, 452])
def test_what_was_not_about_the_recipient_fails_nobody_however_often(code: int) -> None:
    """The campaign's patience in hours ends it."""
    assert decide(Answer("mail", code, "4.3.1 insufficient system storage"), attempt=99).state == "deferred"


def test_back_off_doubles_up_to_a_limit_and_spreads() -> None:
    delays = [back_off_s(attempt, Patience()) for attempt in range(1, Patience().max_attempts)]
    assert sum(delays) > CampaignSpec.model_fields["give_up_after_s"].default  # so that the hours end it
    assert delays[:8] == [300, 600, 1200, 2400, 4800, 9600, 14400, 14400]
    assert {back_off_s(1, Patience(), spread=n) for n in range(64)} <= set(range(300, 376))
    assert len({back_off_s(1, Patience(), spread=n) for n in range(64)}) > 30
    assert back_off_s(1, SANDBOX_PATIENCE) == 1


@pytest.mark.parametrize("reply", ["\x00\x1f\x1e\n\r", "é" * 2_000_000, "\u2028 <anna@example.org>: no", "x" * 600])
def test_F12_a_stored_reply_is_short_and_clean(reply: str) -> None:
    kept = masked(reply)
    assert len(kept) <= REPLY_CHARACTERS and kept.isprintable()
    assert "anna" not in kept and "example" not in kept
