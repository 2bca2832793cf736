"""The send worker's journal: one append-only file a claimed batch, so that a kill leaves no attempt unknown.

`<root>/<worker>/<token>.j`, made before the claim is sent. Its lines:

    H <boot id> <campaign id>        first
    A <message id>                   before the final dot can reach the socket
    R <columns of Outcome.line>      after the relay's answer

A file is removed when its whole batch stands in the ledger. The page cache keeps lines over a kill -9; a power loss may
not, so a file of another boot is believed for what it has and doubted for the rest.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from mailmill.errors import Misconfigured
from mailmill.pipelines.send.answers import State
from mailmill.pipelines.send.ports import JournalFailed

logger = logging.getLogger(__name__)
_FILE = re.compile(r"(\d{1,19})\.j")
_WORKER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# What the ledger can take: one line it cannot would keep every worker of the machine from starting.
_ATTEMPT = re.compile(rb"\d{1,18}")
_RESULT = re.compile(
    rb"(\d{1,18})\x1f(?:%b)\x1f[a-z0-9_]*\x1f\d{1,9}\x1f[a-z]*\x1f\d{1,3}\x1f[\d.]*\x1f\d{1,9}\x1f\d{1,15}"
    rb"\x1f[^\0-\x1f]*\x1f[^\0-\x1f]*" % "|".join(get_args(State)).encode()
)
_BOOT = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Which boot of this machine this is; 'unknown' where the kernel does not say."""
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


@dataclass(slots=True)
class FileBatch:
    """BatchJournal in a file."""

    path: Path
    descriptor: int
    failed: bool = False

    def append(self, lines: bytes) -> None:
        lines += b"\n"
        try:
            if self.failed or os.write(self.descriptor, lines) != len(lines):
                raise OSError("the line is torn")
        except OSError as error:
            self.failed = True  # what would follow a torn line could not be read
            raise JournalFailed(f"the journal {self.path} cannot be written: {error}") from error

    def remove(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:  # what it says is in the ledger: replayed, it changes nothing
            logger.warning("the journal %s cannot be removed: %s", self.path, error)


@dataclass(frozen=True, slots=True)
class Left:
    """What a journal file says of its batch. `incomplete`: it may not know of every attempt."""

    path: Path
    token: int
    answered: list[bytes]  # lines as Outcome.line made them
    attempted: list[int]  # without an answer, in order
    incomplete: bool


@dataclass(slots=True)
class FolderJournal:
    """Journal in a folder of this worker alone. Held by flock until `close`."""

    folder: Path
    _lock: int = field(default=-1, init=False)

    def acquire(self) -> bool:
        """Out: False when another process has this folder.

        Raises: Misconfigured when it cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        except OSError as error:
            raise Misconfigured(
                f"the journal's folder cannot be written: {error.strerror}",
                place=str(self.folder),
                remedy="Set MAILMILL_JOURNAL to a folder on this machine's own disk.",
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            return False
        self._lock = lock
        return True

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def open(self, token: int, campaign_id: int = 0) -> FileBatch:
        path = self.folder / f"{token}.j"
        try:
            batch = FileBatch(path, os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600))
        except OSError as error:
            raise JournalFailed(f"the journal {path} cannot be made: {error}") from error
        try:
            batch.append(f"H {boot_id()} {campaign_id}".encode())
        except JournalFailed:
            with suppress(OSError):
                batch.remove()
            raise
        return batch

    def tokens(self) -> list[int]:
        """The batches of which there is a file."""
        return [int(name[1]) for path in self.folder.iterdir() if (name := _FILE.fullmatch(path.name))]

    def left(self) -> list[Left]:
        """What earlier processes left behind, in no order.

        Raises: Misconfigured when a file cannot be read.
        """
        found = []
        for path in self.folder.iterdir():
            name = _FILE.fullmatch(path.name)
            if name:
                try:
                    found.append(read(path, int(name[1])))
                except OSError as error:
                    raise Misconfigured(
                        f"a worker's journal cannot be read: {error.strerror}",
                        place=str(path),
                        remedy=f"If it is lost, remove it and `mailmill doubts --declare-lost {self.folder.name}`.",
                    ) from error
        return found


def read(path: Path, token: int) -> Left:
    """One file; a torn last line is ignored, and any other that is not whole makes the file incomplete."""
    lines = path.read_bytes().split(b"\n")[:-1]
    header = lines[0].split(b" ") if lines else []
    unclean = len(header) != 3 or header[0] != b"H" or header[1].decode("ascii", "replace") != boot_id()
    attempted: dict[int, None] = {}
    answered: dict[int, bytes] = {}
    for line in lines[1:]:
        kind, _, rest = line.partition(b" ")
        if kind == b"A" and _ATTEMPT.fullmatch(rest):
            attempted[int(rest)] = None
        elif kind == b"R" and (result := _RESULT.fullmatch(rest)):
            answered[int(result[1])] = rest
        else:
            unclean = True  # a hole that a power loss left
    return Left(path, token, list(answered.values()), [id for id in attempted if id not in answered], unclean)


def folder_of(root: Path, worker: str) -> FolderJournal:
    """The journal of one worker.

    Raises: Misconfigured when the name cannot be a folder's.
    """
    if not _WORKER.fullmatch(worker):
        raise Misconfigured(
            f"{worker!r} is no name for a worker",
            place="--worker",
            remedy="Use letters, digits, dot, dash and underscore.",
        )
    return FolderJournal(root / worker)


def folders(root: Path) -> list[str]:
    """The workers that have a folder here. A folder whose name is no worker's is somebody else's."""
    if not root.is_dir():
        return []
    return sorted(path.name for path in root.iterdir() if path.is_dir() and _WORKER.fullmatch(path.name))
