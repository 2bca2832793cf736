"""The ledger as the sender works on it. Functions take `conn`, the caller owns the transaction.

`ledger_ports.py` puts them behind the send loop's ports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from mailmill.errors import Misconfigured
from mailmill.io.postgres.sql import statements
from mailmill.io.postgres.suppressions import raise_change_number
from mailmill.pipelines.listen import bounces
from mailmill.pipelines.send.answers import Patience
from mailmill.pipelines.send.orders import LINE, Claimed, Order, Window
from mailmill.pipelines.send.ports import CampaignFacts, Look, RouteFacts

SQL = statements("ledger")
PERIODS = ("minute", "day")


def session(conn: psycopg.Connection) -> None:
    """Settings of a sender's session."""
    conn.execute(SQL["session"])


def look(conn: psycopg.Connection, *, everything: bool) -> Look:
    number, at = _row(conn.execute(SQL["look"]))
    if not everything:
        return Look(number=number, at=at)
    campaigns = [
        CampaignFacts(id=id, tenant_id=tenant, name=name, transport_id=transport, ends_at=ends)
        for id, tenant, name, transport, ends in conn.execute(SQL["running"])
    ]
    routes = [
        RouteFacts(id=id, tenant_id=tenant, name=name, kind=kind, spec=spec, held_reason=held, held_for=some)
        for id, tenant, name, kind, spec, held, some in conn.execute(SQL["routes"])
    ]
    return Look(number=number, at=at, campaigns=campaigns, routes=routes)


def content(conn: psycopg.Connection, campaign_id: int) -> Mapping[str, Any]:
    found: Mapping[str, Any] | None = _row(conn.execute(SQL["content"], {"campaign_id": campaign_id}))[0]
    if found is None:
        raise Misconfigured(f"campaign {campaign_id} has no frozen content", remedy="Cancel it and plan it again.")
    return found


def suppressed(conn: psycopg.Connection, ids: Sequence[int]) -> set[int]:
    return {int(id) for (id,) in conn.execute(SQL["suppressed"], {"ids": list(ids)}, binary=True)}


def claim(conn: psycopg.Connection, order: Order) -> Claimed:
    """Rows of one campaign under a new lease, within what its transport's limits have left."""
    limit, holds, retry = order.limit, None, None
    reserved: list[Window] = []
    for period, cap in zip(PERIODS, (order.per_minute, order.per_day), strict=True):
        if cap is None:
            continue
        granted, left_s, starts_at = _reserve(conn, order, period, cap, limit)
        _unreserve(conn, order.transport_id, limit - granted, reserved)
        reserved.append(Window(period, starts_at))
        limit, holds = granted, left_s if holds is None else min(holds, left_s)
        if granted == 0:
            retry = left_s
            break
    if limit == 0:
        return Claimed(rows=b"", leased=0, settled=0, retry_s=retry)
    rows, leased, settled = _row(
        conn.execute(
            SQL["claim"],
            {
                "campaign_id": order.campaign_id,
                "tenant_id": order.tenant_id,
                "worker": order.worker,
                "token": order.token,
                "limit": limit,
                "lease_s": order.lease_s,
                "reserved": Jsonb({window.period: window.starts_at.isoformat() for window in reserved}),
                "give_up_after_s": order.give_up_after_s,
                "lately_s": 2 * Patience().longest_s,
            },
            binary=True,
        )
    )
    _unreserve(conn, order.transport_id, limit - leased, reserved)
    return Claimed(rows=rows or b"", leased=leased, settled=settled, budget_s=holds, reserved=reserved)


def _reserve(conn: psycopg.Connection, order: Order, period: str, cap: int, want: int) -> tuple[int, float, datetime]:
    arguments = {
        "transport_id": order.transport_id,
        "tenant_id": order.tenant_id,
        "period": period,
        "want": want,
        "cap": cap,
    }
    granted, left_s, starts_at = _row(conn.execute(SQL["reserve"], arguments))
    return int(granted), float(left_s), starts_at


def _unreserve(conn: psycopg.Connection, transport_id: int, n: int, reserved: Sequence[Window]) -> None:
    """Give back what was reserved, to the windows it was reserved in, which may be over."""
    for window in reserved if n > 0 else ():
        conn.execute(SQL["unreserve"], {"transport_id": transport_id, "n": n, **window._asdict()})


def renew(conn: psycopg.Connection, worker: str, tokens: Sequence[int], lease_s: float) -> set[int]:
    conn.execute(SQL["beat"], {"worker": worker})
    return {int(token) for (token,) in conn.execute(SQL["renew"], {"tokens": list(tokens), "lease_s": lease_s})}


def give_back(
    conn: psycopg.Connection,
    order: Order,
    ids: Sequence[int],
    reserved: Sequence[Window],
    *,
    held_for: Sequence[str] | None = None,
) -> int:
    """Rows that were not started, back to the queue, and what they had reserved back to its windows.

    In: `held_for`, the provider of each, where they wait until it is released.
    """
    facts = {
        "token": order.token,
        "ids": list(ids),
        "providers": list(held_for or ()),
        "transport_id": order.transport_id,
    }
    n = conn.execute(SQL["give_back" if held_for is None else "hold_back"], facts).rowcount
    _unreserve(conn, order.transport_id, n, reserved)
    return n


def give_back_all(conn: psycopg.Connection, token: int) -> int:
    """The rest of a lease, none of it started, back to the queue with what it had reserved; the lease ends."""
    lease = conn.execute(SQL["lease_of"], {"token": token}).fetchone()
    if lease is None:
        return 0
    transport_id, reserved = lease
    n = conn.execute(SQL["give_back_all"], {"token": token}).rowcount
    # in the order in which claims lock them
    windows = [Window(period, datetime.fromisoformat(reserved[period])) for period in PERIODS if period in reserved]
    _unreserve(conn, transport_id, n, windows)
    end_lease(conn, token)
    return n


def end_lease(conn: psycopg.Connection, token: int) -> None:
    conn.execute(SQL["end_lease"], {"token": token})


def record(
    conn: psycopg.Connection,
    *,
    token: int,
    transport_id: int,
    lines: Sequence[bytes],
    resend_after_s: int | None,
) -> int:
    """Results with their attempts and events. Out: how many rows changed; the others' lease was lost.

    In: lines as Outcome.line makes them; resend_after_s None leaves doubts standing, whatever the campaign says.
    """
    text = LINE.join(lines).decode("utf-8", "replace")
    arguments = {"token": token, "transport_id": transport_id, "lines": text, "hard": sorted(bounces.HARD)}
    changed, doubtful = _row(conn.execute(SQL["record"], arguments))
    if doubtful and resend_after_s is not None:  # but not what was sent again before, and is refused now
        new = {int(line.split(b"\x1f", 1)[0]) for line in lines if b"\x1fin_doubt\x1f" in line}
        conn.execute(SQL["resend"], {"ids": [id for id in doubtful if id in new], "after_s": resend_after_s})
    return int(changed)


def recorded_before(conn: psycopg.Connection, lines: Sequence[bytes]) -> int:
    """How many of these results stand in the ledger already, from a commit that was not acknowledged."""
    columns = [line.split(b"\x1f") for line in lines]
    arguments = {
        "ids": [int(one[0]) for one in columns],
        "stages": [one[4].decode() for one in columns],
        "ats": [int(one[8]) for one in columns],
    }
    return int(_row(conn.execute(SQL["recorded_before"], arguments))[0])


def hold(conn: psycopg.Connection, transport_id: int, reason: str, provider: str | None = None) -> bool:
    """Hold a route: nothing is claimed for it, or nothing goes to this provider. Running workers learn it by the change
    number."""
    facts = {"transport_id": transport_id, "reason": reason[:500], "provider": provider}
    held = conn.execute(SQL["hold" if provider is None else "hold_for"], facts).rowcount > 0
    if held:
        raise_change_number(conn)
    return held


def release(conn: psycopg.Connection, transport_id: int) -> int:
    """Release a held route. Out: how many messages it had stopped."""
    conn.execute(SQL["release"], {"transport_id": transport_id})
    n = conn.execute(SQL["unhold"], {"transport_id": transport_id}).rowcount
    raise_change_number(conn)
    return n


def sweep(conn: psycopg.Connection, campaign_id: int | None = None) -> int:
    """Cancel and expire what can no longer be sent, 20,000 at most. Out: how many.

    In: campaign_id None, of every campaign.
    """
    return conn.execute(SQL["sweep"], {"campaign_id": campaign_id}).rowcount


def next_due_s(conn: psycopg.Connection, campaign_ids: Sequence[int]) -> float | None:
    found = _row(conn.execute(SQL["next_due"], {"campaign_ids": list(campaign_ids)}))[0]
    return None if found is None else float(found)


def _row(cursor: psycopg.Cursor[Any]) -> Any:
    row = cursor.fetchone()
    assert row is not None
    return row
