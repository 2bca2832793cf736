"""What is logged beside the words is shown, on one line, and a listener that gives up says why soon."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mailmill.cli import logs
from mailmill.errors import Misconfigured, StoreUnavailable
from mailmill.pipelines.listen.loop import Pace, Patience


def line(name: str, message: str, **extra: object) -> str:
    record = logging.makeLogRecord({"name": name, "levelname": "WARNING", "msg": message, **extra})
    return logs.Facts().format(record)


def test_the_facts_of_a_record_follow_its_words_on_the_same_line() -> None:
    told = line("mailmill.pipelines.listen.loop", "the fold waits", why="away\n  Start\x1b it.", pause_s=0.1)
    assert told.endswith("WARNING mailmill.pipelines.listen.loop the fold waits: why=away Start it., pause_s=0.1")
    assert line("mailmill.io", "done").endswith(" done")


def test_as_json_a_record_is_an_object_with_its_facts_under_their_names() -> None:
    record = logging.makeLogRecord(
        {"name": "mailmill.x", "levelname": "INFO", "msg": "failed", "created": 1.5, "id": 7}
    )
    assert json.loads(logs.Json().format(record)) == {
        "at": "1970-01-01T00:00:01.500+00:00", "level": "INFO", "logger": "mailmill.x", "said": "failed", "id": 7,
    }  # fmt: skip
    other = logging.makeLogRecord({"name": "uvicorn", "msg": "two\nlines", "token": "y", "why": "no fact of ours"})
    told = logs.Json().format(other)
    assert "\n" not in told and json.loads(told).keys() == {"at", "level", "logger", "said"}


def test_what_others_put_beside_their_words_is_not_shown() -> None:
    assert line("uvicorn.error", "started", color_message="x", token="y").endswith(" started")


def test_a_level_that_is_none_is_the_operators_to_correct() -> None:
    with pytest.raises(Misconfigured, match="MAILMILL_LOG_LEVEL: there is no level 'LOUD'"):
        logs.start("LOUD")


def test_patience_ends_when_it_said_it_would_counted_from_the_first_failure() -> None:
    now, error = [100.0], StoreUnavailable("away")
    patience = Patience(Pace(give_up_s=8.0), lambda: now[0])
    now[0] = begun = 500.0
    while now[0] < begun + 7.999:
        now[0] += patience.next_pause(error, give_up=True)
    assert now[0] == pytest.approx(begun + 8.0)
    now[0] += 0.001
    with pytest.raises(StoreUnavailable):
        patience.next_pause(error, give_up=True)
    assert patience.next_pause(error, give_up=False) == Pace().longest_pause_s


def test_a_listener_whose_store_is_away_says_why_and_gives_up_soon(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        settings = {"MAILMILL_DATABASE_URL": f"postgresql://u:hunter2@{place}/x", "MAILMILL_HOME": str(tmp_path)}
        begun = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "mailmill", "listen", "--until-idle"],
            env={**os.environ, **settings}, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
    assert done.returncode == 1 and time.monotonic() - begun >= 8
    assert f"the fold waits: why=PostgreSQL does not answer at {place}" in done.stderr
    assert "mailmill: PostgreSQL does not answer" in done.stderr and "hunter2" not in done.stderr
