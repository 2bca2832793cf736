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
