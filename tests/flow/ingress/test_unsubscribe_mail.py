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
