"""publish.full: a tenant's contacts from PostgreSQL into a generation of the lake, with sightings, engagement, status
and verdicts, against a bare COPY of the contacts table alone into one Parquet file. publish.again: the same after
10,000 contacts of one import changed, and publish.unchanged after nothing did, both against publish.full.

usage: make bench BENCH=publish        (ROWS and ROUNDS in the environment; 1,000,000 and 3 by default)
"""

from __future__ import annotations

import io
import os
import resource
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import psycopg

sys.path.insert(0, str(Path(__file__).parent))

import measure

from mailmill.io.lake import Lake
from mailmill.io.postgres import generations

ROWS, ROUNDS = int(os.environ.get("ROWS", "1000000")), int(os.environ.get("ROUNDS", "3"))
CHANGED = 10_000
PEOPLE = (
    "INSERT INTO tenants (slug, name, postal_address, spec) VALUES ('bench', 'Bench', 'Here', '{}')",
    "INSERT INTO sources (tenant_id, slug, kind, spec) SELECT id, s, 'csv', '{}' FROM tenants, "
    "unnest(ARRAY['fair', 'site']) s",
    """INSERT INTO contacts (tenant_id, match_key, email, phone, name, language, category, country, tags, fields,
         provenance)
       SELECT 1, 'person.' || n || '@mail' || mod(n, 5000) || '.example',
              'Person.' || n || '@mail' || mod(n, 5000) || '.example',
              CASE WHEN mod(n, 4) = 0 THEN '+4930' || 1000000 + n END, 'Person ' || n, 'de',
              'category-' || mod(n, 7), 'DE',
              ARRAY['news', 'tag-' || mod(n, 20)], jsonb_build_object('company', 'Company ' || mod(n, 1000)),
              '{"*": [0, 1700000000000000, 1, 1]}' FROM generate_series(1, %(rows)s) n""",
    """INSERT INTO sightings (block, source_id, tenant_id, ids, first_seen, last_seen, first_batch, last_batch,
         said_seen, said_batch, digest)
       SELECT c.id >> 6, s.id, 1, array_agg(c.id ORDER BY c.id), ARRAY[1700000000000000], ARRAY[1700000000000000],
              ARRAY[1], ARRAY[1], ARRAY[1700000000000000], ARRAY[1], array_agg(c.id ORDER BY c.id)
         FROM contacts c, sources s WHERE s.slug = 'fair' OR mod(c.id, 4) = 0 GROUP BY 1, 2""",
    """INSERT INTO lone_sightings
       SELECT c.id, s.id, 1, 1700000000000000, 1750000000000000, 1, 2, 1700000000000000, 1, c.id
         FROM contacts c, sources s WHERE s.slug = 'fair' AND mod(c.id, 20) = 0""",
    """INSERT INTO engagement (contact_id, tenant_id, last_accepted, last_opened)
       SELECT id, 1, 1760000000, CASE WHEN mod(id, 3) = 0 THEN 1760000100 END FROM contacts WHERE mod(id, 2) = 0""",
    """INSERT INTO suppressions (tenant_id, address_key, reason)
       SELECT 1, match_key, 'bounced' FROM contacts WHERE mod(id, 100) = 0""",
)


def plain(conn: psycopg.Connection, folder: Path) -> None:
    """The reference: one table, nothing joined, nothing derived."""
    text = io.BytesIO()
    statement = (
        "COPY (SELECT id, match_key, email, phone, name, language, category, country, array_to_string(tags, ','), "
        "fields::text, verdict, created_at FROM contacts ORDER BY id) TO STDOUT (FORMAT csv)"
    )
    with conn.cursor() as cursor, cursor.copy(statement) as copy:
        for row in copy:
            text.write(row)
    text.seek(0)
    pl.read_csv(text, has_header=False, infer_schema_length=0).write_parquet(folder / "plain.parquet")


def main() -> None:
    full, again, unchanged, reference = [], [], [], []
    with measure.server() as server, tempfile.TemporaryDirectory() as folder, server.database().connect() as conn:
        conn.autocommit = True
        for statement in PEOPLE:
            conn.execute(statement, {"rows": ROWS} if "%(" in statement else None)  # type: ignore[call-overload]
        conn.execute("VACUUM ANALYZE")

        def publish(lake: Lake) -> tuple[float, int]:
            done = generations.publish(server.database(), lake, 1, datetime.now(UTC))
            return ROWS / done.seconds, done.files_written

        for round in range(ROUNDS):
            conn.execute("DELETE FROM manifest")
            lake = Lake(root=Path(folder) / f"lake{round}")
            full.append(publish(lake)[0])
            again_rows, files = _again(conn, lake, publish, round)
            again.append(again_rows)
            unchanged.append(publish(lake)[0])
            print(f"# {ROWS:,} contacts; {files} files written after {CHANGED:,} changed, "
                  f"seconds: full {ROWS / full[-1]:.1f}, again {ROWS / again[-1]:.1f}, "
                  f"unchanged {ROWS / unchanged[-1]:.1f}", file=sys.stderr)  # fmt: skip
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(f"# peak memory {peak} MiB before the reference, which holds all of it", file=sys.stderr)
        for _ in range(ROUNDS):
            reference.append(ROWS / measure.seconds(lambda: plain(conn, Path(folder))))
    measure.result("publish.full", "rows/s", full, reference)
    measure.result("publish.again", "rows/s", again, full)
    measure.result("publish.unchanged", "rows/s", unchanged, full)


def _again(conn, lake, publish, round):  # type: ignore[no-untyped-def]
    """An import changes the contacts it brought, and those lie together."""
    conn.execute(
        "UPDATE contacts SET name = name || %(round)s WHERE id BETWEEN %(first)s AND %(first)s + %(n)s - 1",
        {"round": str(round), "first": ROWS // 3 + round * CHANGED, "n": CHANGED},
    )
    return publish(lake)


if __name__ == "__main__":
    main()
