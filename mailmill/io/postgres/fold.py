"""The fold's transaction: offsets, ledger, engagement, suppressions, manifest, counters: all of a batch or nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import LiteralString

import polars as pl
import psycopg

from mailmill.errors import MailmillError, StoreUnavailable
from mailmill.io.event_log.postgres import TOPIC
from mailmill.io.lake import LakeFile
from mailmill.io.postgres import manifest, suppressions
from mailmill.io.postgres.database import Database, driver_errors
from mailmill.io.postgres.sql import statements
from mailmill.pipelines.listen import deltas
from mailmill.pipelines.listen.decode import Poison
from mailmill.pipelines.listen.effects import Applied, Effects, Fenced, Orphans

SQL = statements("fold")
# a frozen owner must not hold its locks for ever: after this the server ends its transaction and the next one goes on
GUARDS = {"transaction_timeout": "15s", "idle_in_transaction_session_timeout": "5s", "lock_timeout": "10s"}


class PostgresFold:
    """Applies batches of one consumer (FoldStore). One connection, opened again by the next call after it broke."""

    def __init__(
        self,
        database: Database,
        *,
        consumer: str = "fold",
        topic: str = TOPIC,
        guards: Mapping[str, str] = GUARDS,
    ) -> None:
        self._database, self._consumer, self._topic = database, consumer, topic
        self._guards = guards
        self._connection: psycopg.Connection | None = None

    def offsets(self, beginnings: Mapping[int, int]) -> dict[int, int]:
        """Where this consumer stands in each of these partitions; at their beginnings where it never was."""
        try:
            with _errors(), self._conn().transaction():
                return offsets(self._conn(), self._consumer, self._topic, beginnings)
        except BaseException:
            self.close()
            raise

    def apply(self, effects: Effects) -> Applied | Fenced | Orphans:
        """Commit one batch, or say why not.

        Raises: StoreUnavailable; it may have been committed all the same, which the offsets tell.
        """
        try:
            with _errors():
                return self._apply(self._conn(), effects)
        except _Refused as refused:
            return refused.answer
        except BaseException:
            self.close()
            raise

    def _apply(self, conn: psycopg.Connection, effects: Effects) -> Applied:
        with conn.transaction():
            self._move(conn, effects)
            returned = _ledger(conn, effects)
            new, crowded = deltas.fresh(effects.repeating, returned)
            added = deltas.deltas(effects.messages, returned, pl.concat([new, _overflow(conn, crowded)]))
            if effects.messages.height:
                conn.execute(SQL["engagement"])
            suppressed = _suppress(conn, added.suppressions)
            _list_files(conn, effects, self._topic)
            bury(conn, effects.poison, self._topic)
            # rows that every batch touches come last, in the order of their keys, and are locked for a moment only
            for name, frame in (
                ("count_domains", added.domains),
                ("count_links", added.links),
                ("count", added.counters),
            ):
                if frame.height:
                    conn.execute(SQL[name], frame.to_dict(as_series=False), binary=True)
            if suppressed:
                suppressions.raise_change_number(conn)
        return Applied(suppressed=suppressed)

    def _move(self, conn: psycopg.Connection, effects: Effects) -> None:
        if not move(conn, self._consumer, self._topic, effects.start, effects.next):
            raise _Refused(Fenced())

    def _conn(self) -> psycopg.Connection:
        if self._connection is None or self._connection.closed:
            self._connection = self._database.connect("listener", autocommit=True)
            for name, value in self._guards.items():
                self._connection.execute("SELECT set_config(%s, %s, false)", (name, value))
            self._connection.execute(SQL["session"])
        return self._connection

    def close(self) -> None:
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
            self._connection = None


def offsets(conn: psycopg.Connection, consumer: str, topic: str, beginnings: Mapping[int, int]) -> dict[int, int]:
    """Partition -> where this consumer goes on; a partition it never read gets its beginning."""
    who = {"consumer": consumer, "topic": topic}
    conn.execute(SQL["stand_at"], {**who, "parts": list(beginnings), "nexts": list(beginnings.values())})
    rows: list[tuple[int, int]] = conn.execute(SQL["offsets"], who).fetchall()
    return {part: off for part, off in sorted(rows) if part in beginnings}


def move(
    conn: psycopg.Connection, consumer: str, topic: str, start: Mapping[int, int], after: Mapping[int, int]
) -> bool:
    """Move the offsets from `start`; False when the consumer does not stand there: another owner was faster."""
    for part in sorted(after):
        if after[part] == start[part]:
            continue
        arguments = {"consumer": consumer, "topic": topic, "part": part, "start": start[part], "next": after[part]}
        if conn.execute(SQL["move"], arguments).rowcount != 1:
            return False
    return True


class _Refused(MailmillError):
    """Rolls the batch back and carries the answer out."""

    def __init__(self, answer: Fenced | Orphans) -> None:
        super().__init__()
        self.answer = answer


@contextmanager
def _errors() -> Iterator[None]:
    """The guards' errors mean: the server took too long, or took us for dead; what was done is undone."""
    try:
        with driver_errors():
            yield
    except (
        psycopg.errors.TransactionTimeout,
        psycopg.errors.IdleInTransactionSessionTimeout,
        psycopg.errors.LockNotAvailable,
        psycopg.errors.QueryCanceled,
    ) as error:
        raise StoreUnavailable("the fold's transaction took too long") from error


def _ledger(conn: psycopg.Connection, effects: Effects) -> pl.DataFrame:
    """Update the ledger. Out: RETURNED_SCHEMA of the rows that changed.

    Raises: _Refused with the orphans, when events name messages that are not there.
    """
    if effects.messages.is_empty():
        return pl.DataFrame(schema=deltas.RETURNED_SCHEMA)
    conn.execute(SQL["plan"])
    with conn.cursor() as cursor, cursor.copy(SQL["take_batch"]) as copy:
        copy.write(effects.messages.write_csv(include_header=False))
    returned = _copied(conn, SQL["ledger"], deltas.RETURNED_SCHEMA)
    silent = deltas.silent(effects.messages, returned)
    if silent:
        rows = conn.execute(SQL["orphans"], {"messages": silent}, binary=True).fetchall()
        if rows:
            schema = {"message": pl.Int64, "tenant": pl.Int32, "campaign": pl.Int32, "orphan": pl.String}
            raise _Refused(Orphans(messages=pl.DataFrame(rows, schema=schema, orient="row")))
    return returned


def _copied(conn: psycopg.Connection, statement: LiteralString, schema: pl.Schema) -> pl.DataFrame:
    with conn.cursor() as cursor, cursor.copy(statement) as copy:
        text = b"".join(bytes(piece) for piece in copy)
    return pl.read_csv(text, has_header=False, schema=schema) if text else pl.DataFrame(schema=schema)


def _overflow(conn: psycopg.Connection, crowded: pl.DataFrame) -> pl.DataFrame:
    """Remember these beside the ledger. Out: those that were new."""
    if crowded.is_empty():
        return crowded
    columns = {"messages": "message", "keys": "key", "tenants": "tenant"}
    rows = conn.execute(
        SQL["overflow"], {name: crowded[column].to_list() for name, column in columns.items()}, binary=True
    ).fetchall()
    added = pl.DataFrame(rows, schema={"message": pl.Int64, "key": pl.Int64}, orient="row")
    return crowded.join(added, on=["message", "key"], how="semi")


def _suppress(conn: psycopg.Connection, frame: pl.DataFrame) -> int:
    if frame.is_empty():
        return 0
    columns = {"tenants": "tenant", "address_keys": "address_key", "reasons": "reason", "event_ids": "event_id"}
    row = conn.execute(SQL["suppress"], {name: frame[column].to_list() for name, column in columns.items()}).fetchone()
    return int(row[0]) if row else 0


def _list_files(conn: psycopg.Connection, effects: Effects, topic: str) -> None:
    ranges = [[part, effects.start[part], effects.next[part]] for part in sorted(effects.next)]
    for file in effects.files:
        manifest.add(
            conn,
            LakeFile(file=file.file, rows=file.rows, bytes=file.bytes),
            tenant_id=file.tenant,
            dataset="events",
            facts={"topic": topic, "ranges": ranges},
        )


def bury(conn: psycopg.Connection, poison: Sequence[Poison], topic: str) -> None:
    """Write dead letters; one that lies there already stays as it is."""
    if not poison:
        return
    conn.execute(
        SQL["bury"],
        {
            "topic": topic,
            "parts": [one.part for one in poison],
            "offs": [one.off for one in poison],
            "reasons": [one.reason for one in poison],
            "vals": [one.value for one in poison],
        },
    )
