"""The verbs of sending, as an operator types them."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict
from send_world import Sink, World, by_address

from mailmill.cli import main
from mailmill.cli.app import installation
from mailmill.io.postgres.database import Database
from mailmill.io.postgres.server import EmbeddedServer
from mailmill.io.send_worker import WorkerResult

Run = Callable[..., WorkerResult]


@dataclass(frozen=True)
class Told:
    code: int
    out: str
    err: str


Verb = Callable[..., Told]


@pytest.fixture
def mailmill(
    server: EmbeddedServer,
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Verb]:
    """Run one verb as `python -m mailmill` does, as a database user that may become every role."""
    name = str(conninfo_to_dict(database.conninfo("owner"))["dbname"])
    monkeypatch.setenv("MAILMILL_HOME", str(tmp_path))
    monkeypatch.setenv("MAILMILL_DATABASE_URL", server.conninfo("postgres", name))
    installation.cache_clear()

    def run(*arguments: str) -> Told:
        monkeypatch.setattr(sys, "argv", ["mailmill", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        out, err = capsys.readouterr()
        return Told(int(left.value.code or 0), out, err)

    before = gc.get_threshold()
    yield run
    gc.set_threshold(*before)
    gc.unfreeze()
    installation.cache_clear()


def test_account_adds_up_and_doubts_are_named_and_settled(world: World, run: Run, mailmill: Verb) -> None:
    with Sink(by_address({"dot r0": "cut", "rcpt r1": "550 5.1.1 who?"})) as sink:
        campaign = world.campaign(5, port=sink.port)
        run()
    told = mailmill("account", "acme/spring", "--json")
    assert told.code == 0, told.err
    answer = json.loads(told.out)
    assert answer["by_state"] == {"sent": 3, "failed": 1, "in_doubt": 1} and answer["unaccounted"] == 0
    assert {"state": "failed", "reason": "bad_mailbox", "messages": 1} in answer["reasons"]
    (doubt,) = json.loads(mailmill("doubts", "acme/spring", "--json").out)
    assert doubt["address"] == "r***@e***.org" and doubt["reason"] == "no_answer"
    assert mailmill("doubts", "acme/spring", "--resolve", "resend").code == 0
    assert world.account(campaign)["queued"] == 1 and world.state(campaign) == "running"
    with Sink(port=sink.port) as again:
        run()
    assert again.copies == {"r0@example.org": 1} and world.state(campaign) == "finished"


def test_send_works_until_idle_and_tells_what_it_did(world: World, mailmill: Verb) -> None:
    with Sink() as sink:
        world.campaign(20, port=sink.port)
        other = world.campaign(20, port=sink.port, slug="other")
        told = mailmill("send", "--campaign", "acme/spring", "--worker", "w9", "--json")
    assert told.code == 0, told.err
    answer = json.loads(told.out)
    assert (answer["worker"], answer["ended"], answer["counts"]["sent"]) == ("w9", "idle", 20)
    assert answer["finished"] == ["acme/spring"] and world.account(other) == {"queued": 20}
    assert json.loads(mailmill("workers", "--json").out) == []


@pytest.mark.parametrize(
    "arguments",
    [("account", "acme/none"), ("account", "nonsense"), ("doubts", "acme/none"), ("release", "acme/none"),
     ("doubts", "--resolve", "sent"), ("send", "--campaign", "acme/none"), ("send", "--worker", "../x")],
)  # fmt: skip
def test_what_is_wrong_is_said_in_a_line(world: World, mailmill: Verb, arguments: tuple[str, ...]) -> None:
    world.campaign(1)
    told = mailmill(*arguments)
    assert told.code == 1 and told.err.startswith("mailmill: ") and "Traceback" not in told.err
