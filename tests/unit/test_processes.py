"""What `mailmill up` starts ends with it, and so does what that has started."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import psutil

from mailmill.cli.processes import Process, stop_all

# a parent that ends at once when asked, and a child of it that does not listen
STUBBORN = """
import signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"],
    stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
signal.pause()
"""


def test_a_grandchild_that_outlives_its_parent_is_ended(tmp_path: Path) -> None:
    process = Process(name="stubborn", command=[sys.executable, "-c", STUBBORN], log=tmp_path / "log", environment={})
    process.start()
    deadline = time.monotonic() + 120
    while not (process.log.exists() and process.log.read_text().strip()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    grandchild = psutil.Process(int(process.log.read_text()))

    stop_all([process], grace_s=60)

    assert not process.running
    _, alive = psutil.wait_procs([grandchild], timeout=60)
    assert [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []
