"""Events on their way to the event log: one thread appends for every request, in batches.

Two promises. `submit` is for what is answered with success only when it is durable. `offer` is for opens and clicks:
answered at once, appended within a fifth of a second, kept in memory while the log is down up to a bound, counted when
dropped.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from mailmill.errors import MailmillError, StoreUnavailable, TransientError
from mailmill.pipelines.listen.arrivals import Event
from mailmill.pipelines.listen.ports import EventLog

logger = logging.getLogger(__name__)
MAX_BATCH = 10_000
LONGEST_PAUSE_S = 5.0


@dataclass(slots=True)
class _Submitted:
    events: Sequence[Event]
    done: Future[None]


class Appender:
    """Between start() and close() its thread alone talks to the event log."""

    def __init__(
        self,
        log: EventLog,
        *,
        interval_s: float = 0.2,
        max_waiting: int = 100_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log, self._interval_s, self._max_waiting, self._clock = log, interval_s, max_waiting, clock
        self._changed = threading.Condition()
        self._offered: deque[Event] = deque()
        self._submitted: deque[_Submitted] = deque()
        self._submitted_events = 0
        self._due: float | None = None  # when the offered ones go out
        self._pause_s = 0.0
        self._closing = False
        self.dropped = 0
        self.failing = False
        self._thread = threading.Thread(target=self._run, name="appender", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def offer(self, events: Sequence[Event]) -> None:
        """Append soon; at most a second of these is lost in a kill. Never blocks."""
        with self._changed:
            room = self._max_waiting - len(self._offered)
            self._offered.extend(events[:room])
            self._count_dropped(len(events) - min(room, len(events)))
            if self._due is None and self._offered:
                self._due = self._clock() + self._interval_s
                self._changed.notify()

    def submit(self, events: Sequence[Event]) -> Future[None]:
        """Append now. The future is done when the events are durable; it carries StoreUnavailable when they are not."""
        done: Future[None] = Future()
        with self._changed:
            if self._closing or self._submitted_events + len(events) > self._max_waiting:
                done.set_exception(StoreUnavailable("the event log does not keep up"))
                return done
            self._submitted.append(_Submitted(events, done))
            self._submitted_events += len(events)
            self._changed.notify()
        return done

    @property
    def waiting(self) -> int:
        """Events in memory that are not on the log yet."""
        return len(self._offered) + self._submitted_events

    def close(self, timeout_s: float = 10.0) -> None:
        """Append what waits, as far as the log takes it in time."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._submitted or self._closing or self._is_due()):
                    self._changed.wait(None if self._due is None else max(0.0, self._due - self._clock()))
                offered, submitted = self._taken()
                if not offered and not submitted and self._closing:
                    return
            try:
                self._append(offered, submitted)
            except Exception as error:  # this thread is what every request relies on: it does not end by a surprise
                self._failed(offered, submitted, error)
                if self._closing:
                    with self._changed:
                        self._count_dropped(len(self._offered))
                        self._offered.clear()

    def _is_due(self) -> bool:
        return self._due is not None and self._clock() >= self._due

    def _taken(self) -> tuple[list[Event], list[_Submitted]]:
        submitted: list[_Submitted] = []
        size = 0
        while self._submitted and size < MAX_BATCH:
            one = self._submitted.popleft()
            self._submitted_events -= len(one.events)
            if one.done.set_running_or_notify_cancel():  # nobody waits for a cancelled one any more
                submitted.append(one)
                size += len(one.events)
        offered = []
        if self._is_due() or self._closing:
            offered = [self._offered.popleft() for _ in range(min(len(self._offered), MAX_BATCH))]
            self._due = self._clock() if self._offered else None
        return offered, submitted

    def _append(self, offered: Sequence[Event], submitted: Sequence[_Submitted]) -> None:
        events = [event for one in submitted for event in one.events]
        events.extend(offered)
        if events:
            self._log.append(events)
            self._pause_s, self.failing = 0.0, False
        for one in submitted:
            one.done.set_result(None)

    def _failed(self, offered: Sequence[Event], submitted: Sequence[_Submitted], error: Exception) -> None:
        """Who waits is told; what was offered goes back to the front, or, when it can never be appended, is dropped."""
        if not isinstance(error, MailmillError):
            logger.exception("appending to the event log failed")
        elif not self.failing:
            logger.warning("the event log does not take events", extra={"error": str(error)})
        self.failing = True
        with self._changed:
            if isinstance(error, TransientError):
                self._offered.extendleft(reversed(offered))
                self._pause_s = min(LONGEST_PAUSE_S, max(self._interval_s, self._pause_s * 2))
            else:
                self._count_dropped(len(offered))
            self._due = self._clock() + self._pause_s if self._offered else None
        for one in submitted:
            one.done.set_exception(error)

    def _count_dropped(self, events: int) -> None:
        if events and self.dropped == 0:
            logger.error("opens and clicks are dropped: the event log takes none, memory is full")
        self.dropped += events
