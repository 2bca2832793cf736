"""A ledger and events about it, and what counting them has to give, computed the slow and obvious way."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import orjson

from mailmill.io.lake import Lake
from mailmill.io.postgres.database import Database
from mailmill.pipelines.listen.bounces import HARD
from mailmill.pipelines.listen.events import KINDS, REPEATING, event_id

T0 = 1_790_000_000  # epoch seconds
Event = dict[str, Any]


@dataclass(frozen=True)
class Ledger:
    """Messages 1..n, every third of tenant 2 (campaign 3), the others of tenant 1 (campaigns 1 and 2)."""

    n: int

    def owner(self, message: int) -> tuple[int, int]:
        return (2, 3) if message % 3 == 0 else (1, 1 + message % 2)

    def domain(self, message: int) -> str:
        return f"d{message % 5}.example"

    def address(self, message: int) -> str:
        return f"p{message}@{self.domain(message)}"


def a_ledger(database: Database, n: int) -> Ledger:
    """Tenants, campaigns and n messages that were sent."""
    ledger = Ledger(n)
    with database.transaction() as conn:
        conn.execute(
            "INSERT INTO tenants (slug, name, postal_address, spec) SELECT 't' || g, 'T', 'Street 1', '{}'"
            " FROM generate_series(1, 2) g"
        )
        conn.execute(
            "INSERT INTO campaigns (tenant_id, slug, spec, state) VALUES (1, 'one', '{}', 'running'),"
            " (1, 'two', '{}', 'running'), (2, 'three', '{}', 'running')"
        )
        rows = [
            (m, *ledger.owner(m), 1000 + m, ledger.address(m), ledger.address(m), ledger.domain(m))
            for m in range(1, n + 1)
        ]
        with conn.cursor() as cursor:
            cursor.execute(
                "CREATE TEMP TABLE m (id bigint, tenant int, campaign int, contact bigint, a text, k text, d text)"
            )
            with cursor.copy("COPY m FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)
        conn.execute(
            "INSERT INTO messages (id, tenant_id, campaign_id, contact_id, address, address_key, domain, state, queued)"
            " SELECT id, tenant, campaign, contact, a, k, d, 'sent', false FROM m"
        )
    return ledger


def an_event(ledger: Ledger, message: int, kind: str, at: int = T0, n: int = 0, **fields: Any) -> Event:
    tenant, campaign = ledger.owner(message)
    return {
        "event_id": event_id(message, kind, n),
        "tenant": tenant,
        "campaign": campaign,
        "message": message,
        "kind": kind,
        "at": at * 1000,
        **fields,
    }


def a_story(ledger: Ledger, n: int, seed: int = 1) -> list[Event]:
    """n random events of every kind, over several hours; ids differ, times of a fact may repeat."""
    dice, kinds = random.Random(seed), [*KINDS, "opened", "opened", "clicked", "accepted"]
    reasons = ["bad_mailbox", "authentication", "quota_issues", "inactive_mailbox", None]
    events = []
    for number in range(n):
        kind, message = dice.choice(kinds), dice.randint(1, ledger.n)
        extra: dict[str, Any] = {}
        if kind == "clicked":
            extra["link"] = dice.choice([0, 1, 2, 61, 62, 80, None])
        if kind in ("bounced_hard", "failed"):
            extra["reason"], extra["code"] = dice.choice(reasons), dice.choice([450, 550, None])
        events.append(an_event(ledger, message, kind, T0 + dice.randint(0, 6 * 3600), number, **extra))
    return events


def values(events: Iterable[Event]) -> list[tuple[int, bytes]]:
    """As EventLog.append takes them."""
    return [(event["message"], orjson.dumps(event)) for event in events]


def truth(ledger: Ledger, events: Sequence[Event]) -> dict[str, Any]:
    """What the distinct events count to; the shape of `state`."""
    distinct = {event["event_id"]: event for event in events}.values()
    first: dict[tuple[int, str], int] = {}
    last: dict[tuple[int, str], int] = {}
    counters: Counter[tuple[Any, ...]] = Counter()
    links: Counter[tuple[Any, ...]] = Counter()
    domains: Counter[tuple[Any, ...]] = Counter()
    clicked: set[tuple[int, int]] = set()
    suppressions = set()
    for event in distinct:
        message, kind, at = event["message"], event["kind"], event["at"] // 1000
        tenant, campaign = ledger.owner(message)
        first[message, kind] = min(at, first.get((message, kind), at))
        group = "bounced" if kind in ("bounced_soft", "bounced_hard") else kind
        last[message, group] = max(at, last.get((message, group), at))
        if kind in REPEATING:
            counters[tenant, campaign, kind, at // 3600, "total"] += 1
            domains[tenant, ledger.domain(message), kind, "total"] += 1
        if kind == "deferred":
            counters[tenant, campaign, kind, at // 3600, "uniq"] += 1
            domains[tenant, ledger.domain(message), kind, "uniq"] += 1
        if kind == "clicked":
            link = min(62, event["link"]) if event.get("link") is not None else 62
            links[campaign, link, "total"] += 1
            clicked.add((message, link))
        if kind in ("complained", "unsubscribed"):
            suppressions.add((tenant, ledger.address(message), kind))
        hard = kind == "bounced_hard" or (kind == "failed" and (event["code"] or 0) >= 500)
        if hard and event.get("reason") in HARD:
            suppressions.add((tenant, ledger.address(message), "bounced"))
    for (message, kind), at in first.items():
        if kind == "deferred":
            continue
        tenant, campaign = ledger.owner(message)
        for what in ("uniq",) if kind in REPEATING else ("uniq", "total"):
            counters[tenant, campaign, kind, at // 3600, what] += 1
            domains[tenant, ledger.domain(message), kind, what] += 1
    for message, link in clicked:
        links[ledger.owner(message)[1], link, "uniq"] += 1
    return {
        "counters": dict(counters),
        "links": dict(links),
        "domains": dict(domains),
        "suppressions": suppressions,
        "first": {key: at for key, at in first.items() if key[1] != "deferred"},
        "engagement": _engagement(last),
    }


def _engagement(last: dict[tuple[int, str], int]) -> dict[tuple[int, str], int]:
    names = ("accepted", "delivered", "opened", "clicked", "bounced")
    return {(1000 + message, kind): at for (message, kind), at in last.items() if kind in names}


def state(database: Database) -> dict[str, Any]:
    """What PostgreSQL counts."""
    facts = [kind for kind in KINDS if kind != "deferred"]
    result: dict[str, Any] = defaultdict(dict)
    with database.transaction() as conn:
        for table, keys, name in (
            ("counters", "tenant_id, campaign_id, kind, hour", "counters"),
            ("link_counters", "campaign_id, link", "links"),
            ("domain_counters", "tenant_id, domain, kind", "domains"),
        ):
            result[name] = {}
            for *key, uniq, total in conn.execute(f"SELECT {keys}, uniq, total FROM {table}"):
                result[name] |= {(*key, what): n for what, n in (("uniq", uniq), ("total", total)) if n}
        result["suppressions"] = set(conn.execute("SELECT tenant_id, address_key, reason FROM suppressions"))
        result["first"] = {
            (row[0], kind): at
            for row in conn.execute(f"SELECT id, {', '.join('at_' + kind for kind in facts)} FROM messages")
            for kind, at in zip(facts, row[1:], strict=True)
            if at is not None
        }
        names = ("accepted", "delivered", "opened", "clicked", "bounced")
        result["engagement"] = {
            (row[0], kind): at
            for row in conn.execute(f"SELECT contact_id, {', '.join('last_' + name for name in names)} FROM engagement")
            for kind, at in zip(names, row[1:], strict=True)
            if at is not None
        }
    return dict(result)


def everything(database: Database) -> dict[str, list[str]]:
    """Every row that folding may change, to compare before and after."""
    tables = ["messages", "counters", "link_counters", "domain_counters", "engagement", "rollups", "seen_overflow"]
    with database.transaction() as conn:
        return {
            table: [row for (row,) in conn.execute(f"SELECT t::text AS row FROM {table} t ORDER BY row")]
            for table in [*tables, "change_number", "suppressions"]
        }


def lake_counts(database: Database, lake: Lake) -> dict[str, int]:
    """What DuckDB counts over the listed files: rows, distinct events, distinct places."""
    with database.transaction() as conn:
        files = [lake.path(file) for (file,) in conn.execute("SELECT file FROM manifest WHERE dataset = 'events'")]
    if not files:
        return {"rows": 0, "events": 0, "places": 0}
    counts = "count(*), count(DISTINCT event_id), count(DISTINCT (part, off))"
    found = duckdb.sql(f"SELECT {counts} FROM read_parquet({[str(file) for file in files]})").fetchall()
    return dict(zip(("rows", "events", "places"), found[0], strict=True))


def dead_letters(database: Database) -> list[str]:
    """Their reasons in the order they were written."""
    with database.transaction() as conn:
        return [reason for (reason,) in conn.execute("SELECT reason FROM dead_letters ORDER BY id")]
