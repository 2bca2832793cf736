"""Rows for hungry routes: claimed under leases with their journal, a batch at a time, each campaign in its turn."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from mailmill.errors import StoreUnavailable
from mailmill.pipelines.send.batches import Batch, Item, Running
from mailmill.pipelines.send.calls import Calls, Report
from mailmill.pipelines.send.following import Following
from mailmill.pipelines.send.orders import Claimed, Order
from mailmill.pipelines.send.ports import BatchJournal, Follower, Journal, JournalFailed, Ledger
from mailmill.pipelines.send.routes import Route

LOOK_EVERY_S = 0.1
DRY_S, LONGEST_DRY_S = 0.5, 5.0  # after an empty claim


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How a worker works. `only` restricts it to some campaigns; `patience_s` is how long an idle worker with
    `until_idle` waits for what will be due."""

    worker: str
    lease_s: float = 120.0
    margin_s: float = 20.0
    grace_s: float = 30.0  # for what is in flight when we are asked to stop
    until_idle: bool = False
    patience_s: float = 30.0
    max_s: float | None = None
    only: frozenset[str] | None = None


class Claiming:
    """One worker's claims. `stop` is called when nothing is left and the worker was to go on until then."""

    def __init__(
        self,
        terms: Terms,
        *,
        house: Following,
        ledger: Ledger,
        journal: Journal,
        follower: Follower,
        calls: Calls,
        report: Report,
        batches: dict[int, Batch],
        stop: Callable[[str], None],
    ) -> None:
        self._terms, self._house, self._ledger, self._journal = terms, house, ledger, journal
        self._follower, self._calls, self._report = follower, calls, report
        self._batches, self._stop = batches, stop

    async def run(self) -> None:
        """Until the worker stops."""
        house = self._house
        while not house.stopping:
            found = self._next()
            if found is not None:
                await self._claim(*found)
                continue
            if self._terms.until_idle and await self._idle():
                self._stop("idle")
            house.wanted.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(house.wanted.wait(), LOOK_EVERY_S)

    def _next(self) -> tuple[Route, Running] | None:
        """A hungry route and the campaign of it that waited longest; None when there is nothing to claim."""
        house = self._house
        now = house.now()
        if not house.may_begin(now):
            return None
        for id, campaign in house.campaigns.items():
            route = house.routes.get(campaign.facts.transport_id)
            if route is not None and route.wants and now < campaign.until and now >= campaign.dry_until:
                house.campaigns[id] = house.campaigns.pop(id)  # to the end of the queue
                return route, campaign
        return None

    async def _claim(self, route: Route, campaign: Running) -> None:
        order = self._order(route, campaign)
        number, asked = self._house.number, self._house.now()
        try:
            journal = self._journal.open(order.token)
        except JournalFailed as error:
            self._house.journal_failed(error)
            return
        try:
            claimed = await self._calls.write(lambda: self._ledger.claim(order))
        except StoreUnavailable:  # it may have been committed all the same
            await self._calls.until_written(lambda: self._ledger.give_back_all(order.token))
            journal.remove()
            return
        self._report.counts["settled_at_claim"] += claimed.settled
        campaign.limited_s = claimed.retry_s or 0.0
        if claimed.leased:
            await self._take_in(
                route, Batch(order, campaign, journal, *self._until(claimed, asked), claimed.reserved), claimed, number
            )
        else:
            self._nothing_claimed(campaign, journal, claimed)

    def _nothing_claimed(self, campaign: Running, journal: BatchJournal, claimed: Claimed) -> None:
        journal.remove()
        if not claimed.settled:
            campaign.dry_until = self._house.now() + max(DRY_S, min(LONGEST_DRY_S, campaign.limited_s))

    def _until(self, claimed: Claimed, asked: float) -> tuple[float, float]:
        """Until when the lease, and until when what was reserved of limits, lets messages start."""
        reserved = float("inf") if claimed.budget_s is None else asked + claimed.budget_s
        return asked + self._terms.lease_s - self._terms.margin_s, reserved

    def _order(self, route: Route, campaign: Running) -> Order:
        per_minute, per_day = route.limits
        return Order(
            token=secrets.randbits(62),
            worker=self._terms.worker,
            campaign_id=campaign.facts.id,
            tenant_id=campaign.facts.tenant_id,
            transport_id=route.facts.id,
            limit=route.next_batch(),
            lease_s=self._terms.lease_s,
            give_up_after_s=int(campaign.content.get("give_up_after_s") or 72 * 3600),
            per_minute=per_minute,
            per_day=per_day,
        )

    async def _take_in(self, route: Route, batch: Batch, claimed: Claimed, number: int) -> None:
        """Let claimed rows wait for their connections, after a look at what changed since the claim began."""
        self._batches[batch.order.token] = batch
        items = batch.items(claimed.rows)
        while number != self._house.number:
            number = self._house.number
            await self._drop_suppressed(batch, items)
        route.stock.add(items)
        route.tick(self._house.now())

    async def _drop_suppressed(self, batch: Batch, items: list[Item]) -> None:
        ids = [item.id for item in items]
        bad = await self._calls.until_written(partial(self._follower.suppressed, batch.order.campaign_id, ids))
        for item in items:
            item.dropped = item.dropped or item.id in bad

    async def _idle(self) -> bool:
        """Nothing under way, nothing claimable, and nothing that will be within our patience."""
        house, patience = self._house, self._terms.patience_s
        now = house.now()
        if not house.may_begin(now) or self._batches:
            return False
        open_ids = []
        for campaign in house.campaigns.values():
            route = house.routes.get(campaign.facts.transport_id)
            if route is None or route.held is not None or now >= campaign.until:
                continue
            if route.connections.failing_since is not None and now - route.connections.failing_since > patience / 2:
                continue  # the report says so
            if campaign.limited_s <= 2 * patience:  # a limit by the minute is a pace, and no end
                open_ids.append(campaign.facts.id)
        if not open_ids:
            return True
        due = await self._calls.until_written(lambda: self._ledger.next_due_s(open_ids))
        return due is None or due > patience
