"""The listener on its stores: the fold of one installation, from the PostgreSQL log or from Kafka behind it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from mailmill.errors import StoreUnavailable
from mailmill.io.event_log.postgres import TOPIC, PostgresLogReader, expire
from mailmill.io.lake import Lake
from mailmill.io.postgres.database import Database
from mailmill.io.postgres.fold import PostgresFold
from mailmill.pipelines.listen.effects import ArchivedFile
from mailmill.pipelines.listen.loop import Fold, Pace, Report

logger = logging.getLogger(__name__)
EXPIRE_EVERY_S = 60.0
_ALL = {0: 0, 1: 0, 2: 0, 3: 0}


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
    """Folds what arrives on the event log into PostgreSQL and the lake."""

    database: Database
    lake: Lake
    kafka_url: str | None = None
    topic: str = TOPIC
    pace: Pace = field(default_factory=Pace)

    def run(self, *, until_idle: bool = False, stop: threading.Event | None = None) -> Report:
        """Fold until `stop` is set, or until nothing is left on the log.

        Raises: StoreUnavailable when `until_idle` and a store stays away; otherwise the listener waits for it.
        """
        stop = stop or threading.Event()
        fold = Fold(
            store=PostgresFold(self.database, topic=self.topic),
            beginnings=self._beginnings,
            reader=self._reader,
            archive=EventArchive(self.lake),
            pace=self.pace,
        )
        if until_idle:
            return fold.run(until_idle=True, stop=stop)
        keeper = threading.Thread(target=self._expire, args=(stop,), name="listen-expire", daemon=True)
        keeper.start()
        try:
            return fold.run(until_idle=False, stop=stop)
        finally:
            stop.set()
            keeper.join()

    def _reader(self, start: Mapping[int, int]) -> PostgresLogReader:
        return PostgresLogReader(self.database, start, topic=self.topic)

    def _beginnings(self) -> Mapping[int, int]:
        reader = self._reader(_ALL)
        try:
            return reader.beginnings()
        finally:
            reader.close()

    def _expire(self, stop: threading.Event) -> None:
        """Remove from table `log` what was folded long ago."""
        while not stop.wait(EXPIRE_EVERY_S):
            try:
                with self.database.transaction("listener") as conn:
                    removed = expire(conn, consumer="fold", topic=self.topic)
            except StoreUnavailable as error:
                logger.warning("old records stay on the log", extra={"why": str(error)})
            else:
                logger.debug("old records removed from the log", extra={"n": removed})
