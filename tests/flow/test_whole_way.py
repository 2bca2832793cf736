"""The whole way, from messy contacts to counted deliveries, over real parts and both event logs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

CLONE = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "a demo"  # a path with a space
    yield folder
    subprocess.run([sys.executable, "-m", "mailmill", "down"], cwd=folder, check=True, capture_output=True)
    shutil.rmtree((folder / ".mailmill" / "postgres").resolve(), ignore_errors=True)


@pytest.mark.parametrize("log", ["postgres", "kafka"])
def test_P08_every_recipient_is_accounted_for(log: str, folder: Path, request: pytest.FixtureRequest) -> None:
    command = [sys.executable, str(CLONE / "examples" / "demo" / "run.py"), "--folder", str(folder), "--scale", "0.04"]
    if log == "kafka":
        command += ["--kafka", request.getfixturevalue("kafka")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr

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
    assert "every recipient is accounted for" in done.stdout
