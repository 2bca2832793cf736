"""A send worker in a process of its own, to be killed: `python send_process.py SENDER_CONNINFO JOURNAL TERMS_JSON`."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from mailmill.io.postgres.database import Database
from mailmill.io.send_worker import run_worker

JUMPING = Path(__file__).parent / "faults" / "send" / "jumping_clock"
_started: list[subprocess.Popen[str]] = []


def start(database: Database, root: Path, *, clock: Path | None = None, **terms: Any) -> subprocess.Popen[str]:
    """In: terms as run_worker takes them; `clock` says by how many seconds its clock is wrong (jumping_clock)."""
    arguments = [database.conninfo("sender"), str(root / "journal"), json.dumps(terms)]
    wrong = {"PYTHONPATH": str(JUMPING), "JUMPING_CLOCK": str(clock)} if clock else {}
    worker = subprocess.Popen(
        [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **wrong},
    )  # fmt: skip
    _started.append(worker)
    return worker


def end_all() -> None:
    """Workers that a failed test left behind."""
    while _started:
        worker = _started.pop()
        if worker.poll() is None:
            worker.kill()
            worker.communicate()


def main() -> None:
    conninfo, journal, terms = sys.argv[1:]
    database = Database(conninfos={"sender": conninfo})
    settings = json.loads(terms)
    limit = settings.pop("file_limit", None)
    if limit is not None:  # writes beyond it fail, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    done = run_worker(database, Path(journal), lambda reference: "secret", own_process=True, **settings)
    report = done.report
    print(json.dumps({
        "worker": done.worker, "counts": dict(report.counts), "ended": report.ended, "problems": report.problems,
        "replayed": [done.replayed.recorded, done.replayed.in_doubt, done.replayed.released],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
