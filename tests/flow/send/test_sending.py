"""The send loop over a real PostgreSQL and a relay that counts."""

from __future__ import annotations

from pathlib import Path

import pytest
from send_world import Sink, World

from mailmill.io.postgres.database import Database
from mailmill.io.send_worker import WorkerResult, run_worker


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


def run(world: World, root: Path, **terms: object) -> WorkerResult:
    settings = {"until_idle": True, "patience_s": 0.0, "grace_s": 5.0, **terms}
    return run_worker(world.database, root / "journal", lambda reference: "secret", **settings)  # type: ignore[arg-type]


def test_every_recipient_gets_one_copy_and_the_campaign_finishes(world: World, tmp_path: Path) -> None:
    with Sink() as sink:
        campaign = world.campaign(500, port=sink.port)
        result = run(world, tmp_path)
    assert result.report.ended == "idle" and not result.report.problems
    assert world.account(campaign) == {"sent": 500}
    assert sink.copies == {f"r{n}@example.org": 1 for n in range(500)}
    assert world.state(campaign) == "finished"
    kinds = [event["kind"] for event in world.events()]
    assert kinds == ["accepted"] * 500
    assert not list((tmp_path / "journal").rglob("*.j"))
    assert not world.sql("SELECT * FROM leases")
