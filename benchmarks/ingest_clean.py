"""ingest.clean: a messy list (messy.py) -> raw rows kept, validated, de-duplicated, rejected, in Parquet, through the
stages receive and validate; against polars' plain scan, unique and sink of the same warm file.

ingest.clean_growth: rows/s with GROWTH_ROWS against those with CLEAN_ROWS.

Each measurement is a process of its own, so that its peak of memory is its own.
usage: make bench BENCH=ingest_clean      (CLEAN_ROWS, GROWTH_ROWS, ROUNDS; 5,000,000, 20,000,000 and 3 by default)
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import polars as pl

sys.path.insert(0, str(Path(__file__).parent))

import measure
import messy

from mailmill.io.lake import Lake
from mailmill.io.postgres import ingest
from mailmill.io.postgres.database import Database
from mailmill.io.postgres.ingest_store import IngestStore
from mailmill.io.postgres.server import EmbeddedServer
from mailmill.io.sources.files import CsvFiles
from mailmill.pipelines.ingest import stage

ROWS, GROWTH = int(os.environ.get("CLEAN_ROWS", "5000000")), int(os.environ.get("GROWTH_ROWS", "20000000"))
ROUNDS = int(os.environ.get("ROUNDS", "3"))
SOURCE = """
INSERT INTO tenants (slug, name, postal_address, spec) VALUES ('clean', 'Clean', 'Here', '{}')
    ON CONFLICT (slug) DO NOTHING;
INSERT INTO sources (tenant_id, slug, kind, spec)
SELECT id, 'messy', 'csv', '{"kind": "source", "tenant": "clean", "slug": "messy", "type": "csv"}'
  FROM tenants WHERE slug = 'clean';
"""


def ours(where: dict[str, str]) -> dict[str, float]:
    """The stages, in this process."""
    database = Database(conninfos=json.loads(where["conninfos"]))
    store = IngestStore(database=database, lake=Lake(root=Path(where["folder"]) / "lake"))
    with database.transaction() as conn:
        source = ingest.source(conn, "clean/messy")
    received = measure.seconds(lambda: stage.receive(source, CsvFiles(paths=[Path(where["file"])]), store))
    validated = measure.seconds(lambda: stage.validate(source, store))
    return {"seconds": received + validated, "received": received, "validated": validated}


def reference(where: dict[str, str]) -> dict[str, float]:
    """Polars, in this process: nothing is checked, counted or explained."""
    rows = pl.scan_csv(where["file"], infer_schema=False, truncate_ragged_lines=True)
    key = pl.col("email").str.strip_chars().str.to_lowercase()
    out = Path(where["folder"]) / "reference.parquet"
    return {"seconds": measure.seconds(lambda: rows.unique(key).sink_parquet(out))}


def child(what: str, where: dict[str, str]) -> dict[str, float]:
    """One measurement in a process of its own: seconds, and peak_mb of its memory."""
    command = [sys.executable, __file__, what, json.dumps(where)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    print(f"# {what}: {answer.strip()}", file=sys.stderr)
    return dict(json.loads(answer))


def round_of(server: EmbeddedServer, folder: Path, file: Path) -> tuple[dict[str, float], dict[str, float]]:
    where = {"conninfos": json.dumps(server.database().conninfos), "folder": str(folder), "file": str(file)}
    plain = child("reference", where)
    with server.database().connect(autocommit=True) as conn:
        conn.execute("TRUNCATE tenants CASCADE")
        conn.execute(SOURCE)
    mine = child("ours", where)
    shutil.rmtree(folder / "lake")
    return mine, plain


def run(server: EmbeddedServer) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small, large = folder / "small.csv", folder / "large.csv"
        messy.write(small, ROWS)
        rounds = [round_of(server, folder, small) for _ in range(ROUNDS)]
        speeds = [ROWS / mine["seconds"] for mine, _ in rounds]
        measure.result(
            "ingest.clean", "rows/s", speeds, [ROWS / plain["seconds"] for _, plain in rounds],
            peak_mb=max(mine["peak_mb"] for mine, _ in rounds),
        )  # fmt: skip
        if GROWTH:
            small.unlink()
            messy.write(large, GROWTH)
            mine, _ = round_of(server, folder, large)
            measure.result("ingest.clean_growth", "rows/s", [GROWTH / mine["seconds"]], speeds, peak_mb=mine["peak_mb"])


def main() -> None:
    if len(sys.argv) > 1:
        answer = {"ours": ours, "reference": reference}[sys.argv[1]](json.loads(sys.argv[2]))
        answer["cpu_s"] = time.process_time()
        answer["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(answer))
        return
    with measure.server() as server:
        run(server)


if __name__ == "__main__":
    main()
