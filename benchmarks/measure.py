"""What benchmarks share: a PostgreSQL of their own, and one JSON line a result."""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mailmill.io.postgres import schema
from mailmill.io.postgres.server import EmbeddedServer


@contextmanager
def server() -> Iterator[EmbeddedServer]:
    """A migrated embedded server with its production defaults (fsync on), removed afterwards."""
    home = Path(tempfile.mkdtemp(prefix="mmbench"))
    one = EmbeddedServer(home=home)
    one.start()
    try:
        schema.migrate(one.database())
        yield one
    finally:
        one.stop()
        shutil.rmtree(one.base, ignore_errors=True)
        shutil.rmtree(home, ignore_errors=True)


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def result(name: str, unit: str, ours: list[float], reference: list[float], *, peak_mb: float | None = None) -> None:
    """Print one line: medians of the rounds, and their ratio (above 1: we are faster than the reference)."""
    mine, other = statistics.median(ours), statistics.median(reference)
    line = {"name": name, "unit": unit, "ours": round(mine), "reference": round(other), "ratio": round(mine / other, 3)}
    memory = {} if peak_mb is None else {"peak_mb": round(peak_mb)}
    print(json.dumps(line | {"rounds": len(ours)} | memory), flush=True)
