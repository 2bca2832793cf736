"""How often one caller may ask, kept in this process: the stats API writes nothing."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable


class RateLimit:
    """A token bucket for each caller: `per_minute` on the long run, `burst` at once.

    It remembers the `callers` seen last; who was forgotten starts with a full bucket. Safe for threads.
    """

    def __init__(self, *, per_minute: float, burst: int, monotonic: Callable[[], float], callers: int = 10_000) -> None:
        self._rate, self._burst, self._monotonic, self._callers = per_minute / 60, burst, monotonic, callers
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()  # caller -> (tokens, when)
        self._lock = threading.Lock()

    def take(self, caller: Hashable) -> int | None:
        """Take one token. Out: None when there was one, else the seconds until there is."""
        with self._lock:
            now = self._monotonic()
            tokens, when = self._buckets.pop(caller, (float(self._burst), now))
            tokens = min(float(self._burst), tokens + (now - when) * self._rate)
            wait = None if tokens >= 1 else math.ceil((1 - tokens) / self._rate)
            self._buckets[caller] = (tokens - 1 if wait is None else tokens, now)
            if len(self._buckets) > self._callers:
                self._buckets.popitem(last=False)
            return wait
