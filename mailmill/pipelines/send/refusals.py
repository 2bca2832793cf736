"""Refusals that are our fault, one behind the other: of whom they come decides what is held.

A provider that takes nothing from us is held by itself, whatever others say in between; the route only when it is
refused for everybody. Counted in each worker, by who runs the recipient's mailbox, as the domain's name or MX said when
the audience was frozen, else by the domain.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from mailmill.pipelines.send.answers import RUN_THAT_HOLDS

MOST_PROVIDERS = 10_000  # that are counted


@dataclass(slots=True)
class Refusals:
    """Of one route."""

    _of: Counter[str] = field(default_factory=Counter)  # by provider, since it last said something else
    _row: Counter[str] = field(default_factory=Counter)  # since anybody did

    def __bool__(self) -> bool:
        return bool(self._of)

    def refused(self, provider: str) -> Literal["route", "provider"] | None:
        """Out: what to hold now. The route: at least half of the run came from others than the most frequent one."""
        self._of[provider] += 1
        self._row[provider] += 1
        run = self._row.total()
        if run >= RUN_THAT_HOLDS and 2 * max(self._row.values()) <= run:
            return "route"
        if self._of[provider] >= RUN_THAT_HOLDS:
            del self._of[provider], self._row[provider]  # it is held: it says nothing of the others any more
            return "provider"
        if len(self._of) > MOST_PROVIDERS:
            self._of.clear()
        return None

    def otherwise(self, provider: str) -> None:
        """It took a message, or refused one for a reason of the recipient's."""
        self._of.pop(provider, None)
        self._row.clear()
