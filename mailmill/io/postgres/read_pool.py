"""Read-only connections of the stats API: pooled, bounded in time, mended when the server comes back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg_pool import ConnectionPool, PoolTimeout

from mailmill.errors import MailmillError, StoreUnavailable
from mailmill.io.postgres.database import Database, driver_errors

logger = logging.getLogger(__name__)
# what the pool says when a connection fails are the driver's words; ours follow in `_find_out`
logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)


class ReadPool:
    """Transactions of the role `stats`, each READ ONLY and seeing one moment (REPEATABLE READ).

    Use it as a context manager. It opens without waiting: while nobody answers, `transaction` says so.
    """

    def __init__(
        self, database: Database, *, size: int = 8, timeout_s: float = 5.0, statement_timeout_s: float = 10.0
    ) -> None:
        self._database = database
        self._timeout_s = timeout_s
        self._statement_timeout_ms = str(int(statement_timeout_s * 1000))
        self._waking = threading.Lock()
        self._pool: ConnectionPool[psycopg.Connection] = ConnectionPool(
            database.conninfo("stats"),
            min_size=1,
            max_size=size,
            open=False,
            kwargs={"application_name": "mailmill stats", "connect_timeout": int(timeout_s)},
            configure=self._configure,
            check=ConnectionPool.check_connection,  # one round trip, so that a restart of the server costs no request
            timeout=timeout_s,
            reconnect_failed=lambda _: self._wake(),
            reconnect_timeout=2.0,  # then the next request tries at once instead of waiting out a long back-off
            max_waiting=200,
        )

    def __enter__(self) -> ReadPool:
        self._pool.open(wait=False)
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.close()

    def _configure(self, connection: psycopg.Connection) -> None:
        connection.read_only = True
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute("SELECT set_config('statement_timeout', %s, false)", (self._statement_timeout_ms,))
        connection.commit()

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Connection]:
        """One transaction.

        Raises: StoreUnavailable when no connection is free or can be made in time, or a statement takes too long.
        """
        try:
            with driver_errors(), self._pool.connection() as connection:
                yield connection
        except StoreUnavailable as error:
            self._wake()
            if isinstance(error.__cause__, PoolTimeout):
                raise StoreUnavailable("the stats API got no connection to PostgreSQL in time") from error
            raise
        except psycopg.errors.QueryCanceled as error:
            raise StoreUnavailable("PostgreSQL took too long for this answer") from error

    def _wake(self) -> None:
        """Start the embedded server again, beside the request: it may take longer than a client waits."""
        if self._waking.acquire(blocking=False):
            threading.Thread(target=self._find_out, name="wake", daemon=True).start()

    def _find_out(self) -> None:
        """Why there is no connection; asking wakes the embedded server."""
        try:
            self._database.connect("stats").close()
        except MailmillError as error:
            logger.warning("the stats API has no connection", extra={"why": str(error)})
        finally:
            self._waking.release()
