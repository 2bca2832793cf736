"""What `mailmill up` starts ends with it, and so does what that has started."""

from __future__ import annotations

import signal
import subprocess
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


# what `mailmill up` does, as far as its children are concerned
PARENT = """
import sys, time
from pathlib import Path
from mailmill.cli.processes import Process
child = Process(name="listener", command=[sys.executable, "-c", "import time; time.sleep(600)"],
                log=Path(sys.argv[1]), environment={})
child.start()
print(child.child.pid, flush=True)
time.sleep(600)
"""


def test_a_parent_that_is_killed_leaves_no_children_behind(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path / "log")], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    _, alive = psutil.wait_procs([child], timeout=60)
    assert [one for one in alive if one.status() != psutil.STATUS_ZOMBIE] == []


UP = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from mailmill.cli import up
from mailmill.cli.processes import Process

home = Path(sys.argv[1])
slow = (
    "import signal, sys, time; signal.signal(15, lambda *_: (time.sleep(1), sys.exit())); print('ready', flush=True);"
    " time.sleep(600)"
)
part = Process(name="slow", command=[sys.executable, "-c", slow], log=home / "log", environment={})
settings = SimpleNamespace(bind="127.0.0.1", dagster_port=0, ingress_port=0, stats_port=0)
server = SimpleNamespace(stop=lambda: print("server stopped", part.running, flush=True))
up.installation = lambda: SimpleNamespace(home=home, settings=settings, server=server)
up._prepare_database = lambda mill: None
up._processes = lambda mill: [part]


def show(mill, processes):
    while not (part.log.exists() and part.log.read_text()):
        time.sleep(0.02)
    print("up", flush=True)


up._show_when_healthy = show
up.up()
"""


def test_up_stops_all_of_it_also_when_it_is_told_to_twice(tmp_path: Path) -> None:
    said = []
    with subprocess.Popen([sys.executable, "-c", UP, str(tmp_path)], stdout=subprocess.PIPE, text=True) as up:
        try:
            assert up.stdout is not None
            for line in up.stdout:
                said.append(line.strip())
                if said[-1] in ("up", "stopping"):
                    up.send_signal(signal.SIGINT)
            up.wait(60)
        finally:
            up.kill()
    assert (up.returncode, said) == (0, ["up", "", "stopping", "server stopped False", "stopped"])
