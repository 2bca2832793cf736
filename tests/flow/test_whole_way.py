"""The whole way, from messy contacts to counted deliveries, over real parts and both event logs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from demo_run import run_demo

from mailmill.io.postgres.server import EmbeddedServer


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "a demo"  # a path with a space
    yield folder
    EmbeddedServer(home=folder / ".mailmill").erase()


@pytest.mark.parametrize("log", ["postgres", "kafka"])
def test_P08_every_recipient_is_accounted_for(log: str, folder: Path, request: pytest.FixtureRequest) -> None:
    more = ["--kafka", request.getfixturevalue("own_kafka")] if log == "kafka" else []
    said = run_demo(folder, "0.04", *more)

    report = json.loads((folder / "report.json").read_text())
    assert report["ok"]
    for campaign in report["campaigns"]:
        assert campaign["planned"] == sum(campaign["by_state"].values()) > 100
        assert campaign["relay_accepted"] >= campaign["by_state"]["sent"] > 0
        assert campaign["unaccounted"] == 0
    assert report["reports_missing"] == {}
    sent = sum(campaign["by_state"]["sent"] for campaign in report["campaigns"])
    assert report["events"]["accepted"] == sent
    assert {"opened", "clicked", "unsubscribed", "bounced_hard", "deferred"} <= report["events"].keys()
    assert report["contacts"]["raw"] == report["contacts"]["accepted"] + report["contacts"]["rejected"]
    assert "every recipient is accounted for" in said
