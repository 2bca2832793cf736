"""What waits for a route's connections: claimed items, and those whose message is made already.

A message that only has to be joined is made when a connection takes it, and so is one signed by Ed25519. One signed by
RSA is made ahead, in threads: it lets other threads run while it computes, so signing costs the connections nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from os import cpu_count

from mailmill.pipelines.send.batches import Batch, Item
from mailmill.pipelines.send.messages import Outgoing, Unrenderable

CHUNK = 16  # messages a thread makes at a time
THREADS = min(4, cpu_count() or 1)  # more of them than cores only take the lock from one another
AHEAD = 128  # made or in the making
FOR_ONE = 4  # made messages that one more connection is woken for


class Stock:
    """Only the event loop's thread touches it; `wake` is told for how many connections messages have been made."""

    def __init__(self, wake: Callable[[int], None], date: Callable[[], bytes]) -> None:
        self._wake, self._date = wake, date
        self._pool: deque[Item] = deque()
        self._made: deque[Item] = deque()
        self._making: set[Item] = set()
        self._threads: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        return len(self._pool) + len(self._made) + len(self._making)

    def __iter__(self) -> Iterator[Item]:
        """Everything that was not taken yet."""
        yield from self._pool
        yield from self._made
        yield from self._making

    def add(self, items: Iterable[Item]) -> None:
        self._pool.extend(items)

    def put_back(self, item: Item) -> None:
        """An item that was taken and not begun; it is the next one again."""
        item.message = None
        self._pool.appendleft(item)

    def put_behind(self, item: Item) -> None:
        """As `put_back`, behind all others."""
        item.message = None
        self._pool.append(item)

    def take(self) -> Item | None:
        """The next item with its message, or why it has none, in `message`; None when none is made yet."""
        if self._made:
            item = self._made.popleft()
            self._make_ahead()
            return item
        if not self._pool:
            return None
        composer = self._pool[0].batch.campaign.composer
        if composer.costly:
            self._make_ahead()
            return None
        item = self._pool.popleft()
        if not item.dropped:
            item.message = composer.composed(item, self._date())
        return item

    def take_out(self, unfit: Callable[[Item], bool]) -> dict[Batch, list[Item]]:
        """Remove what is unfit. What is in the making is looked at again when it is made."""
        out: dict[Batch, list[Item]] = {}
        for queue in (self._pool, self._made):
            stay = []
            for item in queue:
                if unfit(item):
                    item.message = None
                    out.setdefault(item.batch, []).append(item)
                else:
                    stay.append(item)
            if len(stay) < len(queue):
                queue.clear()
                queue.extend(stay)
        return out

    # ------------------------------------------------------------ ahead

    def _make_ahead(self) -> None:
        while self._pool and self._pool[0].batch.campaign.composer.costly:
            if len(self._made) + len(self._making) > AHEAD - CHUNK:
                return
            batch = self._pool[0].batch
            chunk: list[Item] = []
            while self._pool and len(chunk) < CHUNK and self._pool[0].batch is batch:
                chunk.append(self._pool.popleft())
            self._making.update(chunk)
            if self._threads is None:
                self._threads = ThreadPoolExecutor(THREADS, "sign")
            call = partial(batch.campaign.composer.compose_all, chunk, self._date())
            task = asyncio.get_running_loop().run_in_executor(self._threads, call)
            task.add_done_callback(partial(self._take_in, chunk))

    def _take_in(self, chunk: list[Item], task: asyncio.Future[list[Outgoing | Unrenderable]]) -> None:
        self._making.difference_update(chunk)
        if task.cancelled():
            self._pool.extendleft(reversed(chunk))
            return
        error = task.exception()
        made: Sequence[Outgoing | Unrenderable]
        made = task.result() if error is None else [Unrenderable("render_error", type(error).__name__)] * len(chunk)
        for item, message in zip(chunk, made, strict=True):
            item.message = message
        self._made.extend(chunk)
        # a connection that finds the next message waiting sends its envelope with the body before: few that are busy
        # cost less than many that rest between messages, and where the relay is slow these pile up and wake them all
        self._wake(max(1, len(self._made) // FOR_ONE))

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False)
