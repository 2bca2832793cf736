"""Unsubscribing by mail (RFC 2369): what lies in an identity's unsubscribe_mailbox, read by `mailmill unsubscribe`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from verbs import Verb


def maildir(folder: Path, *subjects: str) -> Path:
    for name in ("new", "cur", "tmp"):
        (folder / name).mkdir(parents=True)
    for n, subject in enumerate(subjects):
        (folder / "new" / f"{n}.mail").write_text(f"From: somebody@x.example\nSubject: {subject}\n\nplease\n")
    return folder


AWAY = """Return-Path: <>
From: Ann <ann@people.example>
To: leave@acme.example
Subject: Automatic reply: {subject}
Auto-Submitted: auto-replied
X-Auto-Response-Suppress: All

I am away until Monday. You wrote: unsubscribe {token}
"""
BOUNCE = """Return-Path: <>
From: MAILER-DAEMON@mx.people.example
Subject: Undelivered Mail Returned to Sender
Auto-Submitted: auto-replied
Content-Type: multipart/report; report-type=delivery-status; boundary=b

--b

I could not deliver your message.
--b
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.people.example

Final-Recipient: rfc822; {recipient}
Action: failed
Status: 5.1.1
Diagnostic-Code: smtp; 550 5.1.1 no such user

--b
Content-Type: message/rfc822

From: {sender}
Subject: {subject}
List-Unsubscribe: <https://t.acme.example/u/{token}>, <mailto:leave@acme.example?subject=unsubscribe%20{token}>

hello
--b--
"""


def test_F53_no_automatic_mail_unsubscribes_suppresses_or_is_answered(
    world: Any, mailmill: Verb, tmp_path: Path, monkeypatch: Any
) -> None:
    """A reply of somebody who is away, a bounce, and a bounce of a bounce: they are for a person to read."""
    monkeypatch.setattr("socket.socket.connect", _nobody)  # PostgreSQL is reached otherwise
    token = world.token("unsubscribe", message=5)
    folder = maildir(tmp_path / "leave", "spring is here", "spring is here", "spring is here")
    ours = {"token": token, "subject": "spring is here", "recipient": "m5@acme", "sender": "news@acme.example"}
    theirs = {**ours, "subject": "Undelivered Mail Returned to Sender", "recipient": "b+x@bounce.acme.example"}
    mails = [AWAY.format(**ours), BOUNCE.format(**ours), BOUNCE.format(**theirs)]
    for n, mail in enumerate(mails):
        (folder / "new" / f"{n}.mail").write_text(mail)
    told = mailmill("unsubscribe", str(folder), "--json")
    assert json.loads(told.out) == {"unsubscribed": 0, "unknown": 0, "not_understood": 3}
    assert (world.suppressed(), world.events()) == ([], [])
    assert names(folder, "cur") == ["0.mail:2,FS", "1.mail:2,FS", "2.mail:2,FS"] and names(folder, "tmp") == []
    assert mailmill("unsubscribe", str(folder)).out == "no new mail\n"


def _nobody(*_: Any) -> None:
    raise AssertionError("an answer would be sent")


def names(folder: Path, which: str) -> list[str]:
    return sorted(file.name for file in (folder / which).iterdir())


def test_F44_who_asks_by_mail_is_suppressed_and_counted_once(world: Any, mailmill: Verb, tmp_path: Path) -> None:
    asks = f"unsubscribe {world.token('unsubscribe', message=5)}"
    forged = f"unsubscribe {world.token('click', message=6)}"
    foreign = f"unsubscribe {world.token('unsubscribe', message=1001)}"  # of the second tenant's message, as the first
    folder = maildir(tmp_path / "leave", asks, "I am away until Monday", forged, asks, foreign)
    told = mailmill("unsubscribe", str(folder), "--json")
    assert told.code == 0, told.err
    assert json.loads(told.out) == {"unsubscribed": 2, "unknown": 1, "not_understood": 2}
    assert world.suppressed() == [(1, "m5@acme", "unsubscribed")]
    assert len({event["event_id"] for event in world.events()}) == 1
    assert {(event["kind"], event["message"]) for event in world.events()} == {("unsubscribed", 5)}
    assert names(folder, "new") == []
    assert names(folder, "cur") == ["0.mail:2,S", "1.mail:2,FS", "2.mail:2,FS", "3.mail:2,S", "4.mail:2,FS"]
    assert mailmill("unsubscribe", str(folder)).out == "no new mail\n"


def test_what_cannot_be_written_down_stays_new_and_is_taken_the_next_time(
    world: Any, mailmill: Verb, tmp_path: Path
) -> None:
    folder = maildir(tmp_path / "leave", f"unsubscribe {world.token('unsubscribe', message=5)}")
    with world.database.transaction() as conn:
        conn.execute("ALTER TABLE log RENAME TO gone")
    assert mailmill("unsubscribe", str(folder)).code == 1
    assert names(folder, "new") == ["0.mail"] and world.suppressed()  # the person is heard, the count follows
    with world.database.transaction() as conn:
        conn.execute("ALTER TABLE gone RENAME TO log")
    assert mailmill("unsubscribe", str(folder / "new" / "0.mail")).code == 0
    assert len(world.events()) == 1 and names(folder, "new") == []


def test_what_is_no_mailbox_is_said_in_a_line(world: Any, mailmill: Verb, tmp_path: Path) -> None:
    for path, words in ((tmp_path, "is no Maildir"), (tmp_path / "none", "cannot be read")):
        told = mailmill("unsubscribe", str(path))
        assert told.code == 1 and words in told.err
