"""The mailbox's letters: a Maildir that two runs go through at once."""

from __future__ import annotations

from pathlib import Path

from mailmill.io.mailbox import letters


def test_a_letter_that_another_run_has_dealt_with_is_no_error(tmp_path: Path) -> None:
    for name in ("new", "cur"):
        (tmp_path / name).mkdir()
    (tmp_path / "new" / "1.host").write_bytes(b"Subject: x\r\n\r\n")
    (ours,), (theirs,) = letters(tmp_path), letters(tmp_path)
    theirs.done("S")
    ours.done("FS")
    assert [file.name for file in (tmp_path / "cur").iterdir()] == ["1.host:2,S"]


def test_mail_that_a_program_moved_and_nobody_read_is_looked_at_too(tmp_path: Path) -> None:
    """An IMAP server moves what has come as soon as somebody opens the mailbox."""
    for name in ("new", "cur"):
        (tmp_path / name).mkdir()
    for name in ("new/1.host", "new/.nfs1", "cur/2.host:2,", "cur/3.host", "cur/4.host:2,Fa", "cur/5.host:2,S",
                 "cur/6.host:2,ST", "cur/7.host:2,T"):  # fmt: skip
        (tmp_path / name).write_bytes(b"Subject: x\r\n\r\n")
    found = list(letters(tmp_path))
    assert [letter.file.name for letter in found] == ["1.host", "2.host:2,", "3.host", "4.host:2,Fa"]
    for letter in found:
        letter.done("S")
    assert sorted(file.name for file in (tmp_path / "cur").iterdir()) == [
        "1.host:2,S", "2.host:2,S", "3.host:2,S", "4.host:2,FSa", "5.host:2,S", "6.host:2,ST", "7.host:2,T",
    ]  # fmt: skip
    assert list(letters(tmp_path)) == []


def test_a_letter_that_is_moved_while_others_are_read_is_found_the_next_time(tmp_path: Path) -> None:
    for name in ("new", "cur"):
        (tmp_path / name).mkdir()
    for name in ("1.host", "2.host"):
        (tmp_path / "new" / name).write_bytes(b"Subject: x\r\n\r\n")
    reading = letters(tmp_path)
    next(reading)
    (tmp_path / "new" / "2.host").rename(tmp_path / "cur" / "2.host:2,")
    assert list(reading) == []
    assert [letter.file.name for letter in letters(tmp_path)] == ["1.host", "2.host:2,"]
