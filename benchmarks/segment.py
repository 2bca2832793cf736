"""segment.scan: a segment of five conditions with engagement over a contacts generation, against polars' plain scan of
the same columns. segment.audience: an audience into lake and ledger, against a bare binary COPY of the same rows into a
table with the same keys. Reference and ours by turns, in the same run.

usage: make bench BENCH=segment       (CONTACTS, RECIPIENTS and ROUNDS in the environment; 10 M, 1 M and 3 by default)
"""

from __future__ import annotations

import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import psycopg

sys.path.insert(0, str(Path(__file__).parent))

import measure

from mailmill.io.lake import Lake
from mailmill.io.postgres.audiences import PostgresCampaigns
from mailmill.io.postgres.server import EmbeddedServer
from mailmill.pipelines.target import audiences, segments, templates
from mailmill.pipelines.target.ports import Draft, Frozen

CONTACTS, RECIPIENTS = int(os.environ.get("CONTACTS", "10000000")), int(os.environ.get("RECIPIENTS", "1000000"))
ROUNDS = int(os.environ.get("ROUNDS", "3"))
BUCKET = 65_536  # ids in a file of the generation
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
RULE = {
    "all": [
        {"tag": "newsletter"},
        {"country": ["DE", "AT", "CH"]},
        {"field": {"authority": {"at_least": 40}}},
        {"verdict": {"not": "invalid"}},
        {"opened": {"within_days": 30}},
    ]
}
COLUMNS = ["contact_id", "tags", "country", "fields", "verdict", "last_opened"]
TAGS = ["newsletter", "press", "vip", "trial", "fair", "blogger"]


def bucket(first: int, rows: int) -> pl.DataFrame:
    """Contacts as sources leave them; in ten months a third has opened something."""
    random = np.random.default_rng(first)

    def one_of(*words: str) -> pl.Series:
        return pl.Series(words).gather(random.integers(0, len(words), rows))

    ago = (random.random(rows) * 300 * 86_400e6).astype("timedelta64[us]")
    opened = pl.Series(np.datetime64(NOW.replace(tzinfo=None), "us") - ago).dt.replace_time_zone("UTC")
    number = pl.int_range(first, first + rows, eager=True)
    text = number.cast(pl.String)
    email = "person." + text + "@mail" + (number % 997).cast(pl.String) + ".example"
    authority = pl.Series(random.integers(0, 100, rows)).cast(pl.String)
    return pl.DataFrame(
        {
            "contact_id": number, "match_key": email, "email": email, "name": "Person " + text,
            "language": one_of("de", "en", "fr"), "category": one_of("press", "shop", "blog"),
            "country": one_of("DE", "AT", "CH", "US", "FR", "ES"),
            "verdict": one_of("valid", "valid", "risky", "invalid"),
            "fields": '{"company": "Company ' + text + '", "authority": "' + authority + '"}',
            "one": one_of(*TAGS), "two": one_of(*TAGS), "opened": opened, "did": random.random(rows) < 1 / 3,
        }
    ).select(
        pl.exclude("one", "two", "opened", "did"),
        tags=pl.concat_list("one", "two").list.unique(),
        last_opened=pl.when("did").then("opened"),
        domain=pl.lit("mail") + (pl.col("contact_id") % 997).cast(pl.String) + ".example",
        aliases=pl.concat_list("match_key"), status=pl.lit("active"), consent=pl.lit(None, pl.String),
        provider=pl.lit("google"),
    )  # fmt: skip


def scan(lake: Lake) -> None:
    """Both read warm files."""
    files = [
        lake.write(bucket(first, min(BUCKET, CONTACTS + 1 - first)), tenant_id=1, dataset="contacts").file
        for first in range(1, CONTACTS + 1, BUCKET)
    ]
    contacts = pl.scan_parquet([lake.path(file) for file in files], glob=False)
    ours, reference = [], []
    for _ in range(ROUNDS):
        reference.append(CONTACTS / measure.seconds(lambda: contacts.select(COLUMNS).collect()))
        ours.append(CONTACTS / measure.seconds(lambda: segments.materialized(contacts, RULE, NOW)))
    print(f"# {segments.materialized(contacts, RULE, NOW).height:,} of {CONTACTS:,} contacts", file=sys.stderr)
    measure.result("segment.scan", "contacts/s", ours, reference)


def frozen(conn: psycopg.Connection, members: pl.DataFrame, number: int) -> Frozen:
    """A campaign in planning, decided."""
    row = conn.execute(
        "INSERT INTO campaigns (tenant_id, slug, spec, state) VALUES (1, %s, '{}', 'planning') RETURNING id, now()",
        (f"c{number}",),
    ).fetchone()
    assert row is not None
    draft = Draft(
        campaign_id=row[0], tenant_id=1, tenant="bench", tenant_name="Bench", postal_address="Here", time_zone="UTC",
        slug=f"c{number}", spec={}, segment=None, templates={}, identity=None, transport_id=None,
        transport_kind=None, now=row[1],
    )  # fmt: skip
    text = 'Hi {{ name | default("you") }} ({{ company | default("…") }}) {{ unsubscribe_url }} {{ postal_address }}'
    facts = templates.check("Hello", text, text)
    audience = audiences.freeze(members, facts, members.lazy())
    return Frozen(draft=draft, content={}, links=facts.links, audience=audience, as_of=NOW)


def bare_copy(conn: psycopg.Connection, rows: list[tuple[object, ...]]) -> None:
    """The reference: nothing is judged, kept in the lake or guarded by row-level security."""
    with conn.transaction(), conn.cursor() as cursor:
        cursor.execute("TRUNCATE bare")
        with cursor.copy(
            "COPY bare (id, tenant_id, campaign_id, contact_id, address, address_key, domain, merge_values) "
            "FROM STDIN (FORMAT BINARY)"
        ) as copy:
            copy.set_types(["int8", "int4", "int4", "int8", "text", "text", "text", "text"])
            for row in rows:
                copy.write_row(row)


def audience(server: EmbeddedServer, lake: Lake, conn: psycopg.Connection) -> None:
    conn.execute("CREATE TABLE bare (LIKE messages INCLUDING ALL, merge_values text NOT NULL)")
    conn.execute("INSERT INTO tenants (slug, name, postal_address, spec) VALUES ('bench', 'Bench', 'Here', '{}')")
    nobody = pl.DataFrame(schema=audiences.SUPPRESSION_SCHEMA)
    contacts = bucket(1, RECIPIENTS).with_columns(verdict=pl.lit("valid"))
    store = PostgresCampaigns(database=server.database(), lake=lake)
    ours, reference = [], []
    for round in range(ROUNDS):
        members = audiences.judged(contacts.lazy(), nobody)

        def freeze(members: pl.DataFrame = members, number: int = round) -> None:
            assert store.freeze(frozen(conn, members, number), by="bench") == "running"

        ours.append(RECIPIENTS / measure.seconds(freeze))
        rows = conn.execute(
            "SELECT m.id, m.tenant_id, campaign_id, contact_id, address, address_key, domain, merge_values "
            "FROM messages m JOIN message_fields f ON f.message_id = m.id JOIN campaigns c ON c.id = campaign_id "
            "WHERE slug = %s ORDER BY 1",
            (f"c{round}",),
        ).fetchall()
        reference.append(RECIPIENTS / measure.seconds(lambda rows=rows: bare_copy(conn, rows)))  # type: ignore[misc]
    measure.result("segment.audience", "recipients/s", ours, reference)


def main() -> None:
    print(f"# {datetime.now(UTC):%Y-%m-%d}, {CONTACTS:,} contacts, {RECIPIENTS:,} recipients", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        scan(Lake(root=Path(folder)))
    with tempfile.TemporaryDirectory() as folder, measure.server() as server, server.database().connect() as conn:
        conn.autocommit = True
        audience(server, Lake(root=Path(folder)), conn)


if __name__ == "__main__":
    main()
