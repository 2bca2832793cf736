"""Histories of any length, written by SQL as the other stages would write them, and the API over them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import psycopg
import pytest
import uvicorn
from fastapi import FastAPI
from psycopg.conninfo import conninfo_to_dict
from typer.testing import CliRunner

from mailmill.api.stats.app import create_app
from mailmill.cli import VERBS
from mailmill.cli.app import app, installation
from mailmill.io.lake import Lake
from mailmill.io.postgres import api_keys, manifest
from mailmill.io.postgres.database import Database
from mailmill.io.postgres.read_pool import ReadPool
from mailmill.io.postgres.server import EmbeddedServer
from mailmill.pipelines.ingest.generations import CONTACTS_SCHEMA
from mailmill.pipelines.listen.decode import EVENT_SCHEMA

NOW = datetime(2026, 11, 20, 12, 30, tzinfo=UTC)
NOW_HOUR = int(NOW.timestamp()) // 3600

HISTORY = """
WITH t AS (INSERT INTO tenants (slug, name, postal_address, time_zone, spec)
           VALUES (%(slug)s, initcap(%(slug)s), 'Street 1', %(time_zone)s, '{}') RETURNING id),
     s AS (INSERT INTO sources (tenant_id, slug, kind, spec)
           SELECT id, unnest(ARRAY['csv-drop', 'by-hand']), unnest(ARRAY['csv', 'manual']), '{}'
             FROM t RETURNING id, slug),
     b AS (INSERT INTO batches (tenant_id, source_id, key, origin, state, seen_at, rows_read, rows_accepted,
                                rows_rejected, contacts_new, reject_reasons, loaded_at)
           SELECT t.id, s.id, %(slug)s || n, 'file-' || n || '.csv', 'loaded', %(now)s, 100, 90, 10, 80,
                  '{"bad_syntax": 10}', %(now)s
             FROM t, s, generate_series(1, %(batches)s) n WHERE s.slug = 'csv-drop'),
     g AS (INSERT INTO segments (tenant_id, slug, spec) SELECT id, 'newsletter', '{"name": "Newsletter"}' FROM t),
     x AS (INSERT INTO transports (tenant_id, slug, kind, spec) SELECT id, 'relay', 'sandbox', '{}' FROM t
           RETURNING id),
     c AS (INSERT INTO campaigns (tenant_id, slug, spec, state, planned, started_at, finished_at, transport_id, as_of)
           SELECT t.id, 'campaign-' || n, '{"segment": "newsletter"}', 'finished', %(messages)s, %(now)s, %(now)s, x.id,
                  %(now)s
             FROM t, x, generate_series(1, %(campaigns)s) n RETURNING id, tenant_id),
     l AS (INSERT INTO links (campaign_id, ordinal, tenant_id, url)
           SELECT id, n, tenant_id, 'https://example.org/' || n FROM c, generate_series(0, 1) n),
     lc AS (INSERT INTO link_counters (campaign_id, link, tenant_id, uniq, total)
            SELECT id, n, tenant_id, 3, 4 FROM c, generate_series(0, 1) n),
     e AS (INSERT INTO exclusions (campaign_id, tenant_id, reason, n) SELECT id, tenant_id, 'suppressed', 7 FROM c),
     k AS (INSERT INTO counters (campaign_id, tenant_id, kind, hour, uniq, total)
           SELECT c.id, c.tenant_id, kind, %(hour)s - h, 2, 3 FROM c,
                  unnest(ARRAY['accepted', 'failed', 'deferred', 'delivered', 'opened', 'clicked',
                               'machine_opened']) kind,
                  generate_series(0, %(hours)s - 1) h)
SELECT id FROM t
"""
CONTACTS = """
INSERT INTO contacts (tenant_id, match_key, email, name, tags, provenance)
SELECT %(tenant_id)s, 'p' || n || '@example.org', 'p' || n || '@example.org', 'Person ' || n, ARRAY['vip'], '{}'
  FROM generate_series(1, %(n)s) n
"""
LEDGER = """
INSERT INTO messages (id, tenant_id, campaign_id, contact_id, address, address_key, domain, state, queued, attempt,
                      code, done_at, at_accepted, at_delivered, at_opened)
SELECT (SELECT coalesce(max(id), 0) FROM messages) + row_number() OVER (ORDER BY c.id, p.id), c.tenant_id, c.id, p.id,
       p.email, p.match_key, 'example.org', CASE WHEN p.rank > 9 THEN 'sent' ELSE 'failed' END::message_state, false, 1,
       CASE WHEN p.rank > 9 THEN 250 ELSE 550 END, %(now)s,
       CASE WHEN p.rank > 9 THEN %(hour)s * 3600 END, CASE WHEN p.rank > 19 THEN %(hour)s * 3600 END,
       CASE WHEN p.rank > 59 THEN %(hour)s * 3600 + 60 END
  FROM campaigns c JOIN LATERAL (
    SELECT *, row_number() OVER (ORDER BY id) - 1 AS rank FROM contacts WHERE tenant_id = c.tenant_id) p ON true
 WHERE c.tenant_id = %(tenant_id)s
"""
History = Callable[..., int]


def write_history(conn: psycopg.Connection, slug: str, **size: Any) -> int:
    """A tenant with everything; sizes are campaigns, hours, batches, messages, contacts. Out: its number."""
    values = {"campaigns": 2, "hours": 3, "batches": 3, "messages": 100, "contacts": 0, "time_zone": "UTC", **size}
    values |= {"slug": slug, "now": NOW, "hour": NOW_HOUR}
    row = conn.execute(HISTORY, values).fetchone()
    assert row is not None
    values |= {"tenant_id": row[0], "n": values["contacts"]}
    conn.execute(CONTACTS, values)
    conn.execute(LEDGER, values)
    conn.execute(
        "UPDATE campaigns c SET first_message_id = m.first, planned = m.n FROM"
        " (SELECT campaign_id, min(id) AS first, count(*) AS n FROM messages GROUP BY 1) m"
        " WHERE c.id = m.campaign_id AND c.tenant_id = %(tenant_id)s",
        values,
    )
    return int(row[0])


@pytest.fixture
def history(database: Database) -> History:
    """Writes a tenant's history and commits it; analysed, as autovacuum would do."""

    def write(slug: str, **size: Any) -> int:
        with database.transaction() as conn:
            number = write_history(conn, slug, **size)
            conn.execute("ANALYZE")
        return number

    return write


def write_lake(conn: psycopg.Connection, lake: Lake, tenant_id: int, *, events_files: int = 2) -> None:
    """A contacts generation, a segment of every other contact, and the events of the ledger, each file twice over."""
    contacts = pl.read_database(
        "SELECT id AS contact_id, match_key, email, name, tags, created_at, created_at AS first_seen,"
        f" ARRAY['csv-drop'] AS sources, 'active' AS status, 'valid' AS verdict"
        f" FROM contacts WHERE tenant_id = {tenant_id} ORDER BY id",
        conn,
    ).match_to_schema(CONTACTS_SCHEMA, missing_columns="insert", integer_cast="upcast")
    facts = {"as_of": NOW.isoformat(), "rows": contacts.height}
    file = lake.write(contacts, tenant_id=tenant_id, dataset="contacts")
    manifest.replace(conn, [file], tenant_id=tenant_id, dataset="contacts", facts=facts)
    members = contacts.select("contact_id").gather_every(2)
    file = lake.write(members, tenant_id=tenant_id, dataset="segments")
    manifest.replace(conn, [file], tenant_id=tenant_id, dataset="segments", part="newsletter", facts=facts)
    events = pl.read_database(
        "SELECT md5(k.kind || m.id) AS event_id, m.tenant_id AS tenant, m.campaign_id AS campaign, m.id AS message,"
        " k.kind, to_timestamp(k.at) AS at FROM messages m, LATERAL (VALUES ('accepted', m.at_accepted),"
        " ('delivered', m.at_delivered), ('opened', m.at_opened)) k (kind, at)"
        f" WHERE k.at IS NOT NULL AND m.tenant_id = {tenant_id}",
        conn,
    ).with_columns(pl.col("kind").cast(EVENT_SCHEMA["kind"]), pl.col("at").cast(EVENT_SCHEMA["at"]))
    schema = {name: kind for name, kind in EVENT_SCHEMA.items() if name != "row"}
    missing = [pl.lit(None).alias(name) for name in schema if name not in events.columns]
    events = events.with_columns(*missing).select(pl.col(name).cast(kind) for name, kind in schema.items())
    for _ in range(events_files):
        manifest.add(
            conn, lake.write(events, tenant_id=tenant_id, dataset="events"), tenant_id=tenant_id, dataset="events"
        )


@pytest.fixture
def fill_lake(database: Database, lake: Lake) -> Callable[..., None]:
    """Writes the lake's files of one tenant and lists them."""

    def write(tenant_id: int, **options: Any) -> None:
        with database.transaction() as conn:
            write_lake(conn, lake, tenant_id, **options)

    return write


@pytest.fixture
def make_key(database: Database) -> Callable[[int | None], dict[str, str]]:
    """Makes a key of a tenant, or of the operator (None). Out: the headers of a request."""

    def make(tenant_id: int | None) -> dict[str, str]:
        with database.transaction() as conn:
            return {"Authorization": f"Bearer {api_keys.create(conn, tenant_id=tenant_id, name='test')}"}

    return make


@contextmanager
def served(app: FastAPI) -> Iterator[httpx.Client]:
    """The application on a real socket of loopback, and a client of it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            # connections wait in the socket's queue until the server takes them
            with httpx.Client(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=120) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def serve() -> Callable[[FastAPI], AbstractContextManager[httpx.Client]]:
    return served


@pytest.fixture
def client(database: Database) -> Iterator[httpx.Client]:
    """The API on the test's database, at NOW."""
    with served(create_app(ReadPool(database, size=2, timeout_s=60), clock=lambda: NOW)) as client:
        yield client


@pytest.fixture
def at_now() -> datetime:
    """The moment at which the histories end."""
    return NOW


@pytest.fixture
def verb(
    server: EmbeddedServer, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., str]]:
    """Runs `mailmill <words>` in this process over the test's database. Out: what it printed."""
    name = conninfo_to_dict(database.conninfo("owner"))["dbname"]
    monkeypatch.setenv("MAILMILL_HOME", str(tmp_path))
    monkeypatch.setenv("MAILMILL_DATABASE_URL", server.conninfo("postgres", str(name)))
    installation.cache_clear()
    for stage in dict.fromkeys(VERBS.values()):
        import_module(f"mailmill.cli.{stage}")

    def run(*words: str) -> str:
        result = CliRunner().invoke(app, list(words))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    yield run
    installation.cache_clear()
