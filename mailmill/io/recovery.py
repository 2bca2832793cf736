"""What a worker does before it sends: takes a name and its journal, and settles what earlier workers left behind."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Collection
from datetime import datetime
from pathlib import Path

from mailmill.errors import Misconfigured, StoreUnavailable
from mailmill.io.journal import FolderJournal, boot_id, folder_of, folders
from mailmill.io.postgres import doubts, ledger
from mailmill.io.postgres.doubts import Replayed
from mailmill.io.postgres.ledger_ports import SenderSession

logger = logging.getLogger(__name__)

RESCUE_EVERY_S = 10.0
_NAME_WAIT_S = 20.0  # a killed predecessor's session and flock may last for a moment
_MOST_WORKERS = 64  # of one machine


def journal_of(root: Path, worker: str | None) -> tuple[str, FolderJournal]:
    """The worker's journal, held. Without a name: the first of this machine that is free."""
    if worker is not None:
        journal = folder_of(root, worker)
        deadline = time.monotonic() + _NAME_WAIT_S
        while not journal.acquire():
            if time.monotonic() > deadline:
                raise Misconfigured(
                    f"a worker {worker!r} runs on this machine already", remedy="Give this one another name."
                )
            time.sleep(0.1)
        return worker, journal
    host = "".join(c if c.isalnum() and c.isascii() else "-" for c in socket.gethostname()).strip("-") or "worker"
    for number in range(1, _MOST_WORKERS + 1):
        name = host[:50] if number == 1 else f"{host[:50]}-{number}"
        journal = folder_of(root, name)
        if journal.acquire():
            return name, journal
    raise Misconfigured(f"{_MOST_WORKERS} workers run on this machine already")


def recover(
    session: SenderSession, journal: FolderJournal, name: str, root: Path, *, only: Collection[str] | None
) -> Replayed:
    """Own the name, settle what was left behind, be known as who sends these campaigns alone (None: all)."""
    deadline = time.monotonic() + _NAME_WAIT_S
    while True:
        try:
            with session.use() as conn:
                at = ledger.look(conn, everything=False).at
            break
        except StoreUnavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
    replayed = _replay(session, journal, at)
    with session.use() as conn:
        conn.execute(ledger.SQL["forget_ended"])
        me = {"worker": name, "host": socket.gethostname(), "boot_id": boot_id(), "pid": os.getpid()}
        conn.execute(ledger.SQL["register"], {**me, "campaigns": None if only is None else sorted(only)})
    rescue = Rescue(session, root, name)
    rescue()
    return replayed + rescue.found


def _replay(session: SenderSession, journal: FolderJournal, at: datetime) -> Replayed:
    found = Replayed()
    for left in journal.left():
        with session.use() as conn:
            found += doubts.replay(conn, left, at=at)
        left.path.unlink(missing_ok=True)
    return found


class Rescue:
    """Now and then, replay the journals of workers of this machine that died and did not come back, and call lost what
    an earlier process of our own name left without one: its leases may run out only while we live."""

    def __init__(self, session: SenderSession, root: Path, me: str) -> None:
        self._session, self._root, self._me = session, root, me
        self._next = 0.0
        self._trouble: str | None = None
        self.found = Replayed()

    def __call__(self) -> str | None:
        """Out: what cannot be replayed, in one line; None when there is nothing of that."""
        now = time.monotonic()
        if now < self._next:
            return self._trouble
        self._next = now + RESCUE_EVERY_S
        troubles = []
        for name in folders(self._root):
            if name != self._me:
                try:
                    self._one(name, folder_of(self._root, name))
                except Misconfigured as error:  # a file that cannot be read
                    logger.warning("%s", error)
                    troubles.append(" ".join(str(error).split()))
        self._trouble = "; ".join(troubles) or None
        self._own()
        return self._trouble

    def _own(self) -> None:
        journal = folder_of(self._root, self._me)
        with self._session.use() as conn:
            for token in doubts.orphaned(conn, self._me, journal.tokens()):
                n = doubts.lose(conn, token)
                self.found += Replayed(in_doubt=n)
                logger.warning("the journal of a lease of %s is gone: %d messages are in doubt", self._me, n)

    def _one(self, name: str, journal: FolderJournal) -> None:
        if not any(journal.folder.glob("*.j")) or not journal.acquire():
            return
        try:
            with self._session.use() as conn:
                owned = doubts.own_name(conn, name)
                at = ledger.look(conn, everything=False).at
            if owned:
                try:
                    self.found += _replay(self._session, journal, at)
                finally:
                    with self._session.use() as conn:
                        doubts.disown_name(conn, name)
        finally:
            journal.close()
