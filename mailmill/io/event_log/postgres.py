"""The event log as a table of PostgreSQL: four partitions, offsets without gaps, batches in and out."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import psycopg

from mailmill.errors import InvalidEvent, Misconfigured, StoreUnavailable
from mailmill.io.postgres.database import Database, Role, driver_errors
from mailmill.io.postgres.sql import statements
from mailmill.pipelines.listen.events import MAX_EVENT_BYTES
from mailmill.pipelines.listen.ports import Records

SQL = statements("event_log")
TOPIC = "delivery-events"
PARTITIONS = 4
POLL_BYTES = 16 * 2**20  # a partition's share of one answer
LOOK_EVERY_S = 0.05
STATEMENT_TIMEOUT_S = 10
RETENTION_H = 72  # of records that were folded or forwarded


def check_size(events: Sequence[tuple[int, bytes]]) -> None:
    """Raises: InvalidEvent when a value is larger than MAX_EVENT_BYTES."""
    if any(len(value) > MAX_EVENT_BYTES for _, value in events):
        raise InvalidEvent(f"an event is larger than {MAX_EVENT_BYTES} bytes")


def append(conn: psycopg.Connection, events: Sequence[tuple[int, bytes]], *, topic: str = TOPIC) -> None:
    """Append within the caller's transaction, which holds the heads of the partitions until it ends.

    Raises: Misconfigured when the topic does not exist.
    """
    by_part: dict[int, list[bytes]] = defaultdict(list)
    for key, value in events:
        by_part[key % PARTITIONS].append(value)
    with conn.pipeline():
        done = [
            conn.execute(SQL["append"], {"topic": topic, "part": part, "vals": by_part[part]}, binary=True)
            for part in sorted(by_part)
        ]
    if sum(cursor.rowcount for cursor in done) != len(events):
        raise Misconfigured(f"the event log has no topic {topic!r}", remedy="Run `mailmill migrate`.")


def expire(conn: psycopg.Connection, *, consumer: str, topic: str = TOPIC, hours: int = RETENTION_H) -> int:
    """Remove records older than `hours` that `consumer` has passed. Out: how many; call again while there are some."""
    return conn.execute(SQL["expire"], {"consumer": consumer, "topic": topic, "hours": hours, "limit": 20_000}).rowcount


class PostgresEventLog:
    """EventLog over table `log`. One connection, opened when needed and again after it broke."""

    def __init__(self, database: Database, role: Role = "ingress", topic: str = TOPIC) -> None:
        self._link = _Link(database, role)
        self._topic = topic
        self._lock = threading.Lock()

    def append(self, events: Sequence[tuple[int, bytes]]) -> None:
        check_size(events)
        if not events:
            return
        with self._lock, self._link.use() as connection, connection.transaction():
            append(connection, events, topic=self._topic)

    def close(self) -> None:
        with self._lock:
            self._link.close()


class PostgresLogReader:
    """EventReader over table `log`.

    `start` says where to go on in each partition; a partition it does not name is not read.
    """

    def __init__(
        self,
        database: Database,
        start: Mapping[int, int],
        *,
        role: Role = "listener",
        topic: str = TOPIC,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._link = _Link(database, role)
        self._topic, self._clock = topic, clock
        self._next = dict(sorted(start.items()))

    def poll(self, limit: int, timeout_s: float) -> Records:
        deadline = self._clock() + timeout_s
        while True:
            rows = self._read(-(-limit // max(1, len(self._next))))
            left = deadline - self._clock()
            if rows or left <= 0:
                break
            time.sleep(min(LOOK_EVERY_S, left))
        if not rows:
            return Records(parts=(), offs=(), values=(), next=dict(self._next))
        parts, offs, values = zip(*rows, strict=True)
        for part, off in zip(parts, offs, strict=True):  # in order within each partition, so the last one stands
            self._next[part] = off + 1
        return Records(parts=parts, offs=offs, values=values, next=dict(self._next))

    def _read(self, limit: int) -> list[tuple[int, int, bytes]]:
        """Up to `limit` further records of each partition."""
        arguments = {
            "topic": self._topic,
            "parts": list(self._next),
            "nexts": list(self._next.values()),
            "limit": limit,
            "max_bytes": POLL_BYTES,
        }
        with self._link.use() as connection:
            return connection.execute(SQL["read"], arguments, binary=True).fetchall()

    def ends(self) -> dict[int, int]:
        return self._bounds("ends")

    def beginnings(self) -> dict[int, int]:
        """Partition -> the first offset that is still there."""
        return self._bounds("beginnings")

    def _bounds(self, which: str) -> dict[int, int]:
        with self._link.use() as connection:
            rows: list[tuple[int, int]] = connection.execute(SQL[which], {"topic": self._topic}).fetchall()
        return {part: off for part, off in rows if part in self._next}

    def close(self) -> None:
        self._link.close()


class _Link:
    """A kept-open connection with time limits, in autocommit; whatever fails on it closes it."""

    def __init__(self, database: Database, role: Role) -> None:
        self._database, self._role = database, role
        self._connection: psycopg.Connection | None = None

    @contextmanager
    def use(self) -> Iterator[psycopg.Connection]:
        """Raises: StoreUnavailable when PostgreSQL does not answer, or not in time."""
        try:
            with driver_errors():
                if self._connection is None or self._connection.closed:
                    self._connection = self._database.connect(self._role, autocommit=True)
                    self._connection.execute(
                        "SELECT set_config('statement_timeout', %s, false)", (f"{STATEMENT_TIMEOUT_S}s",)
                    )
                yield self._connection
        except psycopg.errors.QueryCanceled as error:
            raise StoreUnavailable("PostgreSQL does not answer in time") from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
            self._connection = None
