"""The send loop of one worker: follow what changes, claim, hand over, record, renew; stop when any of it fails.

No message starts unless the database was heard within the last second, results can be recorded, the journal can be
written, the lease has time left and the campaign's window is open. Everything here runs in one event loop; the ledger's
calls run in two threads, one that follows and one that writes.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Protocol, TypeVar

from mailmill.errors import MailmillError, StoreUnavailable
from mailmill.pipelines.send import mime
from mailmill.pipelines.send.batches import Batch, Running
from mailmill.pipelines.send.messages import Composer
from mailmill.pipelines.send.ports import (
    CampaignFacts,
    Claims,
    Follower,
    Idleness,
    Journal,
    JournalFailed,
    Look,
    Order,
    Relay,
    Results,
    RouteFacts,
)
from mailmill.pipelines.send.routes import Route

T = TypeVar("T")
FRESH_S = 0.9  # how long one look at the database lets messages start; promised is one second
FOLLOW_EVERY_S = 0.25
TICK_S = 0.1
RECORD_EVERY_S = 0.25
SETTLE_EVERY_S = 1.0
DRY_S = 0.5  # after an empty claim
LONGEST_PAUSE_S = 5.0


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


@dataclass(slots=True)
class Report:
    """What a worker did. `counts` by the ledger's states, and lost_leases, connect_failures."""

    counts: Counter[str] = field(default_factory=Counter)
    finished: list[str] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)  # by what is in trouble
    ended: str = ""
    failed: bool = False  # ended by a fault of ours: the journal or an error nobody foresaw


class Sender:
    """One worker's loop. `run` once; `stop` from a signal handler or another task."""

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
        clock: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
    ) -> None:
        self._terms, self._follower, self._ledger, self._journal = terms, follower, ledger, journal
        self._make_relay, self._make_composer, self._progress = relay, composer, progress
        self.now = clock  # counts while the machine sleeps, so that a lease's end is not slept through
        self.report = Report()
        self._routes: dict[int, Route] = {}
        self._campaigns: dict[int, Running] = {}
        self._batches: dict[int, Batch] = {}
        self._number = -1
        self._fresh_until = 0.0
        self._at: tuple[datetime, float] | None = None
        self._date: tuple[int, bytes] = (0, b"")
        self._stopping = self._suspended = False
        self._hungry, self._unrecorded, self._ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._follow_thread, self._ledger_thread = ThreadPoolExecutor(1), ThreadPoolExecutor(1)

    # ------------------------------------------------------------ House

    def at_ms(self) -> int:
        """The database's time, epoch milliseconds."""
        assert self._at is not None
        at, asked = self._at
        return int((at.timestamp() + self.now() - asked) * 1000)

    def date(self) -> bytes:
        second = self.at_ms() // 1000
        if second != self._date[0] and self._at is not None:
            at, asked = self._at
            self._date = second, mime.date(at + timedelta(seconds=self.now() - asked))
        return self._date[1]

    def may_begin(self, now: float) -> bool:
        return not self._stopping and self.may_start(now)

    def may_start(self, now: float) -> bool:
        return now < self._fresh_until and not self._suspended

    def hungry(self) -> None:
        self._hungry.set()

    def hold(self, route: Route, reason: str) -> None:
        self.report.problems[route.facts.name] = f"held: {reason}"
        self._spawn(self._hold(route, reason))

    async def _hold(self, route: Route, reason: str) -> None:
        await self._until_done(lambda: self._ledger.hold(route.facts.id, reason))
        route.held_until_heard_after(self.now())

    def journal_failed(self, error: JournalFailed) -> None:
        self._suspended = True
        self._fail(error)

    # ------------------------------------------------------------ life

    def stop(self, why: str = "stopped") -> None:
        """Claim no more, finish what is in flight, give the rest back."""
        self.report.ended = self.report.ended or why
        self._ended.set()

    async def run(self) -> Report:
        """Work until stopped, idle or out of time. What it could not record stays in the journal."""
        work = [self._spawn(task) for task in (self._follow(), self._claim(), self._tick())]
        record = self._spawn(self._record())
        try:
            await asyncio.wait_for(self._ended.wait(), self._terms.max_s)
        except TimeoutError:
            self.report.ended = "out of time"
        self._stopping = True
        await self._drain(work, record)
        for thread in (self._follow_thread, self._ledger_thread):
            thread.shutdown(wait=True)
        self._progress(self.report)
        return self.report

    async def _drain(self, work: list[asyncio.Task[Any]], record: asyncio.Task[Any]) -> None:
        """Leave in order: nothing new, what is in flight to its end, the rest back, everything recorded."""
        end = self.now() + self._terms.grace_s
        await asyncio.wait(work[1:2], timeout=self._terms.grace_s)  # a claim that is under way
        for route in self._routes.values():
            route.close()
        while self.now() < end:
            for route in self._routes.values():
                route.put_away(self.now(), everything=True)
            if all(route.idle for route in self._routes.values()):
                break
            await asyncio.sleep(TICK_S / 4)
        for route in self._routes.values():
            route.abort()
        await asyncio.sleep(TICK_S / 4)  # the links tell what they were at
        for route in self._routes.values():
            route.put_away(self.now(), everything=True)
        end = self.now() + self._terms.grace_s
        while self._batches and self.now() < end and not record.done():
            self._unrecorded.set()
            await asyncio.sleep(TICK_S / 4)
        await self._settle()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

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
        self.report.failed = True
        self.report.problems["worker"] = str(error) if isinstance(error, MailmillError) else repr(error)
        self.stop("failed")

    async def _on_ledger(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._ledger_thread, call)

    async def _until_done(self, call: Callable[[], T]) -> T:
        """A ledger call that is safe to repeat, until it gets through."""
        pause = 0.1
        while True:
            try:
                found = await self._on_ledger(call)
            except StoreUnavailable as error:
                self.report.problems["database"] = str(error)
                await asyncio.sleep(pause)
                pause = min(LONGEST_PAUSE_S, pause * 2)
            else:
                self.report.problems.pop("database", None)
                return found

    # ------------------------------------------------------------ follow

    async def _follow(self) -> None:
        """Look at the change number several times a second. Not hearing it for a second stops all starts."""
        everything_at = 0.0
        loop = asyncio.get_running_loop()
        while True:
            asked = self.now()
            try:
                everything = asked >= everything_at
                look = await loop.run_in_executor(
                    self._follow_thread, partial(self._follower.look, everything=everything)
                )
                if look.number != self._number and look.campaigns is None:
                    asked = self.now()
                    look = await loop.run_in_executor(self._follow_thread, lambda: self._follower.look(everything=True))
                if look.campaigns is not None:
                    everything_at = asked + SETTLE_EVERY_S
                await self._apply(look, asked)
                self.report.problems.pop("database", None)
            except StoreUnavailable as error:
                self.report.problems["database"] = str(error)
            await asyncio.sleep(FOLLOW_EVERY_S)

    async def _apply(self, look: Look, asked: float) -> None:
        changed, self._number = self._number != look.number, look.number
        if look.campaigns is not None and look.routes is not None:
            self._apply_routes(look.routes, asked)
            await self._apply_campaigns(look.campaigns)
        for campaign in self._campaigns.values():
            campaign.set_until(look.at, asked)
        if changed:
            await self._drop_suppressed()
        self._at = look.at, asked
        self._fresh_until = asked + FRESH_S

    def _apply_routes(self, routes: Sequence[RouteFacts], asked: float) -> None:
        for gone in self._routes.keys() - {facts.id for facts in routes}:
            self._routes[gone].wanted = False
        for facts in routes:
            route = self._routes.get(facts.id)
            if route is None:
                route = self._routes[facts.id] = Route(facts, self._make_relay, self, self.report.counts)
            route.heard(facts, asked)
            if route.held is None:
                self.report.problems.pop(facts.name, None)
            else:
                self.report.problems[facts.name] = f"held: {route.held}"

    async def _apply_campaigns(self, campaigns: Sequence[CampaignFacts]) -> None:
        seen = set()
        for facts in campaigns:
            if self._terms.only is not None and facts.name not in self._terms.only:
                continue
            known = self._campaigns.get(facts.id)
            if known is None:
                known = await self._new_campaign(facts)
                if known is None:
                    continue
                self._campaigns[facts.id] = known
            known.facts = facts
            seen.add(facts.id)
        for id in set(self._campaigns) - seen:
            self._campaigns.pop(id).until = 0.0  # paused, cancelled, finished

    async def _new_campaign(self, facts: CampaignFacts) -> Running | None:
        content = await self._until_done(lambda: self._ledger.content(facts.id))
        try:
            return Running(facts, self._make_composer(facts, content), content)
        except (MailmillError, LookupError, ValueError) as error:
            self.report.problems[facts.name] = f"its content cannot be used: {error}"
            return None

    async def _drop_suppressed(self) -> None:
        """Look at everything that was claimed and has not started yet."""
        waiting: dict[int, dict[int, Any]] = {}
        for route in self._routes.values():
            for item in (*route.pool, *route.begun):
                waiting.setdefault(item.batch.order.campaign_id, {})[item.id] = item
        loop = asyncio.get_running_loop()
        for campaign_id, items in waiting.items():
            ids = list(items)
            for id in await loop.run_in_executor(
                self._follow_thread, partial(self._follower.suppressed, campaign_id, ids)
            ):
                items[id].dropped = True

    # ------------------------------------------------------------ claim

    async def _claim(self) -> None:
        while not self._stopping:
            found = self._next_order()
            if found is None:
                if self._terms.until_idle and await self._is_idle():
                    self.stop("idle")
                self._hungry.clear()
                try:
                    await asyncio.wait_for(self._hungry.wait(), 0.1)
                except TimeoutError:
                    pass
                continue
            await self._claim_one(*found)

    def _next_order(self) -> tuple[Route, Running] | None:
        """The hungry route and the campaign of it that waited longest; None when there is nothing to claim."""
        now = self.now()
        if not self.may_begin(now):
            return None
        for campaign in list(self._campaigns.values()):
            route = self._routes.get(campaign.facts.transport_id)
            if route is not None and route.wants and now < campaign.until and now >= campaign.dry_until:
                self._campaigns[campaign.facts.id] = self._campaigns.pop(campaign.facts.id)  # to the end of the queue
                return route, campaign
        return None

    async def _claim_one(self, route: Route, campaign: Running) -> None:
        per_minute, per_day = route.limits
        order = Order(
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
        number, asked = self._number, self.now()
        try:
            journal = self._journal.open(order.token)
        except JournalFailed as error:
            self.journal_failed(error)
            return
        try:
            claimed = await self._on_ledger(lambda: self._ledger.claim(order))
        except StoreUnavailable as error:  # it may have been committed all the same
            self.report.problems["database"] = str(error)
            await self._until_done(lambda: self._ledger.give_back_all(order.token))
            journal.remove()
            return
        self.report.counts["settled_at_claim"] += claimed.settled
        campaign.limited_s = claimed.retry_s or 0.0
        if not claimed.leased:
            journal.remove()
            if not claimed.settled:
                campaign.dry_until = self.now() + max(DRY_S, min(5.0, claimed.retry_s or 0.0))
            return
        batch = Batch(
            order,
            campaign,
            journal,
            until=asked + self._terms.lease_s - self._terms.margin_s,
            budget_until=float("inf") if claimed.budget_s is None else asked + claimed.budget_s,
        )
        self._batches[order.token] = batch
        items = batch.items(claimed.rows)
        while number != self._number:  # something was suppressed while we claimed
            number = self._number
            ids = [item.id for item in items]
            bad = await self._until_done(partial(self._follower.suppressed, order.campaign_id, ids))
            for item in items:
                item.dropped = item.dropped or item.id in bad
        route.pool.extend(items)
        route.tick(self.now())

    async def _is_idle(self) -> bool:
        """Nothing under way, nothing claimable, and nothing that will be within our patience."""
        now = self.now()
        if not self.may_begin(now) or self._batches:
            return False
        open_ids = []
        for campaign in self._campaigns.values():
            route = self._routes.get(campaign.facts.transport_id)
            if route is None or route.held is not None or now >= campaign.until:
                continue
            if route.failing_since is not None and now - route.failing_since > self._terms.patience_s / 2:
                self.report.problems[route.facts.name] = str(route.last_error)
                continue
            if campaign.limited_s <= self._terms.patience_s:
                open_ids.append(campaign.facts.id)
        due = await self._until_done(lambda: self._ledger.next_due_s(open_ids)) if open_ids else None
        return due is None or due > self._terms.patience_s

    # ------------------------------------------------------------ record

    async def _record(self) -> None:
        """Full batches at once, of the others what has come in, several times a second."""
        while True:
            try:
                await asyncio.wait_for(self._unrecorded.wait(), RECORD_EVERY_S)
            except TimeoutError:
                pass
            self._unrecorded.clear()
            for batch in list(self._batches.values()):
                if batch.lines or batch.back or not batch.left:
                    await self._record_batch(batch)

    async def _record_batch(self, batch: Batch) -> None:
        lines, batch.lines = batch.lines, []
        back, batch.back = batch.back, []
        last = not batch.left
        order = batch.order
        resend = 300 if batch.campaign.content.get("doubt") == "resend" else None
        if resend and batch.campaign.sandbox:
            resend = 1
        if back:
            await self._written(lambda: self._ledger.give_back(order.token, back, order))
        changed = await self._written(lambda: self._ledger.record(order, lines, resend_after_s=resend, last=last))
        if changed < len(lines):
            self.report.counts["lost_leases"] += len(lines) - changed
        if last and batch.settled:
            self._batches.pop(order.token, None)
            batch.journal.remove()

    async def _written(self, call: Callable[[], T]) -> T:
        """A result that must reach the ledger: until it does, nothing new starts."""
        try:
            return await self._on_ledger(call)
        except StoreUnavailable as error:
            self.report.problems["database"] = str(error)
            self._suspended = True
            found = await self._until_done(call)
            self._suspended = self.report.failed
            return found

    # ------------------------------------------------------------ tick

    async def _tick(self) -> None:
        renew_at = settle_at = 0.0
        while True:
            now = self.now()
            for route in self._routes.values():
                route.put_away(now)
                route.tick(now)
            if now >= renew_at:
                renew_at = now + self._terms.lease_s / 4
                self._spawn(self._renew())
            if now >= settle_at and not self._stopping:
                settle_at = now + SETTLE_EVERY_S
                self._spawn(self._settle())
                self._progress(self.report)
            await asyncio.sleep(TICK_S)

    async def _renew(self) -> None:
        asked, tokens = self.now(), [token for token, batch in self._batches.items() if not batch.lost]
        try:
            ours = await self._on_ledger(lambda: self._ledger.renew(tokens, self._terms.lease_s))
        except StoreUnavailable as error:
            self.report.problems["database"] = str(error)
            return
        for token in tokens:
            batch = self._batches.get(token)
            if batch is None:
                continue
            if token in ours:
                batch.until = asked + self._terms.lease_s - self._terms.margin_s
            elif batch.left or batch.lines:  # somebody declared us lost: what is in flight will not count any more
                batch.lost, batch.until = True, 0.0

    async def _settle(self) -> None:
        try:
            self.report.finished += await self._on_ledger(lambda: self._ledger.settle(self._terms.worker))
        except StoreUnavailable as error:
            self.report.problems["database"] = str(error)
