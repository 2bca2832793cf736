"""ingest.file_seconds: 5,000 rows of CSV by `mailmill ingest --file`, from the command to its summary, PostgreSQL being
up and the file new each time. Reference: the 5 seconds it may take.

usage: make bench BENCH=ingest_run        (ROUNDS in the environment; 5 by default)
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import measure

ROWS, ROUNDS, LIMIT_S = 5_000, int(os.environ.get("ROUNDS", "5")), 5.0


def main() -> None:
    # as anybody has it: compiled modules are kept
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith(("MAILMILL_", "DAGSTER_", "PYTHONDONTWRITE"))}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:

        def mailmill(*words: str) -> str:
            command = [sys.executable, "-m", "mailmill", *words]
            return subprocess.run(command, cwd=folder, env=kept, check=True, capture_output=True, text=True).stdout

        mailmill("init", "shop")
        folder = str(Path(folder) / "shop")
        mailmill("apply", ".")
        mailmill("ingest", "example/inbox")  # makes Dagster's tables, once in a project's life
        try:
            took, began = [], resource.getrusage(resource.RUSAGE_CHILDREN)
            for number in range(ROUNDS):
                file = Path(folder) / f"my people {number}.csv"
                people = (
                    f"person{n}@mail{n % 50}.example,Person {n},DE\n" for n in range(number * ROWS, (number + 1) * ROWS)
                )
                file.write_text("email,name,country\n" + "".join(people))
                words = ("ingest", "example/inbox", "--file", file.name, "--json")
                answers: list[str] = []
                took.append(measure.seconds(lambda words=words, answers=answers: answers.append(mailmill(*words))))  # type: ignore[misc]
                assert json.loads(answers[0])["new"] == ROWS
            ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        finally:
            mailmill("down")
    cpu_s = (ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime) / ROUNDS  # tells a busy machine
    line = {"name": "ingest.file_seconds", "unit": "s", "ours": round(statistics.median(took), 2), "reference": LIMIT_S,
            "ratio": round(LIMIT_S / statistics.median(took), 3), "rounds": ROUNDS}  # fmt: skip
    print(json.dumps(line | {"least": round(min(took), 2), "cpu_s": round(cpu_s, 2)}), flush=True)


if __name__ == "__main__":
    main()
