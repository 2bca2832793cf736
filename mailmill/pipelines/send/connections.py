"""The connections of one route: opened while something waits for them, more slowly while the relay keeps us out."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from mailmill.errors import MailmillError, TransportUnavailable
from mailmill.pipelines.send.ports import Desk, Link, Relay, RouteFacts, RouteRefused

SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 60.0
ALL = 2**31


class Connections:
    """Those that are open, and those being opened. `refused` is told the words of a relay that is closed to us."""

    def __init__(
        self,
        desk: Desk,
        facts: RouteFacts,
        make: Callable[[RouteFacts], Relay],
        *,
        now: Callable[[], float],
        counts: Counter[str],
        refused: Callable[[str], None],
    ) -> None:
        self._desk, self._facts, self._make = desk, facts, make
        self._now, self._counts, self._refused = now, counts, refused
        self.links: set[Link] = set()
        self.last_error: str | None = None
        self.failing_since: float | None = None
        self._relay: Relay | None = None
        self._opening: set[asyncio.Task[None]] = set()
        self._retry_at = 0.0
        self._failures = 0
        self._goodbyes = 0  # 421 with no message taken between
        self._opened = 0

    @property
    def most(self) -> int:
        return int(self._facts.spec.get("connections", 4))

    @property
    def failing(self) -> bool:
        """Whether the relay let nobody in, or sent everybody away, when last asked."""
        return self._failures > 0

    @property
    def away(self) -> bool:
        return self.failing_since is not None and not self.links

    def heard(self, facts: RouteFacts) -> None:
        """A changed spec is for the connections opened from now on."""
        if facts.spec != self._facts.spec:
            self._relay, self._retry_at = None, 0.0
        self._facts = facts

    # ------------------------------------------------------------ opening

    def open(self, now: float, waiting: int, *, needed: bool) -> None:
        """Open what `waiting` messages lack. A relay that keeps us out is tried by one at a time while `needed`."""
        if now < self._retry_at:
            return
        missing = min(self.most, waiting) - len(self.links) - len(self._opening)
        if self._failures and needed:
            missing = 1 - len(self._opening)
        for _ in range(max(0, missing)):
            task = asyncio.create_task(self._open())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self) -> None:
        self._opened += 1
        try:
            if self._relay is None:
                self._relay = self._make(self._facts)
            link = await self._relay.open(self._desk, f"{self._facts.name}#{self._opened}")
        except RouteRefused as error:
            if error.permanent:
                self._refused(str(error))
            self._failed(error)
        except MailmillError as error:  # also a secret that cannot be read: a person mends it while we wait
            self._failed(error)
        else:
            self._failures, self.failing_since, self.last_error = 0, None, None
            self.links.add(link)
            link.wake()

    def _failed(self, error: MailmillError) -> None:
        now = self._now()
        self.last_error = str(error)
        self._counts["connect_failures"] += 1
        self.failing_since = self.failing_since or now
        self._retry_at = now + min(LONGEST_PAUSE_S, SHORTEST_PAUSE_S * 2 ** min(self._failures, 10))
        self._failures += 1

    def said_goodbye(self, reply: str) -> None:
        """One 421 ends a connection that was used enough; from each connection they ask us to come more slowly."""
        self._goodbyes += 1
        over = self._goodbyes - self.most
        if over > 0:
            self._failed(TransportUnavailable(f"the relay says goodbye to every connection: 421 {reply}"))
            self._retry_at = self._now() + min(LONGEST_PAUSE_S, SHORTEST_PAUSE_S * 2 ** min(over, 10))

    def took_one(self) -> None:
        """A message was accepted."""
        self._goodbyes = 0

    # ------------------------------------------------------------ open ones

    def tick(self) -> None:
        """Let those close that have waited too long."""
        for link in list(self.links):
            link.tick()

    def wake(self, most: int = ALL) -> None:
        """There is something to take, for at most so many of those that rest."""
        for link in list(self.links):
            if most <= 0:
                return
            most -= link.wake()

    def closed(self, link: Link) -> None:
        self.links.discard(link)

    def close(self) -> None:
        """Each finishes what is under way."""
        for link in list(self.links):
            link.close()
        for task in list(self._opening):
            task.cancel()

    def abort(self) -> None:
        for link in list(self.links):
            link.abort()
