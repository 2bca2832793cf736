"""An installation of this test alone, as the command line finds it."""

from __future__ import annotations

from pathlib import Path

import pytest
from people_world import People, load_verbs
from psycopg.conninfo import conninfo_to_dict

from mailmill.cli.app import installation
from mailmill.io.postgres.database import Database
from mailmill.io.postgres.server import EmbeddedServer


@pytest.fixture
def people(server: EmbeddedServer, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> People:
    load_verbs()
    name = str(conninfo_to_dict(database.conninfo("owner"))["dbname"])
    (tmp_path / "project").mkdir()
    monkeypatch.setenv("MAILMILL_DATABASE_URL", server.conninfo("postgres", name))
    monkeypatch.setenv("MAILMILL_PROJECT", str(tmp_path / "project"))
    monkeypatch.setenv("MAILMILL_HOME", str(tmp_path / "home"))
    for setting in ("DAGSTER_HOME", "MAILMILL_DAGSTER_STORAGE", "DAGSTER_DISABLE_TELEMETRY"):
        monkeypatch.setenv(setting, "")  # so that what a run sets is taken back
    installation.cache_clear()
    return People(installation())
