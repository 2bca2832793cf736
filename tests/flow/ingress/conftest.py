"""A served ingress over real stores: uvicorn on a free port, PostgreSQL, the event log in it, two tenants."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import uvicorn
from fastapi import FastAPI
from made_tokens import return_path_token, tracking_tokens, unsubscribe_token

from mailmill.api.ingress.app import create_app
from mailmill.io.event_log.postgres import PostgresEventLog
from mailmill.io.postgres import keys
from mailmill.io.postgres.database import Database
from mailmill.pipelines.listen.ports import EventLog
from mailmill.pipelines.listen.webhooks import signature
from mailmill.pipelines.send.tokens import Key

SECRET = "a-secret-of-the-test"
LINKS = ("https://shop.example/a?x=1&y=2", "https://shop.example/b", "javascript:alert(1)", "//evil.example/x")
BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Thunderbird/128.0"


def until(condition: Callable[[], Any], timeout_s: float = 120.0) -> Any:
    """Wait until a condition holds; its value."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)
    return value


@dataclass(frozen=True, kw_only=True)
class World:
    """Two tenants with a campaign of some messages each; what a mail of theirs would carry."""

    database: Database
    signing: dict[str, Key] = field(default_factory=dict)

    def token(self, purpose: str, message: int = 1, link: int = 0, tenant: int = 1, campaign: int = 1) -> str:
        if purpose == "unsubscribe":
            return unsubscribe_token(self.signing["unsubscribe"], tenant, campaign, message)
        if purpose == "return_path":
            return return_path_token(self.signing["return_path"], tenant, campaign, message)
        made = tracking_tokens(self.signing["tracking"], tenant, campaign, message, len(LINKS))
        return made[0] if purpose == "open" else made[link + 1]

    def message_id(self, message: int = 1, tenant: int = 1, campaign: int = 1) -> str:
        return f"<{self.token('return_path', message, tenant=tenant, campaign=campaign)}@bounce.acme.example>"

    def events(self) -> list[dict[str, Any]]:
        with self.database.transaction() as conn:
            return [json.loads(bytes(val)) for (val,) in conn.execute("SELECT val FROM log ORDER BY part, off")]

    def suppressed(self) -> list[tuple[int, str, str]]:
        with self.database.transaction() as conn:
            return list(conn.execute("SELECT tenant_id, address_key, reason FROM suppressions ORDER BY 1, 2"))  # type: ignore[arg-type]


def make_world(database: Database) -> World:
    with database.transaction() as conn:
        keys.ensure(conn)
        for number, slug in ((1, "acme"), (2, "beta")):
            _tenant(conn, number, slug)
        found = {purpose: keys.usable(conn, purpose) for purpose in ("tracking", "unsubscribe", "return_path")}
    return World(database=database, signing={name: Key(*next(iter(rows.items()))) for name, rows in found.items()})


def _tenant(conn: psycopg.Connection, number: int, slug: str) -> None:
    conn.execute(
        "INSERT INTO tenants (slug, name, postal_address, spec) VALUES (%s, %s, 'x', '{}')", (slug, f"{slug} <Ltd>")
    )
    spec = json.dumps({"webhook_secret": f"env:{slug}"})
    conn.execute(
        "INSERT INTO transports (tenant_id, slug, kind, spec) VALUES (%s, 'relay', 'sandbox', %s)", (number, spec)
    )
    conn.execute("INSERT INTO transports (tenant_id, slug, kind, spec) VALUES (%s, 'mute', 'smtp', '{}')", (number,))
    conn.execute("INSERT INTO campaigns (tenant_id, slug, spec) VALUES (%s, 'one', '{}')", (number,))
    for ordinal, url in enumerate(LINKS):
        conn.execute("INSERT INTO links VALUES (%s, %s, %s, %s)", (number, ordinal, number, url))
    conn.execute(
        "INSERT INTO messages (id, tenant_id, campaign_id, contact_id, address_key, domain)"
        " SELECT n + %(base)s, %(tenant)s, %(tenant)s, n, 'm' || n || '@' || %(slug)s, 'x'"
        " FROM generate_series(1, 50) n",
        {"base": (number - 1) * 1000, "tenant": number, "slug": slug},
    )


@pytest.fixture
def world(database: Database) -> World:
    return make_world(database)


@dataclass(kw_only=True)
class Served:
    """A running ingress."""

    client: httpx.Client
    world: World
    url: str
    app: FastAPI

    def post_events(self, events: Any, **changed: Any) -> httpx.Response:
        """A webhook call as a provider makes it; `changed` is what it does wrong."""
        body = changed.pop("body", None) or json.dumps(events).encode()
        at = changed.pop("at", int(time.time()))
        signed = changed.pop("signature", None) or signature(changed.pop("secret", SECRET + "acme"), body, at)
        headers = {"Content-Type": "application/json", "X-Mailmill-Signature": signed, **changed.pop("headers", {})}
        return self.client.post(changed.pop("path", "/webhooks/acme/relay"), content=body, headers=headers)

    def health(self) -> dict[str, Any]:
        return dict(self.client.get("/health").json())


@contextmanager
def serving(
    world: World, log: EventLog, spool: Path, database: Database | None = None, port: int = 0
) -> Iterator[Served]:
    database = database or world.database

    def load(purpose: Any) -> dict[int, bytes]:
        with database.transaction("ingress") as conn:
            return keys.usable(conn, purpose)

    app = create_app(
        database, log, keys=load, secret=lambda name: SECRET + name.removeprefix("env:"), spool=spool,
        now=lambda: datetime.now(UTC),
    )  # fmt: skip
    config = uvicorn.Config(app, port=port, log_level="warning", access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=asyncio.run, args=(server.serve(),), daemon=True)
    thread.start()
    try:
        until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, headers={"User-Agent": BROWSER}, timeout=120) as client:
            yield Served(client=client, world=world, url=url, app=app)
    finally:
        server.should_exit = True
        thread.join(120)
    assert not thread.is_alive()


@pytest.fixture
def ingress(world: World, tmp_path: Path) -> Iterator[Served]:
    log = PostgresEventLog(world.database, "ingress")
    with serving(world, log, tmp_path / "spool") as served:
        yield served
    log.close()


@pytest.fixture
def serve(world: World, tmp_path: Path) -> Callable[..., Any]:
    """serve(log=…, database=…): an ingress over other stores than the usual ones."""

    def start(log: EventLog, database: Database | None = None, port: int = 0) -> Any:
        return serving(world, log, tmp_path / "spool", database, port)

    return start


@pytest.fixture(name="until")
def until_fixture() -> Callable[..., Any]:
    return until
