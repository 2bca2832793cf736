"""`mailmill forget` as a real process, killed: whatever the moment, running it again leaves nothing of the person."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from people_world import ANN, PHONE, People

pytestmark = pytest.mark.faults
SEED = 20261121
# a forget has to write to each of these, in this order; who holds one keeps it there
STEPS = ("manifest", "suppressions", "change_number")
WAITS = "SELECT 1 FROM pg_locks l JOIN pg_class c ON c.oid = l.relation WHERE c.relname = %s AND NOT l.granted"
FREE = "SELECT pg_try_advisory_xact_lock(hashtextextended('mailmill:forget:1', 0))"


def start(*words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-W", "ignore", "-m", "mailmill", *words]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
    process.wait(60)


def until(condition: Callable[[], Any], process: subprocess.Popen[bytes] | None = None) -> None:
    """Wait for it, or for the process to end."""
    deadline = time.monotonic() + 120
    while not condition() and (process is None or process.poll() is None):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def everything(people: People) -> str:
    """All that is held, read in another way than the erasure does it: rows and Parquet by value, the rest by byte."""
    found = [people.texts(1)]
    for top in (people.mill.project, people.mill.home):
        for path in top.rglob("*"):
            assert not path.name.endswith((".tmp", ".forget")), f"{path} was left behind"
            if path.is_file() and path.suffix != ".parquet":
                found.append(path.read_bytes().decode("latin-1").lower())
    return "\n".join(found).replace("joann@people.example", "")


def test_P08_P18_a_forget_killed_again_and_again_leaves_nothing_of_the_person_once_it_ran_through(
    people: People,
) -> None:
    people.planned("acme")
    people.do("warehouse", "publish")
    moments = random.Random(SEED)
    dropped = people.mill.project / "acme" / "people.csv"
    before = dropped.read_bytes()
    for step in STEPS:
        with people.mill.database.connect() as holder:
            holder.execute(f"LOCK TABLE {step} IN SHARE MODE")
            process = start("forget", ANN)
            until(lambda step=step: people.rows(WAITS, step), process)
            assert process.poll() is None, "it ended by itself"
            time.sleep(moments.uniform(0, 0.1))  # a random moment is what is tested
            kill(process)
        until(lambda: people.rows(FREE) == [(True,)])
        assert dropped.read_bytes() == before, "nothing is changed before all of it is"
        assert people.rows("SELECT count(*) FROM contacts") == [(4,)]
    for _ in range(2):  # whatever it does after it has committed, and a run over what that left
        process = start("forget", ANN)
        until(lambda: people.rows("SELECT count(*) FROM contacts") == [(3,)], process)
        time.sleep(moments.uniform(0, 0.3))
        kill(process)
        until(lambda: people.rows(FREE) == [(True,)])
    assert people.ask("forget", ANN)["proved"]
    left = everything(people)
    for needle in (ANN, PHONE, "5337031", "'name': 'ann'"):
        assert needle not in left, needle
    assert people.rows("SELECT state::text, reason, address FROM messages WHERE state <> 'queued'") == [
        ("suppressed", "forgotten", None)
    ]
    assert people.rows("SELECT count(*) FROM manifest WHERE dataset = 'erased'") == [(0,)]
    assert people.ask("ingest", "acme/inbox")["known_before"] == 1, "the dropped file is the batch it was"
