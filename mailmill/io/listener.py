"""The listener on its stores: the fold of one installation, from the PostgreSQL log or from Kafka behind it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import polars as pl

from mailmill.errors import StoreUnavailable
from mailmill.io.dagster_reports import EVERY_S, report_fold
from mailmill.io.event_log.forwarder import Forwarder
from mailmill.io.event_log.kafka import KafkaEventLog, KafkaReader
from mailmill.io.event_log.kafka_topics import beginnings, name_of
from mailmill.io.event_log.postgres import PARTITIONS, TOPIC, PostgresLogReader, expire
from mailmill.io.lake import Lake
from mailmill.io.postgres.database import Database
from mailmill.io.postgres.fold import PostgresFold
from mailmill.pipelines.listen.effects import ArchivedFile
from mailmill.pipelines.listen.loop import Fold, Pace, Report

logger = logging.getLogger(__name__)
EXPIRE_EVERY_S = 60.0


@dataclass(frozen=True, slots=True)
class EventArchive:
    """Writes events into the lake: one file per tenant, dataset `events`, columns of batches.ARCHIVE_SCHEMA."""

    lake: Lake

    def __call__(self, events: pl.DataFrame) -> Sequence[ArchivedFile]:
        files = []
        for (tenant,), frame in events.partition_by("tenant", as_dict=True).items():
            file = self.lake.write(frame, tenant_id=tenant, dataset="events")
            files.append(ArchivedFile(tenant=tenant, file=file.file, rows=file.rows, bytes=file.bytes))
        return files


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Folds what arrives on the event log into PostgreSQL and the lake.

    With `kafka_url` the log is Kafka, and table `log` the outbox from which it is fed.
    """

    database: Database
    lake: Lake
    kafka_url: str | None = None
    topic: str = TOPIC
    accept_gap: bool = False  # go on at what Kafka still has where it lost what comes next
    pace: Pace = field(default_factory=Pace)
    dagster_url: str | None = None  # whom to tell, now and then, what was folded

    def run(self, *, until_idle: bool = False, stop: threading.Event | None = None) -> Report:
        """Fold until `stop` is set, or until nothing is left on the log.

        Raises: StoreUnavailable when `until_idle` and a store stays away; otherwise the listener waits for it.
                Misconfigured when events to go on with were deleted.
        """
        stop = stop or threading.Event()
        fold = self._fold()
        beside: list[Callable[[], object]] = [] if until_idle else [lambda: self._expire(stop)]
        if self.dagster_url and not until_idle:
            beside.append(lambda: self._tell(fold.report, stop))
        log = KafkaEventLog(self.kafka_url, self.topic) if self.kafka_url else None
        try:
            if log is not None:
                forwarder = Forwarder(database=self.database, log=log, topic=self.topic, pace=self.pace)
                if until_idle:  # the fold's end is then the end of all
                    forwarder.run(until_idle=True, stop=stop)
                else:
                    beside.append(lambda: forwarder.run(until_idle=False, stop=stop))
            return _together(lambda: fold.run(until_idle=until_idle, stop=stop), beside, stop)
        finally:
            if log is not None:
                log.close()

    def _fold(self) -> Fold:
        topic, url = self.topic, self.kafka_url
        archive = EventArchive(self.lake)
        if url is None:
            return Fold(
                store=PostgresFold(self.database, topic=topic),
                beginnings=lambda: _beginnings(self.database, topic),
                reader=lambda start: PostgresLogReader(self.database, start, topic=topic),
                archive=archive,
                pace=self.pace,
            )
        return Fold(
            store=PostgresFold(self.database, topic=name_of(topic)),
            beginnings=lambda: beginnings(url, topic),
            reader=lambda start: KafkaReader(url, start, topic=topic, accept_gap=self.accept_gap),
            archive=archive,
            pace=self.pace,
        )

    def _tell(self, folded: Report, stop: threading.Event) -> None:
        told = 0
        while not stop.wait(EVERY_S):
            if folded.events != told and report_fold(str(self.dagster_url), folded):
                told = folded.events

    def _expire(self, stop: threading.Event) -> None:
        """Remove from table `log` what was folded, or forwarded, long ago."""
        consumer = "forwarder" if self.kafka_url else "fold"
        while not stop.wait(EXPIRE_EVERY_S):
            try:
                with self.database.transaction("listener") as conn:
                    removed = expire(conn, consumer=consumer, topic=self.topic)
            except StoreUnavailable as error:
                logger.warning("old records stay on the log", extra={"why": str(error)})
            else:
                logger.debug("old records removed from the log", extra={"n": removed})


def _beginnings(database: Database, topic: str) -> Mapping[int, int]:
    reader = PostgresLogReader(database, dict.fromkeys(range(PARTITIONS), 0), topic=topic)
    try:
        return reader.beginnings()
    finally:
        reader.close()


def _together(main: Callable[[], Report], beside: Sequence[Callable[[], object]], stop: threading.Event) -> Report:
    """Run `main` here and the others in threads; when one ends, all do. What broke one is raised here."""
    if not beside:
        return main()
    with ThreadPoolExecutor(len(beside), thread_name_prefix="listen") as pool:
        futures = [pool.submit(work) for work in beside]
        for future in futures:
            future.add_done_callback(lambda _: stop.set())
        try:
            report = main()
        finally:
            stop.set()
        for future in futures:
            future.result()
    return report
