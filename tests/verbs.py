"""A verb of mailmill as a person types it, over the database of the test."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from mailmill.cli import main
from mailmill.cli.app import installation
from mailmill.io.postgres.database import Database
from mailmill.io.postgres.server import EmbeddedServer


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
