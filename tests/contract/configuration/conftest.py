"""An installation over this test's own database."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailmill.composition import Installation
from mailmill.io import data_folder
from mailmill.io.postgres.database import Database
from mailmill.settings import Settings


@pytest.fixture
def mill(tmp_path: Path, database: Database) -> Installation:
    made = Installation(Settings(home=tmp_path / "home", project=tmp_path / "project"))
    made.__dict__["any_database"] = database  # the property opens an embedded server of its own
    (tmp_path / "project").mkdir()
    data_folder.check(made.home)
    return made
