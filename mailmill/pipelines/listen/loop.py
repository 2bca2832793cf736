"""The listener's loop: reads the event log, folds batch after batch, backs off when a store is down, loses nothing."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from mailmill.errors import StoreUnavailable
from mailmill.pipelines.listen.batches import Archive, collect, prepare, without
from mailmill.pipelines.listen.effects import Applied, Effects, Fenced, Orphans
from mailmill.pipelines.listen.ports import EventReader

logger = logging.getLogger(__name__)
SMALLEST_BATCH = 1000


class FoldStore(Protocol):
    """Keeps what the fold makes of the events, and how far it has come."""

    def offsets(self, beginnings: Mapping[int, int]) -> dict[int, int]: ...

    def apply(self, effects: Effects) -> Applied | Fenced | Orphans:
        """Commit one batch or say why not.

        Raises: StoreUnavailable; whether it was committed is told by the offsets.
        """
        ...

    def close(self) -> None: ...


@dataclass(kw_only=True)
class Report:
    """What a run of the listener has done so far. `lag`: records on the log that were not folded, at the end."""

    events: int = 0
    batches: int = 0
    poison: int = 0
    suppressed: int = 0
    fenced: int = 0
    outages: int = 0
    lag: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How the loop takes its time. `give_up_s` counts only for a run that ends when idle."""

    batch: int = 50_000
    linger_s: float = 0.3
    wait_s: float = 0.5
    first_pause_s: float = 0.1
    longest_pause_s: float = 5.0
    give_up_s: float = 8.0


@dataclass(kw_only=True)
class Fold:
    """Folds one event log. `bounds` gives beginnings per partition; `reader` opens it at offsets."""

    store: FoldStore
    beginnings: Callable[[], Mapping[int, int]]
    reader: Callable[[Mapping[int, int]], EventReader]
    archive: Archive
    pace: Pace = field(default_factory=Pace)
    clock: Callable[[], float] = time.monotonic
    report: Report = field(default_factory=Report)
    limit: int = field(default=0, init=False)  # of the next batch

    def run(self, *, until_idle: bool, stop: threading.Event) -> Report:
        """Fold until stopped, or until nothing is left on the log.

        Raises: StoreUnavailable when `until_idle` and a store was away for `give_up_s`. Without it the loop waits.
        """
        try:
            self._run(until_idle, stop)
        finally:
            self.store.close()
        return self.report

    def _run(self, until_idle: bool, stop: threading.Event) -> None:
        patience = Patience(self.pace, self.clock)
        self.limit = self.pace.batch
        while not stop.is_set():
            before = self.report.batches
            try:
                if self._session(until_idle, stop):
                    return
            except StoreUnavailable as error:
                if self.report.batches > before:
                    patience = Patience(self.pace, self.clock)
                self.report.outages += 1
                # a batch that takes too long has to become one that does not; success lets it grow again
                self.limit = max(min(SMALLEST_BATCH, self.pace.batch), self.limit // 2)
                pause = patience.next_pause(error, give_up=until_idle)
                logger.warning("the fold waits", extra={"why": str(error), "pause_s": round(pause, 2)})
                stop.wait(pause)

    def _session(self, until_idle: bool, stop: threading.Event) -> bool:
        """From the stored offsets on. Out: True at the end, False when another owner moved them."""
        start = self.store.offsets(self.beginnings())
        with _Feeder(self, start, until_idle, stop) as batches:
            for effects in batches:
                if isinstance(self._apply(effects), Fenced):
                    self.report.fenced += 1
                    logger.warning("another listener folds the same partitions")
                    return False
        return True

    def _apply(self, effects: Effects) -> Applied | Fenced:
        answer = self.store.apply(effects)
        while isinstance(answer, Orphans):
            effects = without(effects, answer, self.archive)
            answer = self.store.apply(effects)
        if isinstance(answer, Applied):
            self.limit = min(self.pace.batch, self.limit + self.limit // 8 + 1)
            self.report.batches += 1
            self.report.events += effects.events.height
            self.report.poison += len(effects.poison)
            self.report.suppressed += answer.suppressed
            if effects.poison:
                reasons = sorted({one.reason for one in effects.poison})
                logger.warning("dead letters", extra={"n": len(effects.poison), "reasons": reasons})
        return answer


class _Feeder:
    """Reads and prepares in a thread, two batches ahead of the transactions. Iterating gives the batches."""

    def __init__(self, fold: Fold, start: Mapping[int, int], until_idle: bool, stop: threading.Event) -> None:
        self._fold, self._at = fold, dict(start)
        self._until_idle, self._stop = until_idle, stop
        self._ready: queue.Queue[Effects | BaseException | None] = queue.Queue(2)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._feed, name="listen-feeder", daemon=True)

    def __enter__(self) -> _Feeder:
        self._thread.start()
        return self

    def __iter__(self) -> Iterator[Effects]:
        while (item := self._ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def __exit__(self, *_: object) -> None:
        self._over.set()
        while self._thread.is_alive():  # let it out of a full queue
            try:
                self._ready.get(timeout=0.05)
            except queue.Empty:
                pass
        self._thread.join()

    def _feed(self) -> None:
        try:
            with _closing(self._fold.reader(self._at)) as reader:
                self._read(reader)
            self._ready.put(None)
        except BaseException as error:
            self._ready.put(error)

    def _read(self, reader: EventReader) -> None:
        fold, pace = self._fold, self._fold.pace
        wait_s = min(pace.wait_s, 0.05) if self._until_idle else pace.wait_s
        linger_s = 0.0 if self._until_idle else pace.linger_s  # whoever waits for the end does not want to wait
        while not (self._stop.is_set() or self._over.is_set()):
            records = collect(reader, fold.limit, linger_s, wait_s, fold.clock)
            if records.next != self._at:
                self._ready.put(prepare(records, self._at, fold.archive))
                self._at.update(records.next)
            else:
                ends = reader.ends()
                fold.report.lag = sum(max(0, ends[part] - at) for part, at in self._at.items())
                if self._until_idle and fold.report.lag == 0:
                    return


@contextmanager
def _closing(reader: EventReader) -> Iterator[EventReader]:
    try:
        yield reader
    finally:
        reader.close()


class Patience:
    """Pauses that double up to the longest; and an end, counted from the first failure, for those who have one."""

    def __init__(self, pace: Pace, clock: Callable[[], float]) -> None:
        self._pace, self._clock = pace, clock
        self._pause_s = pace.first_pause_s
        self._since: float | None = None

    def next_pause(self, error: StoreUnavailable, *, give_up: bool) -> float:
        """Raises: the error itself once it has lasted long enough."""
        now = self._clock()
        self._since = now if self._since is None else self._since
        left = self._since + self._pace.give_up_s - now
        if give_up and left <= 0:
            raise error
        pause, self._pause_s = self._pause_s, min(self._pause_s * 2, self._pace.longest_pause_s)
        return min(pause, left) if give_up else pause
