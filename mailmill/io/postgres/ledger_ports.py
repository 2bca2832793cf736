"""The send loop's ports over the ledger: each call is one transaction on a kept-open connection of role `sender`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import psycopg
from psycopg.types.json import Jsonb

from mailmill.errors import Misconfigured, StoreUnavailable
from mailmill.io.postgres import campaigns, doubts, keys, ledger
from mailmill.io.postgres.database import Database, driver_errors
from mailmill.pipelines.send.calls import LONGEST_TROUBLE
from mailmill.pipelines.send.messages import SigningKeys
from mailmill.pipelines.send.orders import Claimed, Order, Window
from mailmill.pipelines.send.ports import Look
from mailmill.pipelines.send.tokens import Key

T = TypeVar("T")


class SenderSession:
    """A connection that opens when it is needed and again after it broke.

    With `owns` it is the one session of that worker's name; nothing is done before it is.
    """

    def __init__(self, database: Database, *, owns: str | None = None) -> None:
        self._database, self._owns = database, owns
        self._connection: psycopg.Connection | None = None
        self._lock = threading.Lock()

    @contextmanager
    def use(self) -> Iterator[psycopg.Connection]:
        """One transaction.

        Raises: StoreUnavailable when PostgreSQL does not answer, or not in time; the connection is then given up.
        """
        with self._lock:
            try:
                with driver_errors():
                    connection = self._open()
                    with connection.transaction():
                        yield connection
            except (StoreUnavailable, psycopg.OperationalError) as error:
                self._drop()
                if isinstance(error, StoreUnavailable):
                    raise
                raise StoreUnavailable("PostgreSQL did not answer in time") from error
            except BaseException:
                self._drop()
                raise

    def _open(self) -> psycopg.Connection:
        if self._connection is None or self._connection.closed:
            self._connection = self._database.connect("sender", autocommit=True)
            ledger.session(self._connection)
            if self._owns is not None and not doubts.own_name(self._connection, self._owns):
                self._drop()
                raise StoreUnavailable(f"another session is the worker {self._owns}")
        return self._connection

    def _drop(self) -> None:
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
            self._connection = None

    def close(self) -> None:
        with self._lock:
            self._drop()


class PostgresFollower:
    """Follower, on a session of its own: it must not wait behind a claim."""

    def __init__(self, session: SenderSession) -> None:
        self._session = session

    def look(self, *, everything: bool) -> Look:
        with self._session.use() as conn:
            return ledger.look(conn, everything=everything)

    def suppressed(self, campaign_id: int, ids: Sequence[int]) -> set[int]:
        with self._session.use() as conn:
            return ledger.suppressed(conn, ids)


class PostgresLedger:
    """Claims, Results and Idleness, on the session that owns the worker's name."""

    def __init__(
        self,
        session: SenderSession,
        worker: str,
        *,
        rescue: Callable[[], str | None] = lambda: None,
    ) -> None:
        """In: `rescue` takes up what dead workers of this machine left, and says what it cannot."""
        self._session, self._worker, self._rescue = session, worker, rescue
        self._left: str | None = None

    def content(self, campaign_id: int) -> Mapping[str, Any]:
        """As frozen, and under `signing` its SigningKeys, which show no secret."""
        return self._run(lambda conn: _content(conn, campaign_id))

    def claim(self, order: Order) -> Claimed:
        return self._run(lambda conn: ledger.claim(conn, order))

    def renew(self, tokens: Sequence[int], lease_s: float) -> set[int]:
        return self._run(lambda conn: ledger.renew(conn, self._worker, tokens, lease_s))

    def give_back(
        self, order: Order, ids: Sequence[int], reserved: Sequence[Window], *, held_for: Sequence[str] | None
    ) -> int:
        return self._run(lambda conn: ledger.give_back(conn, order, ids, reserved, held_for=held_for))

    def give_back_all(self, token: int) -> int:
        """A lease whose claim was not acknowledged."""
        return self._run(lambda conn: ledger.give_back_all(conn, token))

    def record(self, order: Order, lines: Sequence[bytes], *, resend_after_s: int | None, last: bool) -> int:
        def write(conn: psycopg.Connection) -> int:
            changed = 0
            if lines:
                changed = ledger.record(
                    conn, token=order.token, transport_id=order.transport_id, lines=lines, resend_after_s=resend_after_s
                )
                if changed < len(lines):
                    changed = max(changed, ledger.recorded_before(conn, lines))
            if last:
                ledger.end_lease(conn, order.token)
            return changed

        return self._run(write)

    def hold(self, transport_id: int, reason: str, provider: str | None) -> None:
        self._run(lambda conn: ledger.hold(conn, transport_id, reason, provider))

    def pause(self, campaign_id: int, reason: str) -> None:
        self._run(lambda conn: campaigns.move(conn, campaign_id, "pause", by=self._worker, reason=reason[:500]))

    def note(self, worker: str, troubles: Mapping[str, str], doing: Mapping[str, Any]) -> None:
        left = {"journals": self._left[:LONGEST_TROUBLE]} if self._left else {}
        facts = {"worker": worker, "troubles": Jsonb({**troubles, **left}), "doing": Jsonb(dict(doing))}
        self._run(lambda conn: conn.execute(ledger.SQL["note"], facts))

    def settle(self, worker: str) -> Sequence[str]:
        self._left = self._rescue()
        self._run(ledger.sweep)
        return self._run(lambda conn: campaigns.finish_settled(conn, by=worker))

    def next_due_s(self, campaign_ids: Sequence[int]) -> float | None:
        return self._run(lambda conn: ledger.next_due_s(conn, campaign_ids))

    def _run(self, call: Callable[[psycopg.Connection], T]) -> T:
        with self._session.use() as conn:
            return call(conn)


def _content(conn: psycopg.Connection, campaign_id: int) -> dict[str, Any]:
    """Raises: Misconfigured when a key is missing."""
    found = {purpose: Key(*key) for purpose, key in keys.of_campaign(conn, campaign_id).items()}
    for purpose in ("tracking", "unsubscribe", "return_path"):
        if purpose not in found:
            raise Misconfigured(f"there is no {purpose} key yet", remedy="Run `mailmill apply`, which makes it.")
    return {**ledger.content(conn, campaign_id), "signing": SigningKeys(**found)}
