"""What came of claimed rows, into the ledger: results as they come in, and the leases they are under."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from mailmill.errors import StoreUnavailable
from mailmill.pipelines.send.batches import Batch
from mailmill.pipelines.send.calls import Calls, Report
from mailmill.pipelines.send.following import Following
from mailmill.pipelines.send.ports import Ledger

T = TypeVar("T")
EVERY_S = 0.25


class Recording:
    """One worker's results."""

    def __init__(
        self,
        *,
        house: Following,
        ledger: Ledger,
        calls: Calls,
        report: Report,
        batches: dict[int, Batch],
        lease_s: float,
        margin_s: float,
    ) -> None:
        self._house, self._ledger, self._calls, self._report, self._batches = house, ledger, calls, report, batches
        self._lease_s, self._margin_s = lease_s, margin_s

    async def run(self) -> None:
        """What has come in, several times a second, and a batch that is over at once; for ever."""
        unrecorded, everything_at = self._house.unrecorded, 0.0
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(unrecorded.wait(), EVERY_S)
            unrecorded.clear()
            now = self._house.now()
            everything = now >= everything_at
            if everything:
                everything_at = now + EVERY_S
            for batch in list(self._batches.values()):
                if not batch.left or (everything and (batch.lines or batch.back or batch.held)):
                    await self._record(batch)

    async def _record(self, batch: Batch) -> None:
        lines, batch.lines = batch.lines, []
        back, batch.back = batch.back, []
        held, batch.held = batch.held, {}
        order, last = batch.order, not batch.left
        if back:
            await self._written(lambda: self._ledger.give_back(order, back, batch.reserved, held_for=None))
        if held:
            ids, providers = list(held), list(held.values())
            await self._written(lambda: self._ledger.give_back(order, ids, batch.reserved, held_for=providers))
        resend = batch.campaign.resend_after_s
        changed = await self._written(lambda: self._ledger.record(order, lines, resend_after_s=resend, last=last))
        if changed < len(lines):
            self._report.counts["lost_leases"] += len(lines) - changed
        if last:
            self._batches.pop(order.token, None)
            batch.journal.remove()
            self._house.hungry()

    async def _written(self, call: Callable[[], T]) -> T:
        """A result that must reach the ledger: until it does, nothing new starts."""
        try:
            return await self._calls.write(call)
        except StoreUnavailable:
            self._house.suspended = True
            found = await self._calls.until_written(call)
            self._house.suspended = self._report.failed
            return found

    async def renew(self) -> None:
        """Make the leases longer, and say that this worker lives."""
        asked, tokens = self._house.now(), [token for token, batch in self._batches.items() if not batch.lost]
        try:
            ours = await self._calls.write(lambda: self._ledger.renew(tokens, self._lease_s))
        except StoreUnavailable:
            return  # what is not renewed runs out, and nothing starts then
        for token in tokens:
            batch = self._batches.get(token)
            if batch is None:
                continue
            if token in ours:
                batch.until = asked + self._lease_s - self._margin_s
            elif batch.left or batch.lines:  # somebody declared us lost: what is in flight will not count any more
                batch.lost, batch.until = True, 0.0
