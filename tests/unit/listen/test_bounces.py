"""P20 begins here: a bounce's class decides whether a person is suppressed."""

from __future__ import annotations

import pytest

from mailmill.pipelines.listen.bounces import OURS, BounceClass, Name, classify

TABLE = [
    # code, enhanced, reply, kind, class
    (550, "5.1.1", "no such user", "hard", "bad_mailbox"),
    (550, None, "550 5.1.1 <a***@e***.org>: Recipient address rejected", "hard", "bad_mailbox"),
    (550, None, "User unknown in virtual mailbox table", "hard", "bad_mailbox"),
    (
        550,
        "5.5.0",
        "mailbox unavailable: user does not exist",
        "hard",
        "bad_mailbox",
    ),
    (550, "5.1.2", "", "hard", "bad_domain"),
    (556, None, "domain does not accept mail", "hard", "bad_domain"),
    (550, "5.1.10", "null MX", "hard", "bad_domain"),
    (550, "5.1.6", "moved", "hard", "inactive_mailbox"),
    (550, "5.7.13", "disabled", "hard", "inactive_mailbox"),
    (550, "5.2.1", "The email account that you tried to reach is disabled", "soft", "mailbox_disabled"),
    (550, "5.2.1", "no such user here", "hard", "bad_mailbox"),
    (550, "5.2.1", "cannot take this now", "soft", "mailbox_disabled"),
    (450, "4.2.1", "The user you are trying to contact is receiving mail at an unusual rate", "soft", "rate"),
    (450, "4.2.1", "cannot take this now", "soft", "mailbox_disabled"),
    (552, "5.2.2", "mailbox full", "soft", "mailbox_full"),
    (452, "4.2.2", "over quota", "soft", "mailbox_full"),
    (552, None, "exceeded storage", "soft", "mailbox_full"),
    (552, "5.3.4", "message too big", "soft", "too_big"),
    (550, "5.2.4", "list", "soft", "list_expansion"),
    (421, None, "closing", "soft", "congestion"),
    (451, "4.4.1", "", "soft", "no_answer"),
    (451, "4.4.3", "", "soft", "dns"),
    (554, "5.4.6", "loop", "soft", "routing"),
    (550, "5.4.7", "expired", "soft", "message_expired"),
    (452, "4.5.3", "too many recipients", "soft", "too_many_recipients"),
    (501, "5.5.4", "invalid arguments", "soft", "protocol"),
    (550, "5.6.0", "no", "soft", "content"),
    (550, "5.1.8", "bad sender", "soft", "invalid_sender"),
    (550, "5.7.1", "Message rejected by local policy", "soft", "policy"),
    (550, "5.7.1", "blocked using zen.spamhaus.org", "soft", "policy"),
    (421, "4.7.0", "try again", "soft", "rate"),
    (421, "4.7.28", "unusual rate", "soft", "rate"),
    (550, "5.7.26", "unauthenticated", "soft", "authentication"),
    (550, "5.7.1", "fails DMARC; user unknown", "soft", "authentication"),
    (535, "5.7.8", "bad credentials", "soft", "authentication"),
    (550, None, "nothing to say", "soft", "unknown"),  # never hard by the first digit alone
    (450, None, "user unknown, try later", "soft", "bad_mailbox"),  # greylisting calls people unknown
    (550, "4.1.1", "user unknown", "soft", "unknown"),
    (550, "5.4.4", "", "hard", "bad_domain"),
    (450, "4.4.4", "", "soft", "routing"),
    (450, None, "busy", "soft", "mailbox_busy"),
    (454, None, "something", "soft", "temporary"),
    (502, None, "what?", "soft", "protocol"),
    (550, None, "account disabled", "soft", "mailbox_disabled"),
    (451, "4.7.1", "greylisted, try again later", "soft", "rate"),
    (554, "5.7.1", "Relay access denied", "soft", "policy"),
    (None, "5.1.1", "", "hard", "bad_mailbox"),
    (None, None, "550 no such user", "hard", "bad_mailbox"),
    (None, None, "", "soft", "unknown"),
    # as providers say it
    (550, "5.5.0", "Requested action not taken: mailbox unavailable (S2017062302)", "hard", "bad_mailbox"),
    (550, None, "Requested action not taken: mailbox unavailable", "soft", "unknown"),  # or they do not want us
    (550, "5.4.1", "Recipient address rejected: Access denied. AS(201806281)", "hard", "bad_mailbox"),
    (451, "4.4.1", "Recipient address rejected: try again", "soft", "no_answer"),
    (550, "5.4.1", "no answer from host", "soft", "no_answer"),
    (554, "5.0.0", "delivery error: dd This user doesn't have a y.example account", "hard", "bad_mailbox"),
    (None, "5.0.0", "No such domain.", "hard", "bad_domain"),
    (550, "5.5.0", "The recipient account is blocked. LPN007_426", "soft", "mailbox_disabled"),
    # 5.1.0 says nothing by itself, and gateways pass on by it what others told them
    (550, "5.1.0", "address rejected", "hard", "bad_mailbox"),
    (550, "5.1.0", "<b+x@bounce.acme.example> sender rejected. AUP#In-1310", "soft", "invalid_sender"),
    (550, "5.1.0", "5.1.0 - Unknown address error 550-'5.2.2 <a***>... Mailbox Full'", "soft", "mailbox_full"),
    (None, "5.1.0", "5.1.0 - Unknown address error 550-'5.7.1 blocked by spamhaus'", "soft", "policy"),
    (None, None, "5.1.0 - Unknown address error 550-'No such user here'", "hard", "bad_mailbox"),
    (None, None, "5.1.0 - Unknown address error 554-'go away'", "soft", "unknown"),
    (550, None, "rejected, see 5.1.1.7 and 15.1.1", "soft", "unknown"),  # addresses of machines are no codes
]


@pytest.mark.parametrize(("code", "enhanced", "reply", "kind", "name"), TABLE)
def test_P20_the_code_or_else_the_text_decides_the_class(
    code: int | None, enhanced: str | None, reply: str, kind: str, name: Name
) -> None:
    found = classify(code, enhanced, reply)
    assert (found.kind, found.name, found.ours) == (kind, name, name in OURS)


@pytest.mark.parametrize("name", sorted(OURS))
def test_P20_nothing_that_is_ours_is_hard(name: Name) -> None:
    for code, enhanced, reply, _, wanted in TABLE:
        if wanted == name:
            assert classify(code, enhanced, reply).kind == "soft"


def test_a_class_is_a_value() -> None:
    assert classify(550, "5.1.1", "") == BounceClass("hard", "bad_mailbox", False)
