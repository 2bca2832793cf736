"""Ingest: what benchmarks/ingest_load.py measures.

usage: make bench BENCH=ingest        (settings: see there)
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import ingest_clean
import ingest_load
import ingest_validate

if __name__ == "__main__":
    ingest_clean.main()
    ingest_load.run()
    ingest_validate.run(rows=100_000)
