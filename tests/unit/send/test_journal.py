"""The journal: what a killed worker leaves is read as far as it goes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mailmill.errors import Misconfigured
from mailmill.io import journal
from mailmill.io.journal import FolderJournal, Left, folder_of
from mailmill.pipelines.send.answers import Answer
from mailmill.pipelines.send.orders import Outcome
from mailmill.pipelines.send.ports import JournalFailed

LINE = Outcome(id=5, state="sent", reason="accepted", answer=Answer("dot", 250, "2.0.0 ok", 3), at_ms=1).line(
    "2.0.0 ok"
)


@pytest.fixture
def folder(tmp_path: Path) -> FolderJournal:
    found = folder_of(tmp_path, "w1")
    assert found.acquire()
    return found


def left(folder: FolderJournal) -> Left:
    (only,) = folder.left()
    return only


def test_F04_answers_and_attempts_come_back(folder: FolderJournal) -> None:
    batch = folder.open(77)
    for line in (b"A 5", b"R " + LINE, b"A 6"):
        batch.append(line)
    found = left(folder)
    assert (found.token, found.answered, found.attempted, found.incomplete) == (77, [LINE], [6], False)


def test_a_torn_last_line_is_ignored(folder: FolderJournal) -> None:
    batch = folder.open(77)
    batch.append(b"A 5")
    os.write(batch.descriptor, b"R 5\x1fse")
    assert left(folder).attempted == [5] and not left(folder).incomplete


def test_a_recorded_batch_leaves_nothing(folder: FolderJournal) -> None:
    folder.open(77).remove()
    assert folder.left() == []


@pytest.mark.parametrize("hole", [b"", b"H x", b"\0" * 40 + b"\n", b"H other-boot 1\nA 5\n"])
def test_P09_a_journal_of_another_boot_or_with_holes_is_doubted(folder: FolderJournal, hole: bytes) -> None:
    (folder.folder / "77.j").write_bytes(hole)
    assert left(folder).incomplete


@pytest.mark.parametrize(
    "damaged",
    [
        LINE + b"\0" * 64 + b"k",  # a hole that a power loss left
        LINE.replace(b"sent", b"sen\0"),
        LINE.replace(b"sent", b"send"),
        LINE.replace(b"250", b"25x"),
        LINE.replace(b"250", b"99999"),  # no smallint
        LINE.replace(b"5", b"9" * 19, 1),  # no bigint
        LINE.replace(b"\x1f1\x1f", b"\x1f\x1f"),
        LINE + b"\x1f",
    ],
)
def test_P09_a_damaged_answer_is_none_and_doubts_what_it_was_for(folder: FolderJournal, damaged: bytes) -> None:
    """The ledger could not take it, and no worker of this machine would start again."""
    batch = folder.open(77)
    for line in (b"A 5", b"R " + damaged, b"A 6", b"R " + LINE.replace(b"5", b"6", 1)):
        batch.append(line)
    found = left(folder)
    assert (found.answered, found.attempted) == ([LINE.replace(b"5", b"6", 1)], [5]) and found.incomplete


def test_every_answer_that_is_written_is_read(folder: FolderJournal) -> None:
    batch = folder.open(77)
    lines = [
        Outcome(7, "deferred", "no_answer", 14400, Answer("mail", 0, "é" * 99, 2**20), 2**44, "a-1/b_2#3").line(
            "é" * 99
        ),
        Outcome(8, "failed", "bad_mailbox", 0, Answer("rcpt", 550, "5.1.1 <…>: no"), 1, "a/b#1").line("5.1.1 <…>: no"),
    ]
    for line in lines:
        batch.append(b"R " + line)
    assert left(folder).answered == lines and not left(folder).incomplete


def test_a_file_that_cannot_be_read_is_named(folder: FolderJournal) -> None:
    (folder.folder / "77.j").mkdir()
    with pytest.raises(Misconfigured, match=r"77\.j.*\n.*--declare-lost w1"):
        folder.left()


def test_one_process_a_folder(folder: FolderJournal, tmp_path: Path) -> None:
    second = folder_of(tmp_path, "w1")
    assert not second.acquire()
    folder.close()
    assert second.acquire()


def test_F20_a_line_that_cannot_be_written_stops_the_batch(
    folder: FolderJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = folder.open(77)
    monkeypatch.setattr(journal.os, "write", lambda descriptor, line: len(line) - 1)
    with pytest.raises(JournalFailed):
        batch.append(b"A 5")
    monkeypatch.undo()
    with pytest.raises(JournalFailed):  # what follows a torn line could not be read
        batch.append(b"A 6")


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\n", ".x", "x" * 65])
def test_a_worker_is_named_so_that_a_folder_can_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(Misconfigured):
        folder_of(tmp_path, name)
