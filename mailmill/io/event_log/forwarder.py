"""The way from the outbox (table `log`, written in the sender's own transactions) to Kafka. At least once."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from mailmill.errors import StoreUnavailable
from mailmill.io.event_log.postgres import PARTITIONS, TOPIC, PostgresLogReader
from mailmill.io.postgres.database import Database
from mailmill.io.postgres.fold import bury, move, offsets
from mailmill.pipelines.listen.decode import Poison, poisoned
from mailmill.pipelines.listen.events import MAX_EVENT_BYTES
from mailmill.pipelines.listen.loop import Pace, Patience
from mailmill.pipelines.listen.ports import EventLog, Records

logger = logging.getLogger(__name__)
CONSUMER = "forwarder"
BATCH = 10_000
IDLE_WAIT_S = 0.2


@dataclass(kw_only=True)
class Forwarder:
    """Moves records from table `log` to another event log, in their order within each partition.

    The offset moves after the records are safe there; a crash in between forwards them again, which counts nothing
    twice. While the other log is away, they stay where they are.
    """

    database: Database
    log: EventLog
    topic: str = TOPIC
    pace: Pace = field(default_factory=Pace)
    clock: Callable[[], float] = time.monotonic
    forwarded: int = 0

    def run(self, *, until_idle: bool, stop: threading.Event) -> int:
        """Forward until stopped, or until nothing is left in the outbox. Out: how many records.

        Raises: StoreUnavailable when `until_idle` and a store was away for `pace.give_up_s`.
        """
        patience = Patience(self.pace, self.clock)
        while not stop.is_set():
            before = self.forwarded
            try:
                self._session(until_idle, stop)
                break
            except StoreUnavailable as error:
                if self.forwarded > before:
                    patience = Patience(self.pace, self.clock)
                pause = patience.next_pause(error, give_up=until_idle)
                logger.warning("events stay in the outbox", extra={"why": str(error), "pause_s": round(pause, 2)})
                stop.wait(pause)
        return self.forwarded

    def _session(self, until_idle: bool, stop: threading.Event) -> None:
        reader = PostgresLogReader(self.database, dict.fromkeys(range(PARTITIONS), 0), topic=self.topic)
        try:
            at = self._offsets(reader)
        finally:
            reader.close()
        reader = PostgresLogReader(self.database, at, topic=self.topic)
        try:
            while not stop.is_set():
                records = reader.poll(BATCH, 0.0 if until_idle else IDLE_WAIT_S)
                if records:
                    self._forward(records, at)
                    at = dict(records.next)
                elif until_idle:
                    return
        finally:
            reader.close()

    def _offsets(self, reader: PostgresLogReader) -> dict[int, int]:
        first = reader.beginnings()
        with self.database.transaction("listener") as conn:
            return offsets(conn, CONSUMER, self.topic, first)

    def _forward(self, records: Records, at: dict[int, int]) -> None:
        good, too_large = list[tuple[int, bytes]](), list[Poison]()
        for row, (part, value) in enumerate(zip(records.parts, records.values, strict=True)):
            if value is not None and len(value) <= MAX_EVENT_BYTES:
                good.append((part, value))  # the partition serves as key: it keeps the order the messages have there
            else:
                too_large.append(poisoned(records, row, "too_large"))
        self.log.append(good)
        with self.database.transaction("listener") as conn:
            bury(conn, too_large, self.topic)
            if not move(conn, CONSUMER, self.topic, at, records.next):
                raise StoreUnavailable("another forwarder moved on")
        self.forwarded += len(good)
