"""The connections of one route: as many as something waits for and as the relay serves.

How many it serves shows when it fails to serve one more, at its greeting or by 421 before it took a message: those that
are open then are `_allowed`, and opened at once whenever they are missing. One more is tried at a time, ever more
slowly while that fails; once a message was taken over it, it is allowed as well, and the next is tried.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable

from mailmill.errors import MailmillError, TransportUnavailable
from mailmill.pipelines.send.answers import masked
from mailmill.pipelines.send.ports import Desk, Link, Relay, RouteFacts, RouteRefused

logger = logging.getLogger(__name__)
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
        self._allowed = ALL
        self._tried: object = None  # the one connection beyond those, from its opening until a message was taken
        self._retry_at = 0.0
        self._failures = 0  # of such tries, one behind the other
        self._sent_away = False  # it says hello, but 421 before a message is taken
        self._opened = 0

    @property
    def most(self) -> int:
        return int(self._facts.spec.get("connections", 4))

    @property
    def served(self) -> int:
        """How many may be open at once, as far as we know."""
        return max(1, min(self.most, self._allowed))

    @property
    def away(self) -> bool:
        """Whether the relay let nobody in, or sent everybody away, when last asked."""
        return self.failing_since is not None and not self.links

    def heard(self, facts: RouteFacts) -> None:
        """A changed spec is for what is begun from now on: what is open finishes what is under way."""
        if facts.spec != self._facts.spec:
            for link in list(self.links):
                link.close()
            self._relay, self._allowed, self._retry_at, self._failures = None, ALL, 0.0, 0
        self._facts = facts

    # ------------------------------------------------------------ opening

    def open(self, now: float, waiting: int, *, needed: bool) -> None:
        """Open what `waiting` messages lack; with none waiting, one to a relay that keeps us out while `needed`."""
        missing = min(self.most, waiting) - self._under_way
        at_once = max(0, min(missing, self._allowed - self._under_way))
        for _ in range(at_once):
            self._begin()
        if self._tried is not None or now < self._retry_at:
            return
        if missing > at_once or (needed and self.away and not self._opening):
            self._tried = self._begin()
            self._pause(now)

    @property
    def _under_way(self) -> int:
        return len(self.links) + len(self._opening)

    def _begin(self) -> asyncio.Task[None]:
        task = asyncio.create_task(self._open())
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        return task

    async def _open(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._opened += 1
        relay = self._relay
        try:
            if relay is None:
                relay = self._relay = self._make(self._facts)
            link = await relay.open(self._desk, f"{self._facts.name}#{self._opened}")
        except Exception as error:  # whatever it is: a try that ended untold would be waited for for ever
            self._opening.discard(task)
            if not isinstance(error, MailmillError):  # one such is a secret that cannot be read: a person mends it
                logger.exception("%s: a connection could not be opened", self._facts.name)
            if relay is not self._relay:  # its spec was changed meanwhile, and this says nothing of today's
                if self._tried is task:
                    self._tried = None
                return
            if isinstance(error, RouteRefused) and error.permanent:
                self._refused(masked(str(error)))
            self._failed(error, task)
            return
        self._opening.discard(task)
        if self._tried is task:
            self._tried = link
        if not self._sent_away:
            self.failing_since = self.last_error = None
        self.links.add(link)
        if relay is self._relay:
            link.wake()
        else:  # its spec was changed meanwhile
            link.close()

    def _failed(self, error: Exception, which: object) -> None:
        """The relay serves no more than are open."""
        now = self._now()
        self.last_error = masked(str(error) if isinstance(error, MailmillError) else repr(error))
        self._counts["connect_failures"] += 1
        if not self.links:
            self.failing_since = self.failing_since or now
        if self._under_way < self._allowed:
            self._allowed, self._failures = self._under_way, 0
        else:
            self._failures += 1
        if which is self._tried:
            self._tried = None
        self._pause(now)

    def _pause(self, now: float) -> None:
        self._retry_at = now + min(LONGEST_PAUSE_S, SHORTEST_PAUSE_S * 2 ** min(self._failures, 10))

    def _serves(self, link: Link) -> None:
        """A message was taken over it."""
        self.failing_since = self.last_error = None
        self._sent_away = False
        if link is self._tried:
            self._tried, self._retry_at, self._failures = None, 0.0, 0
            self._allowed += 1

    # ------------------------------------------------------------ open ones

    def tick(self) -> None:
        """Let those close that have waited too long."""
        for link in list(self.links):
            if link.used:
                self._serves(link)
            link.tick()

    def wake(self, most: int = ALL) -> None:
        """There is something to take, for at most so many of those that rest."""
        for link in list(self.links):
            if most <= 0:
                return
            most -= link.wake()

    def closed(self, link: Link) -> None:
        if link not in self.links:
            return
        self.links.discard(link)
        if link.used:
            self._serves(link)
        elif link.turned_away is not None:
            self._sent_away = True
            self._failed(TransportUnavailable(f"the relay turns connections away: {link.turned_away}"), link)
        elif link is self._tried:
            self._tried = None

    def close(self) -> None:
        """Each finishes what is under way."""
        for link in list(self.links):
            link.close()
        for task in list(self._opening):
            task.cancel()

    def abort(self) -> None:
        for link in list(self.links):
            link.abort()
