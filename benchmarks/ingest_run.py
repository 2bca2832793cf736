"""5,000 rows of CSV into a project of its own, PostgreSQL being up and the file new each time, all in real processes.

ingest.file_seconds  by `mailmill ingest --file`, from the command to its summary. Reference: the 5 seconds it may take.
ingest.drop_seconds  dropped into the source's folder while `mailmill up` runs (Dagster's daemon, code server and run
                     process), until the contacts are in PostgreSQL. Reference: the 20 seconds it may take.

`cpu_s` is what the processes used a round, PostgreSQL not counted: it tells a busy machine from slow code.
usage: make bench BENCH=ingest_run        (ROUNDS in the environment; 5 by default)
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import measure

from mailmill.composition import Installation
from mailmill.io.postgres.database import Database
from mailmill.settings import Settings

ROWS, ROUNDS = 5_000, int(os.environ.get("ROUNDS", "5"))
FILE_S, DROP_S, PATIENCE_S = 5.0, 20.0, 300.0
TICKS = os.sysconf("SC_CLK_TCK")
PORTS = ("DAGSTER", "INGRESS", "STATS")


class Project:
    """What `mailmill init` makes, and words typed in its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # as anybody has it: compiled modules are kept
        self.environment = {name: value for name, value in os.environ.items()
                            if not name.startswith(("MAILMILL_", "DAGSTER_", "PYTHONDONTWRITE"))}  # fmt: skip
        self.files = 0

    def mailmill(self, *words: str) -> str:
        command = [sys.executable, "-m", "mailmill", *words]
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def people(self) -> str:
        """5,000 who were not there before."""
        first, self.files = self.files * ROWS, self.files + 1
        rows = (f"person{n}@mail{n % 50}.example,Person {n},DE\n" for n in range(first, first + ROWS))
        return "email,name,country\n" + "".join(rows)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder))
        project.mailmill("init", "shop")
        project.folder /= "shop"
        project.mailmill("apply", ".")
        project.mailmill("ingest", "example/inbox")  # makes Dagster's tables, once in a project's life
        try:
            by_command(project)
            by_folder(project)
        finally:
            project.mailmill("down")


def by_command(project: Project) -> None:
    took, began = [], resource.getrusage(resource.RUSAGE_CHILDREN)
    for number in range(ROUNDS):
        file = project.folder / f"my people {number}.csv"
        file.write_text(project.people())
        words = ("ingest", "example/inbox", "--file", file.name, "--json")
        answers: list[str] = []
        took.append(measure.seconds(lambda words=words, answers=answers: answers.append(project.mailmill(*words))))  # type: ignore[misc]
        assert json.loads(answers[0])["new"] == ROWS
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = (ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime) / ROUNDS
    show("ingest.file_seconds", took, FILE_S, cpu_s)


def by_folder(project: Project) -> None:
    database = Installation(Settings(home=project.folder / ".mailmill", project=project.folder)).database
    with up(project) as root:
        drop(project, database, "warm.csv")  # its sensor runs, its code is loaded
        took, cpu_s = [], 0.0
        for number in range(ROUNDS):
            before = used(root)
            took.append(drop(project, database, f"dropped {number}.csv"))
            cpu_s += used(root) - before
    show("ingest.drop_seconds", took, DROP_S, cpu_s / ROUNDS)


def drop(project: Project, database: Database, name: str) -> float:
    wanted = contacts(database) + ROWS
    (project.folder / "inbox" / name).write_text(project.people())
    return measure.seconds(lambda: until(lambda: contacts(database) >= wanted, name))


def contacts(database: Database) -> int:
    with database.transaction() as conn:
        row = conn.execute("SELECT count(*) FROM contacts").fetchone()
    return int(row[0]) if row else 0


@contextmanager
def up(project: Project) -> Iterator[int]:
    """`mailmill up` on free ports. Gives its process id."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in PORTS]
    ports = {f"MAILMILL_{name}_PORT": str(one.getsockname()[1]) for name, one in zip(PORTS, sockets, strict=True)}
    for one in sockets:
        one.close()
    command = [sys.executable, "-m", "mailmill", "up"]
    process = subprocess.Popen(
        command, cwd=project.folder, env=project.environment | ports, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if "Ctrl-C stops" in line:
                break
        yield process.pid
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def until(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline, f"{what} is not in after {PATIENCE_S:.0f} s"
        time.sleep(0.05)


def used(root: int) -> float:
    """CPU-seconds of a process and all below it, those that have ended included."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(path.parent.name)], ticks[int(path.parent.name)] = int(fields[1]), sum(map(int, fields[11:15]))
    below, found = [root], set()
    while below:
        found.add(one := below.pop())
        below += [child for child, parent in parents.items() if parent == one and child not in found]
    return sum(ticks.get(one, 0) for one in found) / TICKS


def show(name: str, took: list[float], limit_s: float, cpu_s: float) -> None:
    median = statistics.median(took)
    line = {"name": name, "unit": "s", "ours": round(median, 2), "reference": limit_s,
            "ratio": round(limit_s / median, 3), "rounds": ROUNDS}  # fmt: skip
    print(json.dumps(line | {"least": round(min(took), 2), "cpu_s": round(cpu_s, 2)}), flush=True)


if __name__ == "__main__":
    main()
