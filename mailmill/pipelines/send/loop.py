"""The send loop of one worker: claim, hand over, record, renew; stop when any of it fails.

No message starts unless the database was heard within the last second, results can be recorded, the journal can be
written, the lease has time left and the campaign's window is open. Everything runs in one event loop; the ledger's
calls run in threads (calls.py), what changes meanwhile is followed (following.py), connections belong to routes.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from mailmill.errors import MailmillError, StoreUnavailable
from mailmill.pipelines.send.batches import Batch, Item, Running
from mailmill.pipelines.send.calls import Calls, Report
from mailmill.pipelines.send.following import Following
from mailmill.pipelines.send.gauges import Gauges, Pace, gauges
from mailmill.pipelines.send.messages import Composer
from mailmill.pipelines.send.orders import Claimed, Order
from mailmill.pipelines.send.ports import (
    BatchJournal,
    CampaignFacts,
    Claims,
    Follower,
    Idleness,
    Journal,
    JournalFailed,
    Relay,
    Results,
    RouteFacts,
)
from mailmill.pipelines.send.routes import Route

T = TypeVar("T")
TICK_S = 0.1
RECORD_EVERY_S = 0.25
SETTLE_EVERY_S = 1.0
DRY_S, LONGEST_DRY_S = 0.5, 5.0  # after an empty claim


class Ledger(Claims, Results, Idleness, Protocol):
    def give_back_all(self, token: int) -> int:
        """The rows of a claim whose commit was not acknowledged."""
        ...


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


class Sender:
    """One worker's loop. `run` once; `stop` from a signal handler or another task of its loop."""

    def __init__(
        self,
        terms: Terms,
        *,
        follower: Follower,
        ledger: Ledger,
        journal: Journal,
        relay: Callable[[RouteFacts], Relay],
        composer: Callable[[CampaignFacts, Mapping[str, Any]], Composer],
        progress: Callable[[Report], None] = lambda report: None,
    ) -> None:
        self._terms, self._ledger, self._journal, self._progress = terms, ledger, journal, progress
        self.report = Report()
        self._calls = Calls(self.report)
        self._house = Following(
            follower=follower, claims=ledger, results=ledger, calls=self._calls, report=self.report, relay=relay,
            composer=composer, only=terms.only, fail=self._fail, spawn=self._spawn,
        )  # fmt: skip
        self._follower = follower
        self._batches: dict[int, Batch] = {}
        self._pace = Pace()
        self.doing = Gauges()  # about once a second; any thread may look
        self._unrecorded, self._ended = asyncio.Event(), asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()

    # ------------------------------------------------------------ life

    def stop(self, why: str = "stopped") -> None:
        """Claim no more, finish what is in flight, give the rest back."""
        self.report.ended = self.report.ended or why
        self._ended.set()

    async def run(self) -> Report:
        """Work until stopped, idle or out of time. What it could not record stays in the journal."""
        claiming, recording = self._spawn(self._claim()), self._spawn(self._record())
        self._spawn(self._house.follow())
        self._spawn(self._tick())
        try:
            await asyncio.wait_for(self._ended.wait(), self._terms.max_s)
        except TimeoutError:
            self.report.ended = "out of time"
        self._house.tell_problems()
        self._house.stopping = True
        await self._drain(claiming, recording)
        self._calls.close()
        self._progress(self.report)
        return self.report

    async def _drain(self, claiming: asyncio.Task[Any], recording: asyncio.Task[Any]) -> None:
        """Leave in order: nothing new, what is in flight to its end, the rest back, everything recorded."""
        now, grace = self._house.now, self._terms.grace_s
        await asyncio.wait([claiming], timeout=grace)  # a claim that is under way
        for route in self._routes:
            route.close()
        end = now() + grace
        while not self._put_away() and now() < end:  # noqa: ASYNC110 - many routes, no one event
            await asyncio.sleep(TICK_S / 4)
        for route in self._routes:
            route.abort()
        await asyncio.sleep(TICK_S / 4)  # the links tell what they were at
        self._put_away()
        end = now() + grace
        while self._batches and now() < end and not recording.done():
            self._unrecorded.set()
            await asyncio.sleep(TICK_S / 4)
        await self._settle()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def _routes(self) -> list[Route]:
        return list(self._house.routes.values())

    def _put_away(self) -> bool:
        """Out: whether nothing is in flight any more."""
        for route in self._routes:
            route.put_away(self._house.now(), everything=True)
        return all(route.idle for route in self._routes)

    def _spawn(self, coroutine: Any) -> asyncio.Task[Any]:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self.report.failed = self._house.suspended = True
        self.report.problems["worker"] = str(error) if isinstance(error, MailmillError) else repr(error)
        self.stop("failed")

    def _gauge(self) -> Gauges:
        now, counts = self._house.now(), self.report.counts
        return gauges(
            self._routes, list(self._house.campaigns.values()), now=now,
            rate=self._pace.rate(now, sum(counts[state] for state in ("sent", "failed", "deferred"))),
            leases=len(self._batches),
        )  # fmt: skip

    # ------------------------------------------------------------ claim

    async def _claim(self) -> None:
        house = self._house
        while not house.stopping:
            found = self._next()
            if found is not None:
                await self._claim_one(*found)
                continue
            if self._terms.until_idle and await self._is_idle():
                self.stop("idle")
            house.wanted.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(house.wanted.wait(), TICK_S)

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

    async def _claim_one(self, route: Route, campaign: Running) -> None:
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
        self.report.counts["settled_at_claim"] += claimed.settled
        campaign.limited_s = claimed.retry_s or 0.0
        if claimed.leased:
            await self._take_in(route, Batch(order, campaign, journal, *self._until(claimed, asked)), claimed, number)
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

    async def _is_idle(self) -> bool:
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
            if route.failing_since is not None and now - route.failing_since > patience / 2:
                continue  # the report says so
            if campaign.limited_s <= patience:
                open_ids.append(campaign.facts.id)
        if not open_ids:
            return True
        due = await self._calls.until_written(lambda: self._ledger.next_due_s(open_ids))
        return due is None or due > patience

    # ------------------------------------------------------------ record

    async def _record(self) -> None:
        """What has come in, several times a second."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._unrecorded.wait(), RECORD_EVERY_S)
            self._unrecorded.clear()
            for batch in list(self._batches.values()):
                if batch.lines or batch.back or not batch.left:
                    await self._record_batch(batch)

    async def _record_batch(self, batch: Batch) -> None:
        lines, batch.lines = batch.lines, []
        back, batch.back = batch.back, []
        order, last = batch.order, not batch.left
        if back:
            await self._written(lambda: self._ledger.give_back(order.token, back, order))
        resend = batch.campaign.resend_after_s
        changed = await self._written(lambda: self._ledger.record(order, lines, resend_after_s=resend, last=last))
        if changed < len(lines):
            self.report.counts["lost_leases"] += len(lines) - changed
        if last:
            self._batches.pop(order.token, None)
            batch.journal.remove()

    async def _written(self, call: Callable[[], T]) -> T:
        """A result that must reach the ledger: until it does, nothing new starts."""
        try:
            return await self._calls.write(call)
        except StoreUnavailable:
            self._house.suspended = True
            found = await self._calls.until_written(call)
            self._house.suspended = self.report.failed
            return found

    # ------------------------------------------------------------ tick

    async def _tick(self) -> None:
        renew_at = settle_at = 0.0
        while True:
            now = self._house.now()
            for route in self._routes:
                route.put_away(now)
                route.tick(now)
            if now >= renew_at:
                renew_at = now + self._terms.lease_s / 4
                self._spawn(self._renew())
            if now >= settle_at and not self._house.stopping:
                settle_at = now + SETTLE_EVERY_S
                self._spawn(self._settle())
                self._progress(self.report)
            await asyncio.sleep(TICK_S)

    async def _renew(self) -> None:
        asked, tokens = self._house.now(), [token for token, batch in self._batches.items() if not batch.lost]
        try:
            ours = await self._calls.write(lambda: self._ledger.renew(tokens, self._terms.lease_s))
        except StoreUnavailable:
            return  # what is not renewed runs out, and nothing starts then
        for token in tokens:
            batch = self._batches.get(token)
            if batch is None:
                continue
            if token in ours:
                batch.until = asked + self._terms.lease_s - self._terms.margin_s
            elif batch.left or batch.lines:  # somebody declared us lost: what is in flight will not count any more
                batch.lost, batch.until = True, 0.0

    async def _settle(self) -> None:
        with suppress(StoreUnavailable):
            self.report.finished += await self._calls.write(lambda: self._ledger.settle(self._terms.worker))
            doing = self.doing = self._gauge()
            said = {"rate": doing.rate, "in_flight": doing.in_flight, "bound_by": doing.bound_by}
            await self._calls.write(lambda: self._ledger.note(self._terms.worker, self.report.trouble, said))
