"""The ingress's connections: few, kept open, each transaction bound to one tenant, quick to say that nobody answers.

psycopg's own pool makes every caller wait out its time-out while the server is down. Here the first one finds out, and
for a second the others are told at once, so that unsubscribes go to the spool instead of piling up.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import psycopg

from mailmill.errors import MailmillError, StoreUnavailable
from mailmill.io.postgres import ingress
from mailmill.io.postgres.database import Database, driver_errors

logger = logging.getLogger(__name__)
QUIET_S = 1.0  # after a failed connection nobody tries again for this long
CONNECT_TIMEOUT_S = 2


class IngressPool:
    """Transactions of the role `ingress`. Threads share it."""

    def __init__(
        self,
        database: Database,
        *,
        size: int = 8,
        wait_s: float = 1.0,
        statement_timeout_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # a request must not wait for a server's start, so waking is done beside it
        self._database = replace(database, wake=_nothing, connect_timeout_s=CONNECT_TIMEOUT_S)
        self._start_server = database.wake
        self._wait_s, self._clock = wait_s, clock
        self._timeout = f"{int(statement_timeout_s * 1000)}ms"
        self._places = threading.BoundedSemaphore(size)
        self._idle: list[psycopg.Connection] = []
        self._quiet_until, self._quiet_why = 0.0, ""
        self._waking = threading.Lock()

    @contextmanager
    def transaction(self, *, tenant_id: int | None = None) -> Iterator[psycopg.Connection]:
        """One transaction that sees this tenant, and without one no tenant's rows.

        Raises: StoreUnavailable when no connection is free or can be made, or a statement takes too long.
        """
        if not self._places.acquire(timeout=self._wait_s):
            raise StoreUnavailable("every connection of the ingress to PostgreSQL is in use")
        try:
            with driver_errors():
                connection = self._bound(tenant_id)
                try:
                    yield connection
                    connection.commit()
                except BaseException:
                    connection.close()
                    raise
                self._idle.append(connection)
        except psycopg.errors.QueryCanceled as error:
            raise StoreUnavailable("PostgreSQL does not answer in time") from error
        finally:
            self._places.release()

    def _bound(self, tenant_id: int | None) -> psycopg.Connection:
        """A connection with the tenant set: a kept one, or, where those broke with the server, a new one."""
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = self._connected()
                ingress.bind(connection, tenant_id=tenant_id)
                return connection
            with suppress(psycopg.OperationalError):
                ingress.bind(connection, tenant_id=tenant_id)
                return connection
            connection.close()

    def _connected(self) -> psycopg.Connection:
        if self._clock() < self._quiet_until:
            raise StoreUnavailable(self._quiet_why)
        try:
            connection = self._database.connect("ingress")
        except MailmillError as error:
            self._quiet_why = str(error)
            self._quiet_until = self._clock() + QUIET_S
            if self._waking.acquire(blocking=False):
                threading.Thread(target=self._wake, name="wake", daemon=True).start()
            raise
        connection.execute(ingress.SQL["limit_statements"], {"timeout": self._timeout})
        connection.commit()
        return connection

    def _wake(self) -> None:
        try:
            self._start_server()
        except MailmillError as error:
            logger.warning("PostgreSQL cannot be started", extra={"error": str(error)})
        finally:
            self._waking.release()

    def close(self) -> None:
        """Close what is idle; call it when no request is under way."""
        while self._idle:
            self._idle.pop().close()


def _nothing() -> None:
    return None
