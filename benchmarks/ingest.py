"""ingest.load: fresh rows all the way into PostgreSQL's contacts, against a bare binary COPY of the same rows into a
table with the same keys, in the same run.

usage: make bench BENCH=ingest        (ROWS and ROUNDS in the environment; 200,000 and 3 by default)
"""

from __future__ import annotations

import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import psycopg

sys.path.insert(0, str(Path(__file__).parent))

import measure

from mailmill.io.lake import Lake
from mailmill.io.postgres import ingest
from mailmill.io.postgres.ingest_store import IngestStore
from mailmill.io.sources.files import CsvFiles
from mailmill.pipelines.ingest import stage

ROWS, ROUNDS = int(os.environ.get("ROWS", "200000")), int(os.environ.get("ROUNDS", "3"))


def people(start: int) -> pl.DataFrame:
    n = pl.int_range(start, start + ROWS, eager=True)
    return pl.DataFrame(
        {
            "email": pl.select(pl.format("Person.{}@mail{}.example", n, n % 500)).to_series(),
            "name": pl.select(pl.format("Person {}", n)).to_series(),
            "language": pl.select(pl.when(n % 3 == 0).then(pl.lit("de")).otherwise(pl.lit("en"))).to_series(),
            "category": pl.select(pl.format("category-{}", n % 7)).to_series(),
            "country": pl.select(pl.when(n % 2 == 0).then(pl.lit("DE")).otherwise(pl.lit("AT"))).to_series(),
        }
    )


def bare_copy(conn: psycopg.Connection, rows: list[tuple[str, ...]]) -> None:
    """The reference: nothing is validated, merged or explained."""
    with conn.transaction(), conn.cursor() as cursor:
        cursor.execute("TRUNCATE bare RESTART IDENTITY")
        with cursor.copy(
            "COPY bare (tenant_id, match_key, email, name, language, category, country) FROM STDIN (FORMAT BINARY)"
        ) as copy:
            copy.set_types(["int4", "text", "text", "text", "text", "text", "text"])
            for row in rows:
                copy.write_row(row)


def main() -> None:
    ours, reference = [], []
    with measure.server() as server, tempfile.TemporaryDirectory() as folder, server.database().connect() as conn:
        conn.autocommit = True
        conn.execute(
            "CREATE TABLE bare (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant_id int NOT NULL, "
            "match_key text NOT NULL, email text, name text, language text, category text, country text, "
            "UNIQUE (tenant_id, match_key))"
        )
        conn.execute("INSERT INTO tenants (slug, name, postal_address, spec) VALUES ('bench', 'Bench', 'Here', '{}')")
        conn.execute(
            "INSERT INTO sources (tenant_id, slug, kind, spec) SELECT id, 'csv', 'csv', "
            """'{"kind": "source", "tenant": "bench", "slug": "csv", "type": "csv"}' FROM tenants"""
        )
        store = IngestStore(database=server.database(), lake=Lake(root=Path(folder) / "lake"))
        source = ingest.source(conn, "bench/csv")
        for round in range(ROUNDS):
            frame = people(round * ROWS)
            file = Path(folder) / f"{round}.csv"
            frame.write_csv(file)
            stage.receive(source, CsvFiles(paths=[file]), store)
            stage.validate(source, store)
            took = measure.seconds(lambda: stage.load(source, store, store))
            ours.append(ROWS / took)
            key = frame["email"].str.to_lowercase()
            rows = [
                (1, key, *rest)  # type: ignore[misc]
                for key, rest in zip(key.to_list(), frame.iter_rows(), strict=True)
            ]
            reference.append(ROWS / measure.seconds(lambda rows=rows: bare_copy(conn, rows)))  # type: ignore[misc]
        print(f"# {datetime.now(UTC):%Y-%m-%d}, {ROWS:,} rows a round", file=sys.stderr)
    measure.result("ingest.load", "rows/s", ours, reference)


if __name__ == "__main__":
    main()
