"""The README as a new user types it: its commands from the first to the last, and `mailmill up`.

A file of its own, so that it runs beside the documents' tests (tests/flow/test_docs.py) and not after them.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from docs_world import DOCUMENTS, Command, Reader, commands, kill, until

from mailmill.io.postgres.server import EmbeddedServer

README = DOCUMENTS[0]
ZOE = "zoe@readers.example"


def cut(found: list[Command]) -> int:
    """Where the first server is started."""
    return next(place for place, command in enumerate(found) if command.words[0] == "mailmill" and command.serves)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """The README's project, typed by a new user up to where servers are started."""
    folder, home = tmp_path_factory.mktemp("new user"), tmp_path_factory.mktemp("home")
    reader = Reader(folder, {"HOME": str(home)})
    found = commands(README)
    assert [command.line for command in found[:2]] == ["mailmill init shop", "cd shop"]
    try:
        for command in found[: cut(found)]:
            reader.type(command)
        yield reader
        assert not list(home.iterdir()), "a project's data lies in the project"
    finally:
        kill(reader.servers.values())
        if reader.folder != folder:
            reader.run("mailmill down")
        shutil.rmtree((reader.folder / ".mailmill" / "postgres").resolve(), ignore_errors=True)


def test_the_README_is_true_for_a_new_user(shop: Reader) -> None:
    found = commands(README)
    said = {command.line.split(" ")[1]: shop.type(command) for command in found[cut(found) :]}
    account = json.loads(shop.run("mailmill account example/welcome --json"))
    assert account["state"] == "finished"
    assert account["planned"] == sum(account["by_state"].values()) == 4
    relay = [json.loads(line) for line in (shop.folder / ".mailmill/sandbox/log.jsonl").read_text().splitlines()]
    assert sum(entry["event"] == "answer" and entry["taken"] for entry in relay) == account["by_state"]["sent"] == 4
    assert re.search(r"planned\W+4\b", said["account"])
    assert re.search(r"accepted\W+4\b", said["stats"])
    assert "a relay took it" in said["explain"]
    shop.end()


@pytest.mark.system
def test_mailmill_up_takes_in_what_is_dropped_makes_segments_anew_and_leaves_nothing_behind(shop: Reader) -> None:
    up = shop.start("up", "mailmill up")
    postgres = EmbeddedServer(home=shop.folder / ".mailmill")
    assert postgres.pid() is not None
    (shop.folder / "inbox" / "more.csv").write_text(f"email,name\n{ZOE},Zoe Dunn\n", encoding="utf-8")

    def known() -> Any:
        found = shop.run(f"mailmill explain {ZOE} --tenant example --json || true")
        return json.loads(found) if found else None

    [explained] = until(known, "the sensor to take in a dropped file", within_s=240, every_s=1)
    assert explained
    until(lambda: members(postgres, "readers") == 5, "the segment to be made anew with the contacts", within_s=240)
    started = [psutil.Process(up.pid), *psutil.Process(up.pid).children(recursive=True)]
    assert len(started) >= 5, started
    shop.end("up")
    assert "stopped" in shop.log("up")
    _, alive = psutil.wait_procs(started, timeout=60)
    assert not alive
    assert postgres.pid() is None
    assert not left_in(shop.folder)


def members(postgres: EmbeddedServer, segment: str) -> int:
    """How many a segment took in when it was last materialized; it is the daemon that does it."""
    with postgres.database().transaction() as conn:
        made = conn.execute(
            "SELECT sum(rows) FROM manifest WHERE dataset = 'segments' AND part = %s GROUP BY published_at"
            " ORDER BY published_at DESC LIMIT 1",
            (segment,),
        ).fetchone()
    return int(made[0]) if made else 0


def left_in(folder: Path) -> list[str]:
    """Processes whose working folder or command is in this one, whoever their parent is by now."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(folder) in " ".join([process.cwd(), *process.cmdline()]):
                found.append(str(process))
        except psutil.Error:
            continue
    return found
