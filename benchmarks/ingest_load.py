"""Contacts into PostgreSQL: ingest.load, ingest.reload and ingest.dedupe_growth (benchmarks/ingest.py calls this).

ingest.load     fresh rows all the way into contacts, with provenance, sightings and counts
ingest.reload   the same people again, seen later, one of a hundred with another name
                both against a bare binary COPY of the same rows into a table with the same keys
ingest.dedupe_growth
                100,000 rows of new people against GROWTH existing contacts, vacuumed, on a connection of their own; its
                reference is the same against a tenth of them, in a server of its own, by turns
ingest.dedupe_growth_known
                the same with every second row known and those spread over all contacts, so that each known one of ten
                million lies on a page of its own
ingest.dedupe_growth_run
                the latter in one run: ROUNDS such batches over one connection

ROWS (1,000,000), ROUNDS (3) and GROWTH (10,000,000) in the environment.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import measure
import polars as pl
import psycopg
from psycopg.types.json import Jsonb

from mailmill.io.lake import Lake
from mailmill.io.postgres import ingest, manifest
from mailmill.io.postgres.ingest_store import IngestStore
from mailmill.io.postgres.server import EmbeddedServer
from mailmill.pipelines.ingest.duplicates import merged
from mailmill.pipelines.ingest.ports import SourceRow
from mailmill.pipelines.ingest.validation import VALUES_SCHEMA

ROWS, ROUNDS = int(os.environ.get("ROWS", "1000000")), int(os.environ.get("ROUNDS", "3"))
GROWTH, BATCH = int(os.environ.get("GROWTH", "10000000")), 100_000
SEEN = datetime(2026, 11, 1, tzinfo=UTC)
COLUMNS = ("match_key", "email", "name", "language", "category", "country")


def people(numbers: pl.Series, seen_at: datetime, renamed: int = 0) -> pl.DataFrame:
    """ACCEPTED_SCHEMA. In: one number a person; every `renamed`-th has a new name."""
    n = pl.col("n")
    email = pl.format("Person.{}@mail{}.example", n, n % 500)
    name = pl.format("Person {}", n)
    if renamed:
        name = pl.when(n % renamed == 0).then(pl.format("Another {}", n)).otherwise(name)
    rows = pl.DataFrame({"n": numbers}).select(
        match_key=email.str.to_lowercase(), email=email, name=name,
        language=pl.when(n % 3 == 0).then(pl.lit("de")).otherwise(pl.lit("en")),
        category=pl.format("category-{}", n % 7),
        country=pl.when(n % 2 == 0).then(pl.lit("DE")).otherwise(pl.lit("AT")),
        line=n, tags=pl.lit([], dtype=pl.List(pl.String)), verdict=pl.lit("valid"), seen_at=pl.lit(seen_at),
    )  # fmt: skip
    missing = [pl.lit(None, kind).alias(name) for name, kind in VALUES_SCHEMA.items() if name not in rows.columns]
    return merged(rows.with_columns(missing).select(VALUES_SCHEMA.names()))


def bare_copy(conn: psycopg.Connection, rows: list[tuple[object, ...]]) -> None:
    """The reference: nothing is looked up, merged or explained."""
    with conn.transaction(), conn.cursor() as cursor:
        cursor.execute("TRUNCATE bare RESTART IDENTITY")
        with cursor.copy(
            "COPY bare (tenant_id, match_key, email, name, language, category, country) FROM STDIN (FORMAT BINARY)"
        ) as copy:
            copy.set_types(["int4", "text", "text", "text", "text", "text", "text"])
            for row in rows:
                copy.write_row(row)


class Bench:
    def __init__(self, server: EmbeddedServer, folder: Path) -> None:
        self.database = server.database()
        self.store_at = Lake(root=folder / "lake")
        self.conn = self.database.connect(autocommit=True)
        self.conn.execute(
            "CREATE TABLE bare (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant_id int NOT NULL, "
            "match_key text NOT NULL, email text, name text, language text, category text, country text, "
            "UNIQUE (tenant_id, match_key))"
        )

    def source(self, slug: str) -> SourceRow:
        """A tenant of this name and its only source."""
        self.conn.execute(
            "INSERT INTO tenants (slug, name, postal_address, spec) VALUES (%s, 'Bench', 'Here', '{}')", (slug,)
        )
        spec = Jsonb({"kind": "source", "tenant": slug, "slug": "csv", "type": "csv"})
        self.conn.execute(
            "INSERT INTO sources (tenant_id, slug, kind, spec) SELECT id, 'csv', 'csv', %s FROM tenants"
            " WHERE slug = %s", (spec, slug),
        )  # fmt: skip
        return ingest.source(self.conn, f"{slug}/csv")

    def load(self, source: SourceRow, rows: pl.DataFrame, days: int) -> float:
        """Seconds to load one validated batch, with connecting."""
        self.add(source, rows, days)
        return self.take_in(source)

    def add(self, source: SourceRow, rows: pl.DataFrame, days: int) -> None:
        """A validated batch that waits to be loaded."""
        file = self.store_at.write(rows, tenant_id=source.tenant_id, dataset="validated")
        with self.conn.transaction():
            row = self.conn.execute(
                "INSERT INTO batches (tenant_id, source_id, key, origin, state, seen_at, rows_read, rows_accepted)"
                " VALUES (%s, %s, %s, 'bench', 'validated', %s, %s, %s) RETURNING id",
                (source.tenant_id, source.id, f"{days}", SEEN + timedelta(days=days), rows.height, rows.height),
            ).fetchone()
            assert row is not None
            manifest.add(self.conn, file, tenant_id=source.tenant_id, dataset="validated", part="csv",
                         batch_id=row[0], facts={"columns": []})  # fmt: skip

    def take_in(self, source: SourceRow) -> float:
        """Seconds to load what waits, in one run."""
        batches = ingest.batches(self.conn, source, "validated")

        def work() -> None:
            with IngestStore(database=self.database, lake=self.store_at).loading(source) as load:
                for batch in batches:
                    load([batch])

        return measure.seconds(work)


def run() -> None:
    with measure.server() as server, tempfile.TemporaryDirectory() as folder:
        _load_and_reload(Bench(server, Path(folder)))
    _growth()


def _load_and_reload(bench: Bench) -> None:
    fresh, again, reference = [], [], []
    numbers = pl.int_range(0, ROWS, eager=True)
    for round in range(ROUNDS):
        source = bench.source(f"fresh{round}")
        rows = people(numbers, SEEN)
        fresh.append(ROWS / bench.load(source, rows, 0))
        again.append(ROWS / bench.load(source, people(numbers, SEEN + timedelta(days=1), renamed=100), 1))
        plain = [(1, *row) for row in rows.select(COLUMNS).iter_rows()]
        reference.append(ROWS / measure.seconds(lambda plain=plain: bare_copy(bench.conn, plain)))  # type: ignore[misc]
        bench.conn.execute("DELETE FROM contacts WHERE tenant_id = %s", (source.tenant_id,))
        bench.conn.execute("VACUUM contacts")
    measure.result("ingest.load", "rows/s", fresh, reference)
    measure.result("ingest.reload", "rows/s", again, reference)


@dataclass
class Grown:
    """So many contacts in a server of their own, vacuumed as autovacuum leaves what exists."""

    bench: Bench
    source: SourceRow
    existing: int
    day: int = 100  # of the next batch

    @classmethod
    def to(cls, existing: int, stack: ExitStack) -> Grown:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        bench = Bench(stack.enter_context(measure.server()), Path(folder))
        source, piece = bench.source("grown"), min(existing, 1_000_000)
        for day, start in enumerate(range(0, existing, piece)):
            bench.load(source, people(pl.int_range(start, start + piece, eager=True), SEEN), day)
        bench.conn.execute("VACUUM (ANALYZE) contacts, sightings")
        return cls(bench, source, existing)

    def rows(self, known: int) -> pl.DataFrame:
        """The next batch. In: how many of its people are known."""
        self.day += 1
        first = self.existing + self.day * BATCH
        numbers = pl.int_range(first, first + BATCH - known, eager=True)
        if known:
            there = pl.int_range(self.day, self.existing, self.existing // known, eager=True).head(known)
            numbers = pl.concat([there, numbers])
        return people(numbers, SEEN + timedelta(days=self.day))

    def load(self, known: int) -> float:
        rows = self.rows(known)
        return BATCH / self.bench.load(self.source, rows, self.day)

    def run(self, known: int) -> float:
        for _ in range(ROUNDS):
            rows = self.rows(known)
            self.bench.add(self.source, rows, self.day)
        return ROUNDS * BATCH / self.bench.take_in(self.source)


def _growth() -> None:
    """By turns, for the machine's speed changes within minutes."""
    with ExitStack() as stack:
        many, few = Grown.to(GROWTH, stack), Grown.to(GROWTH // 10, stack)
        for name, known in (("ingest.dedupe_growth", 0), ("ingest.dedupe_growth_known", BATCH // 2)):
            pairs = [(many.load(known), few.load(known)) for _ in range(ROUNDS)]
            measure.result(name, "rows/s", [ours for ours, _ in pairs], [other for _, other in pairs])
        measure.result("ingest.dedupe_growth_run", "rows/s", [many.run(BATCH // 2)], [few.run(BATCH // 2)])


if __name__ == "__main__":
    run()
