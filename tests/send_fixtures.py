"""Fixtures of the tests of sending, whatever folder they are in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from send_world import World

from mailmill.io.postgres.database import Database
from mailmill.io.send_worker import WorkerResult, run_worker

Run = Callable[..., WorkerResult]


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


@pytest.fixture
def run(world: World, tmp_path: Path) -> Run:
    """Run a worker until it is idle, in this process."""

    def run(**terms: object) -> WorkerResult:
        settings = {"until_idle": True, "patience_s": 0.0, "grace_s": 5.0, **terms}
        return run_worker(world.database, tmp_path / "journal", lambda reference: "secret", **settings)  # type: ignore[arg-type]

    return run
