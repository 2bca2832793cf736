"""What a worker knows of the world: campaigns that run, routes, the database's clock, and whether that is still fresh.

It looks at the change number several times a second. A look lets messages start for less than a second, so that no
suppression, pause or cancel is overlooked for longer, also when the database has stopped answering.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from mailmill.errors import MailmillError, StoreUnavailable
from mailmill.pipelines.send import mime
from mailmill.pipelines.send.batches import Item, Running
from mailmill.pipelines.send.calls import Calls, Report
from mailmill.pipelines.send.messages import Composer
from mailmill.pipelines.send.ports import (
    CampaignFacts,
    Claims,
    Follower,
    JournalFailed,
    Look,
    Relay,
    Results,
    RouteFacts,
)
from mailmill.pipelines.send.routes import Route

FRESH_S = 0.9  # promised is one second
FOLLOW_EVERY_S = 0.25
EVERYTHING_EVERY_S = 1.0
CAMPAIGN, PAUSED = "campaign ", "paused: "  # in what is told of problems; a route stands by its name alone


def _named(campaign: CampaignFacts) -> str:
    return CAMPAIGN + campaign.name


class Following:
    """The House of all routes."""

    def __init__(
        self,
        *,
        follower: Follower,
        claims: Claims,
        results: Results,
        calls: Calls,
        report: Report,
        relay: Callable[[RouteFacts], Relay],
        composer: Callable[[CampaignFacts, Mapping[str, Any]], Composer],
        only: frozenset[str] | None,
        fail: Callable[[BaseException], None],
        spawn: Callable[[Any], object],
    ) -> None:
        self._follower, self._claims, self._results = follower, claims, results
        self._calls, self._report = calls, report
        self._make_relay, self._make_composer, self._only = relay, composer, only
        self._fail, self._spawn = fail, spawn
        self.routes: dict[int, Route] = {}
        self.campaigns: dict[int, Running] = {}
        self.number = -1
        self.stopping = self.suspended = False
        self.wanted = asyncio.Event()  # a route is hungry, or there is news of campaigns
        self.unrecorded = asyncio.Event()  # a batch is over
        self._unlooked = False  # claimed rows were not asked about since the number changed
        self._fresh_until = 0.0
        self._at: tuple[datetime, float] | None = None
        self._offset = 0.0  # of the database's clock to ours, epoch seconds
        self._date: tuple[int, bytes] = (0, b"")

    # ------------------------------------------------------------ House

    @staticmethod
    def now() -> float:
        """Seconds; counts while the machine sleeps, so that a lease's end is not slept through."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def at_ms(self) -> int:
        """The database's time, epoch milliseconds."""
        return int((self._offset + self.now()) * 1000)

    def date(self) -> bytes:
        second = int(self._offset + self.now())
        if second != self._date[0] and self._at is not None:
            at, asked = self._at
            self._date = second, mime.date(at + timedelta(seconds=self.now() - asked))
        return self._date[1]

    def may_begin(self, now: float) -> bool:
        return not self.stopping and self.may_start(now)

    def may_start(self, now: float) -> bool:
        return now < self._fresh_until and not self.suspended

    def hungry(self) -> None:
        self.wanted.set()

    def batch_over(self) -> None:
        self.unrecorded.set()

    def hold(self, route: Route, reason: str, provider: str | None = None) -> None:
        self._report.problems[route.facts.name] = f"held for {provider}: {reason}" if provider else f"held: {reason}"
        self._spawn(self._hold(route, reason, provider))

    async def _hold(self, route: Route, reason: str, provider: str | None) -> None:
        await self._calls.until_written(lambda: self._results.hold(route.facts.id, reason, provider))
        route.hold_written(self.now())

    def pause(self, campaign: Running, reason: str) -> None:
        """Stop a campaign until a person resumes it, here at once."""
        campaign.stopped, campaign.until = math.inf, 0.0
        self._report.problems[_named(campaign.facts)] = f"{PAUSED}{reason}"
        self._spawn(self._pause(campaign, reason))

    async def _pause(self, campaign: Running, reason: str) -> None:
        await self._calls.until_written(lambda: self._results.pause(campaign.facts.id, reason))
        campaign.stopped = self.now()

    def journal_failed(self, error: JournalFailed) -> None:
        self.suspended = True
        self._fail(error)

    # ------------------------------------------------------------ looking

    async def follow(self) -> None:
        """For ever."""
        everything_at = 0.0
        while True:
            asked = self.now()
            try:
                look = await self._calls.look(partial(self._follower.look, everything=asked >= everything_at))
                if look.number != self.number and look.campaigns is None:
                    asked = self.now()
                    look = await self._calls.look(partial(self._follower.look, everything=True))
                if look.campaigns is not None:
                    everything_at = asked + EVERYTHING_EVERY_S
                await self._apply(look, asked)
            except StoreUnavailable:
                pass  # noted; nothing starts once the last look is too old
            await asyncio.sleep(FOLLOW_EVERY_S)

    async def _apply(self, look: Look, asked: float) -> None:
        self._unlooked |= self.number != look.number  # until a look-up succeeds: nothing is fresh before
        self.number = look.number
        if look.campaigns is not None and look.routes is not None:
            self._apply_routes(look.routes, asked)
            await self._apply_campaigns(look.campaigns, asked)
        for campaign in self.campaigns.values():
            campaign.set_until(look.at, asked)
        changed = self._unlooked
        if changed:
            await self._drop_suppressed()
            self._unlooked = False
        self._at, self._offset = (look.at, asked), look.at.timestamp() - asked
        self._fresh_until = asked + FRESH_S
        if changed:
            self.hungry()

    def _apply_routes(self, routes: Sequence[RouteFacts], asked: float) -> None:
        for gone in self.routes.keys() - {facts.id for facts in routes}:
            self.routes[gone].wanted = False
        for facts in routes:
            route = self.routes.get(facts.id)
            if route is None:
                route = self.routes[facts.id] = Route(facts, self._make_relay, self, self._report.counts)
            route.heard(facts, asked)
        for campaign in self.campaigns.values():
            if not self._fits(campaign):
                campaign.until = 0.0
        if not self.stopping:  # connections that are closed then say nothing of the relay
            self.tell_problems()

    def tell_problems(self) -> None:
        """Put into the report which routes are held or away; an opened connection ends the latter."""
        for route in self.routes.values():
            if not route.wanted:  # nothing goes this way any more, and nobody looks at it
                self._report.problems.pop(route.facts.name, None)
            elif route.held is not None:
                self._report.problems[route.facts.name] = f"held: {route.held}"
            elif route.away:
                self._report.problems[route.facts.name] = str(route.connections.last_error)
            elif route.held_for:
                provider, why = next(iter(route.held_for.items()))
                more = f" and {len(route.held_for) - 1} more" if len(route.held_for) > 1 else ""
                self._report.problems[route.facts.name] = f"held for {provider}{more}: {why}"
            else:
                self._report.problems.pop(route.facts.name, None)

    async def _apply_campaigns(self, campaigns: Sequence[CampaignFacts], asked: float) -> None:
        seen = set()
        for facts in campaigns:
            if self._only is not None and facts.name not in self._only:
                continue
            known = self.campaigns.get(facts.id)
            resumed = known is not None and known.stopped is not None and asked > known.stopped
            if known is None or resumed or not self._fits(known):
                known = await self._new_campaign(facts)
            if known is not None:
                known.facts = facts
                self.campaigns[facts.id] = known
                seen.add(facts.id)
        for id in set(self.campaigns) - seen:
            self.campaigns.pop(id).until = 0.0  # paused, cancelled, finished
        listed = {_named(facts) for facts in campaigns}
        for what, why in list(self._report.problems.items()):
            if what.startswith(CAMPAIGN) and what not in listed and not why.startswith(PAUSED):
                del self._report.problems[what]  # nothing of it is sent any more

    async def _new_campaign(self, facts: CampaignFacts) -> Running | None:
        content = await self._calls.until_written(lambda: self._claims.content(facts.id))
        try:
            made = Running(facts, self._make_composer(facts, content), content)
        except (MailmillError, LookupError, ValueError) as error:
            self._report.problems[_named(facts)] = f"its content cannot be used: {error}"
            return None
        if not self._fits(made):
            self._report.problems[_named(facts)] = (
                f"it was planned for {'a sandbox' if made.sandbox else 'a relay'} and its transport"
                f" {self.routes[facts.transport_id].facts.name} is of another type now: change that back, or cancel it"
            )
            return None
        self._report.problems.pop(_named(facts), None)
        return made

    def _fits(self, campaign: Running) -> bool:
        """What was planned for a sandbox must reach nobody, and the other way round; `apply` sees to it already."""
        route = self.routes.get(campaign.facts.transport_id)
        return route is None or campaign.sandbox == (route.facts.kind == "sandbox")

    async def _drop_suppressed(self) -> None:
        """Look at everything that was claimed and has not started yet."""
        waiting: dict[int, dict[int, Item]] = {}
        for route in self.routes.values():
            for item in (*route.stock, *route.begun):
                waiting.setdefault(item.batch.order.campaign_id, {})[item.id] = item
        for campaign_id, items in waiting.items():
            bad = await self._calls.look(partial(self._follower.suppressed, campaign_id, list(items)))
            for id in bad:
                items[id].dropped = True
