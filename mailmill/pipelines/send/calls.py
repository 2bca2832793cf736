"""The ledger's blocking calls, run in threads of their own beside the event loop."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from mailmill.errors import StoreUnavailable

T = TypeVar("T")
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
LONGEST_TROUBLE = 500  # characters


@dataclass(slots=True)
class Report:
    """What a worker did. `counts` by the ledger's states, and lost_leases, connect_failures, settled_at_claim."""

    counts: Counter[str] = field(default_factory=Counter)
    finished: list[str] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)  # by what is in trouble
    ended: str = ""
    failed: bool = False  # ended by a fault of ours: the journal or an error nobody foresaw

    @property
    def troubles(self) -> dict[str, str]:
        """The problems as others are told of them: a line of bounded length each."""
        return {what: " ".join(why.split())[:LONGEST_TROUBLE] for what, why in self.problems.items()}


class Calls:
    """Two threads: one that writes, and one that only looks, so that it never waits behind a claim."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._write, self._look = ThreadPoolExecutor(1, "ledger"), ThreadPoolExecutor(1, "follow")
        self._failing: set[ThreadPoolExecutor] = set()  # a database that can be looked at may still not be written

    async def write(self, call: Callable[[], T]) -> T:
        """Raises: StoreUnavailable, noted in the report."""
        return await self._run(self._write, call)

    async def look(self, call: Callable[[], T]) -> T:
        """Raises: StoreUnavailable, noted in the report."""
        return await self._run(self._look, call)

    async def until_written(self, call: Callable[[], T]) -> T:
        """A call that is safe to repeat, until it gets through."""
        pause = FIRST_PAUSE_S
        while True:
            try:
                return await self.write(call)
            except StoreUnavailable:
                await asyncio.sleep(pause)
                pause = min(LONGEST_PAUSE_S, pause * 2)

    async def _run(self, thread: ThreadPoolExecutor, call: Callable[[], T]) -> T:
        try:
            found = await asyncio.get_running_loop().run_in_executor(thread, call)
        except StoreUnavailable as error:
            self._report.problems["database"] = str(error)
            self._failing.add(thread)
            raise
        self._failing.discard(thread)
        if not self._failing:
            self._report.problems.pop("database", None)
        return found

    def close(self) -> None:
        self._write.shutdown(wait=True)
        self._look.shutdown(wait=True)
