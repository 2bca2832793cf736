"""One send worker in a process of its own: send_worker_process.py CONNINFO JOURNAL KEY_FILE NAME; says what it took."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

from mailmill.io.postgres.database import Database
from mailmill.io.send_worker import run_worker


def main() -> None:
    conninfo, journal, key, name = sys.argv[1:]
    pem = Path(key).read_text() if key else ""
    began, cpu_s = time.time(), time.process_time()
    done = run_worker(
        Database(conninfos={"sender": conninfo}), Path(journal), lambda reference: pem, worker=name, until_idle=True,
        patience_s=0, own_process=True,
    )  # fmt: skip
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"began": began, "ended": time.time(), "rss_mb": peak,
                      "cpu_s": time.process_time() - cpu_s, "counts": dict(done.report.counts),
                      "problems": done.report.problems}))  # fmt: skip


if __name__ == "__main__":
    main()
