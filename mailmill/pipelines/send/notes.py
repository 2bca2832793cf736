"""What the journals have to hold before messages go out: the notes of several connections in one write.

A write costs as much as it takes to make a message's text, so answers and attempts of one turn of the event loop are
written together, and bodies wait for it. The relay works on what others handed over meanwhile, so few wait for another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mailmill.pipelines.send.batches import Batch
from mailmill.pipelines.send.ports import JournalFailed, Link

TOGETHER = 4  # connections whose bodies wait for one another


class Notes:
    """Of one route; only the event loop's thread touches it. `failed` is told of a journal that cannot be written, and
    `may_start` asked once it was: a busy disk may have taken its time, and a stop have come meanwhile."""

    def __init__(self, failed: Callable[[JournalFailed], None], may_start: Callable[[], bool]) -> None:
        self._failed, self._may_start = failed, may_start
        self._batches: list[Batch] = []  # with notes
        self._links: list[Link] = []  # whose bodies wait
        self._due = False

    def add(self, batch: Batch, line: bytes) -> None:
        """A line for the batch's journal, on disk before the loop's next turn is over."""
        if not batch.notes:
            self._batches.append(batch)
        batch.notes.append(line)
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._write_due)

    def release(self, link: Link) -> None:
        """Let a link go on once everything added is on disk."""
        self._links.append(link)
        if len(self._links) >= TOGETHER:
            self._write()

    def _write_due(self) -> None:
        self._due = False
        self._write()

    def _write(self) -> None:
        batches, self._batches = self._batches, []
        links, self._links = self._links, []
        noted = True
        for batch in batches:
            lines, batch.notes = batch.notes, []
            try:
                batch.journal.append(b"\n".join(lines))
            except JournalFailed as error:
                noted = False
                self._failed(error)
        noted = noted and (not links or self._may_start())
        for link in links:
            link.release(noted)
