"""What a statistics request costs, measured by PostgreSQL in buffers."""

from __future__ import annotations

from typing import Any

import psycopg

from mailmill.io.postgres import read
from mailmill.io.postgres.database import Database


class Measured(psycopg.Cursor[Any]):
    """Adds up the buffers that each statement touches and the rows it gives, by running it under EXPLAIN as well."""

    buffers = 0
    rows = 0

    def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
        with psycopg.Cursor(self.connection) as plain:
            plain.execute("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + query, params)
            row = plain.fetchone()
        assert row is not None
        plan = row[0][0]["Plan"]
        Measured.buffers += plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
        Measured.rows += int(plan["Actual Rows"])
        return super().execute(query, params, **options)


def cost(database: Database, tenant_id: int, now: Any) -> dict[str, tuple[int, int]]:
    """(buffers, rows) of each answer about this tenant."""
    answers = {
        "overview": lambda conn, tenant: read.overview(conn, tenant, now=now),
        "contacts": lambda conn, tenant: read.contacts(conn, tenant, now=now, limit=5, after=None),
        "campaigns": lambda conn, tenant: read.campaigns(conn, tenant, now=now, limit=5, after=None),
        "events": lambda conn, tenant: read.events(conn, tenant, now=now, hours=24, campaign=None),
        "events of a campaign": lambda conn, tenant: read.events(
            conn, tenant, now=now, hours=24, campaign=read.campaign(conn, tenant, "campaign-7")
        ),
        "performance": lambda conn, tenant: read.performance(conn, tenant, now=now, days=7),
    }
    found = {}
    with database.connect("stats") as conn:
        conn.cursor_factory = Measured
        for name, answer in answers.items():
            tenant = read.tenant(conn, str(tenant_id))
            assert tenant is not None
            answer(conn, tenant)  # the first time, catalogue pages are read too
            Measured.buffers = Measured.rows = 0
            answer(conn, tenant)
            found[name] = (Measured.buffers, Measured.rows)
    return found


def test_P21_a_request_costs_its_answer_and_not_the_history(history, database: Database, at_now) -> None:
    """The same answers over ten times the campaigns, events, batches, contacts and messages read the same rows."""
    small = history("small", campaigns=10, hours=170, batches=20, contacts=30)
    large = history("large", campaigns=100, hours=340, batches=200, contacts=300)
    with database.transaction() as conn:
        held = dict(conn.execute("SELECT tenant_id, count(*) FROM counters GROUP BY 1").fetchall())
    assert held[large] >= 10 * held[small] > 10_000
    costs_small, costs_large = cost(database, small, at_now), cost(database, large, at_now)
    for name, (buffers, rows) in costs_large.items():
        assert rows == costs_small[name][1], name
        # at worst each row lies on a page of its own and is found through its own way down an index
        assert 0 < buffers <= 3 * rows + 100, (name, buffers, rows)
