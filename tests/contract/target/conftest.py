"""A tenant with contacts, a segment, a template and a campaign, as `mailmill apply` and ingest would have left them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest

from mailmill.io.dns import DnsResolver
from mailmill.io.lake import Lake
from mailmill.io.postgres import campaigns, configuration, manifest
from mailmill.io.postgres.audiences import PostgresCampaigns, PostgresContacts
from mailmill.io.postgres.database import Database
from mailmill.io.postgres.segments import PostgresSegments
from mailmill.pipelines.configuration import documents, plan
from mailmill.pipelines.ingest.generations import CONTACTS_SCHEMA
from mailmill.pipelines.target import planning, ticks
from mailmill.pipelines.target.identities import Preflight

HTML = """<p>Hello {{ name | default("there") }}</p>
<a href="https://shop.example/new?a=1&amp;b=2">new</a> <a href="https://shop.example/offers">offers</a>
<a href="https://shop.example/offers">again</a> <a href="{{ unsubscribe_url }}">unsubscribe</a> {{ postal_address }}
"""
TEXT = "Hello {{ name | default('there') }}\n{{ unsubscribe_url }}\n{{ postal_address }}\n"
SEEN = datetime(2026, 11, 1, tzinfo=UTC)


def contacts_frame(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Contacts with what the rows say and plain values elsewhere; `email` decides the match key."""
    filled = [
        {
            **dict.fromkeys(CONTACTS_SCHEMA.names()),
            "contact_id": number,
            "match_key": str(row.get("email") or row.get("phone")).lower(),
            "tags": [],
            "fields": "{}",
            "sources": ["desk"],
            "verdict": "valid",
            "status": "active",
            "first_seen": SEEN,
            "last_seen": SEEN,
            "created_at": SEEN,
            **row,
        }
        for number, row in enumerate(rows, start=1)
    ]
    frame = pl.DataFrame(filled, schema=CONTACTS_SCHEMA)
    return frame.with_columns(domain=pl.col("email").str.extract("@([^@]+)$"))


class World:
    """The stores of one test, and the short words for what a test does to them."""

    public_url = "https://mail.example.org"
    resolver: DnsResolver | None = None

    @property
    def preflight(self) -> Preflight:
        return Preflight(self.resolver, lambda reference: "v=DKIM1; k=ed25519; p=key", self.public_url)

    def __init__(self, database: Database, lake: Lake) -> None:
        self.database, self.lake = database, lake
        self.contacts = PostgresContacts(database=database, lake=lake)
        self.campaigns = PostgresCampaigns(database=database, lake=lake)
        self.segments = PostgresSegments(database=database, lake=lake)

    def apply(self, *things: dict[str, Any]) -> None:
        raw = [documents.RawDocument(file="t.yaml", value=thing, line=lambda _: 1) for thing in things]
        declared, problems = documents.validate(raw)
        assert not problems, problems
        with self.database.transaction() as conn:
            changes, refused = plan.plan(declared, configuration.stored(conn), datetime.now(UTC))
            assert not refused, refused
            configuration.write(conn, changes, by="test")

    def publish(self, frame: pl.DataFrame, tenant_id: int = 1) -> None:
        file = self.lake.write(frame, tenant_id=tenant_id, dataset="contacts")
        facts = {"as_of": datetime.now(UTC).isoformat(), "rows": frame.height}
        with self.database.transaction() as conn:
            manifest.replace(conn, [file], tenant_id=tenant_id, dataset="contacts", facts=facts)

    def start(self, name: str = "acme/spring") -> list[planning.Planned]:
        with self.database.transaction() as conn:
            campaigns.schedule(conn, campaigns.find(conn, name), None, by="test")
        return self.tick()

    def tick(self) -> list[planning.Planned]:
        return ticks.tick(
            schedule=self.campaigns,
            campaigns=self.campaigns,
            contacts=self.contacts,
            preflight=self.preflight,
            public_url=self.public_url,
            by="test",
        )

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with self.database.transaction() as conn:
            return conn.execute(query, values).fetchall()

    def value(self, query: str, *values: Any) -> Any:
        return self.rows(query, *values)[0][0]

    def run(self, statement: str, *values: Any) -> None:
        with self.database.transaction() as conn:
            conn.execute(statement, values)

    def state(self, slug: str = "spring") -> str:
        return str(self.value("SELECT state FROM campaigns WHERE slug = %s", slug))


def a_project(**campaign: Any) -> list[dict[str, Any]]:
    """The documents of tenant acme; keyword arguments go into its campaign."""
    of = {"tenant": "acme"}
    zone = "Europe/Berlin"
    return [
        {"kind": "tenant", "slug": "acme", "name": "Acme", "postal_address": "Main Street 1", "time_zone": zone},
        {"kind": "transport", **of, "slug": "relay", "type": "sandbox"},
        {
            "kind": "identity", **of, "slug": "news", "from_name": "Acme News", "from_address": "news@acme.example",
            "return_path_domain": "b.acme.example",
        },
        {"kind": "template", **of, "slug": "spring", "subject": "Spring", "html": HTML, "text": TEXT},
        {"kind": "segment", **of, "slug": "all", "rule": {"all": []}},
        {
            "kind": "campaign", **of, "slug": "spring", "segment": "all", "template": "spring", "identity": "news",
            "transport": "relay", **campaign,
        },
    ]  # fmt: skip


@pytest.fixture
def world(database: Database, lake: Lake) -> World:
    """Tenant acme with five contacts, one of them without a name; its campaign is a draft."""
    found = World(database, lake)
    found.apply(*a_project())
    found.publish(
        contacts_frame(
            [
                {"email": f"P{n}@x{n % 2}.example", "name": f"Person {n}" if n else None, "country": "DE"}
                for n in range(5)
            ]
        )
    )
    return found


@pytest.fixture
def project() -> Callable[..., list[dict[str, Any]]]:
    return a_project


@pytest.fixture
def frame() -> Callable[[Sequence[Mapping[str, Any]]], pl.DataFrame]:
    return contacts_frame
