"""What a crash leaves behind, put into the ledger: known answers recorded, doubts named, the rest released.

The caller owns the transaction, and holds the dead worker's name (`own_name`), so that nothing of it can still commit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import psycopg

from mailmill.errors import Misconfigured
from mailmill.io.event_log import postgres as event_log
from mailmill.io.journal import Left
from mailmill.io.postgres import campaigns
from mailmill.io.postgres.ledger import SQL, end_lease, give_back_all, record
from mailmill.io.postgres.suppressions import raise_change_number
from mailmill.pipelines.send.answers import Answer
from mailmill.pipelines.send.orders import Outcome

RESEND_AFTER_S = 300

Resolution = Literal["sent", "failed", "resend"]


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of the rows a worker left under its leases."""

    recorded: int = 0  # the journal knew the answer
    in_doubt: int = 0
    released: int = 0

    def __add__(self, other: Replayed) -> Replayed:
        return Replayed(self.recorded + other.recorded, self.in_doubt + other.in_doubt, self.released + other.released)


def own_name(conn: psycopg.Connection, worker: str) -> bool:
    """Be the only session of this worker's name until it ends. Out: False while another one is."""
    row = conn.execute(SQL["own_name"], {"worker": worker}).fetchone()
    return bool(row and row[0])


def disown_name(conn: psycopg.Connection, worker: str) -> None:
    conn.execute(SQL["disown_name"], {"worker": worker})


def replay(conn: psycopg.Connection, left: Left, *, at: datetime) -> Replayed:
    """Put one journal file into the ledger. The file goes after the commit; doing it twice changes nothing."""
    lease = conn.execute(SQL["lease_of"], {"token": left.token}).fetchone()
    if lease is None:  # never claimed, or already settled
        return Replayed()
    transport_id = int(lease[0])
    known = doubts = 0
    if left.answered:  # also doubts: links that were lost after the final dot
        known = record(
            conn, token=left.token, transport_id=transport_id, lines=left.answered, resend_after_s=RESEND_AFTER_S
        )
    if left.attempted:
        lines = [_doubt(id, at) for id in left.attempted]
        doubts = record(conn, token=left.token, transport_id=transport_id, lines=lines, resend_after_s=RESEND_AFTER_S)
    if left.incomplete:
        doubts += _doubt_all(conn, left.token, "journal_incomplete")
        end_lease(conn, left.token)
        return Replayed(known, doubts)
    return Replayed(known, doubts, give_back_all(conn, left.token))


def _doubt(id: int, at: datetime) -> bytes:
    why = "the worker was lost after the final dot"
    answer = Answer("dot", 0, why)
    return Outcome(
        id=id,
        state="in_doubt",
        reason="worker_lost",
        answer=answer,
        at_ms=int(at.timestamp() * 1000),
        connection="replay",
    ).line(why)


def orphaned(conn: psycopg.Connection, worker: str, known: Sequence[int]) -> list[int]:
    """Expired leases of this worker that no journal file here speaks of: their journal is lost."""
    rows = conn.execute(SQL["leases_of"], {"worker": worker}).fetchall()
    return [int(token) for token, _, _, _, expired in rows if expired and token not in known]


def declare_lost(conn: psycopg.Connection, worker: str) -> int:
    """The journal of a dead worker will not come back: everything under its leases is in doubt. Out: how many rows;
    those of campaigns that say `doubt: resend` are queued again.

    Should the worker live after all, nothing it writes under these leases counts any more.

    Raises: Misconfigured for a name nobody had, while a lease has not run out, or the worker's session cannot be ended.
    """
    leases = conn.execute(SQL["leases_of"], {"worker": worker}).fetchall()
    if not leases:
        _refuse_unknown(conn, worker)
    if any(not expired for *_, expired in leases):
        raise Misconfigured(
            f"a lease of {worker} has not run out: it may still be sending",
            remedy="Wait until `mailmill workers` shows its leases as expired.",
        )
    ours = conn.execute(SQL["take_role"], {"role": "none"}).fetchone()
    conn.execute(SQL["end_owner"], {"worker": worker})
    conn.execute(SQL["take_role"], {"role": ours[0] if ours else "none"})
    if not own_name(conn, worker):
        raise Misconfigured(f"the worker {worker} is connected to the database", remedy="Stop it first.")
    leases = conn.execute(SQL["leases_of"], {"worker": worker}).fetchall()
    return sum(lose(conn, int(token)) for token, *_ in leases)


def _refuse_unknown(conn: psycopg.Connection, worker: str) -> None:
    known = [str(row[0]) for row in conn.execute(SQL["workers"])]
    if worker not in known:
        raise Misconfigured(
            f"there is no worker {worker!r}",
            place="--declare-lost",
            remedy=f"Known are: {', '.join(known)}." if known else "No worker is known; none has left a lease.",
        )


def resolve(
    conn: psycopg.Connection, campaign_id: int, how: Resolution, messages: Sequence[int] | None, by: str
) -> int:
    """Settle a campaign's doubts, all or these, as a person knows. Out: how many; an end has its event as well.

    Raises: Misconfigured for `resend` in a campaign that sends nothing any more.
    """
    facts = {"campaign_id": campaign_id, "ids": messages or None}
    if how != "resend":
        events = conn.execute(SQL["resolve_ended"], {**facts, "state": how}).fetchall()
        event_log.append(conn, events)
        return len(events)
    over = conn.execute(SQL["sends_no_more"], facts).fetchone()
    if over is not None:
        raise Misconfigured(
            f"the campaign {over[0]}: nothing of it can be sent again",
            remedy="Settle its doubts as sent or failed, or mail these people by a new campaign.",
        )
    n = conn.execute(SQL["resolve_resend"], facts).rowcount
    if n and not campaigns.move(conn, campaign_id, "reopen", by=by, reason="doubts are sent again"):
        raise_change_number(conn)  # it runs already
    return n


def lose(conn: psycopg.Connection, token: int) -> int:
    """All rows under a lease whose journal is lost are in doubt, and sent again where the campaign says so."""
    n = _doubt_all(conn, token, "journal_lost")
    end_lease(conn, token)
    return n


def _doubt_all(conn: psycopg.Connection, token: int, reason: str) -> int:
    ids = [int(id) for (id,) in conn.execute(SQL["doubt_all"], {"token": token, "reason": reason})]
    conn.execute(SQL["resend"], {"ids": ids, "after_s": RESEND_AFTER_S})
    return len(ids)
