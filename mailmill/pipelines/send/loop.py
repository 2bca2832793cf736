"""The send loop of one worker: claim, hand over, record, renew; stop when any of it fails.

No message starts unless the database was heard within the last second, results can be recorded, the journal can be
written, the lease has time left and the campaign's window is open. Everything runs in one event loop; the ledger's
calls run in threads (calls.py), what changes meanwhile is followed (following.py), connections belong to routes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any

from mailmill.errors import MailmillError, StoreUnavailable
from mailmill.pipelines.send.batches import Batch
from mailmill.pipelines.send.calls import Calls, Report
from mailmill.pipelines.send.claiming import Claiming, Terms
from mailmill.pipelines.send.following import Following
from mailmill.pipelines.send.gauges import Gauges, Pace, gauges
from mailmill.pipelines.send.messages import Composer
from mailmill.pipelines.send.ports import (
    CampaignFacts,
    Follower,
    Journal,
    Ledger,
    Relay,
    RouteFacts,
)
from mailmill.pipelines.send.recording import Recording
from mailmill.pipelines.send.routes import Route

TICK_S = 0.1
SETTLE_EVERY_S = 1.0


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
        self._terms, self._ledger, self._progress = terms, ledger, progress
        self.report = Report()
        self._calls = Calls(self.report)
        self._house = Following(
            follower=follower, claims=ledger, results=ledger, calls=self._calls, report=self.report, relay=relay,
            composer=composer, only=terms.only, fail=self._fail, spawn=self._spawn,
        )  # fmt: skip
        self._batches: dict[int, Batch] = {}
        self._claiming = Claiming(
            terms, house=self._house, ledger=ledger, journal=journal, follower=follower, calls=self._calls,
            report=self.report, batches=self._batches, stop=self.stop,
        )  # fmt: skip
        self._recording = Recording(
            house=self._house, ledger=ledger, calls=self._calls, report=self.report, batches=self._batches,
            lease_s=terms.lease_s, margin_s=terms.margin_s,
        )  # fmt: skip
        self._pace = Pace()
        self.doing = Gauges()  # about once a second; any thread may look
        self._ended = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()

    # ------------------------------------------------------------ life

    def stop(self, why: str = "stopped") -> None:
        """Claim no more, finish what is in flight, give the rest back."""
        self.report.ended = self.report.ended or why
        self._ended.set()

    async def run(self) -> Report:
        """Work until stopped, idle or out of time. What it could not record stays in the journal."""
        claiming, recording = self._spawn(self._claiming.run()), self._spawn(self._recording.run())
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
            self._house.unrecorded.set()
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

    # ------------------------------------------------------------ tick

    async def _tick(self) -> None:
        renew_at = settle_at = 0.0
        under_way: dict[str, asyncio.Task[None]] = {}  # while the database is slow they would pile up before all else

        def again(what: str, call: Callable[[], Coroutine[Any, Any, None]]) -> None:
            if what not in under_way or under_way[what].done():
                under_way[what] = self._spawn(call())

        while True:
            now = self._house.now()
            for route in self._routes:
                route.put_away(now)
                route.tick(now)
            if now >= renew_at:
                renew_at = now + self._terms.lease_s / 4
                again("renew", self._recording.renew)
            if now >= settle_at and not self._house.stopping:
                settle_at = now + SETTLE_EVERY_S
                again("settle", self._settle)
                self._progress(self.report)
            await asyncio.sleep(TICK_S)

    async def _settle(self) -> None:
        with suppress(StoreUnavailable):
            self.report.finished += await self._calls.write(lambda: self._ledger.settle(self._terms.worker))
            doing = self.doing = self._gauge()
            said = {"rate": doing.rate, "in_flight": doing.in_flight, "bound_by": doing.bound_by}
            await self._calls.write(lambda: self._ledger.note(self._terms.worker, self.report.troubles, said))
