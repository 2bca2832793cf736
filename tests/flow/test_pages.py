"""The pages people see, in a real browser, over what a small demo made."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from demo_run import run_demo
from ports import free_port

from mailmill.io.dagster_reports import report_fold
from mailmill.io.postgres.server import EmbeddedServer
from mailmill.pipelines.listen.loop import Report

pytestmark = pytest.mark.system
CHROMIUM = [
    "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1600,1000",
    "--virtual-time-budget=20000",
]  # fmt: skip


def until(done: Callable[[], bool], what: str, *, within_s: float = 300) -> None:
    deadline = time.monotonic() + within_s
    while not done():
        assert time.monotonic() < deadline, f"waited {within_s:.0f} s for {what}"
        time.sleep(0.3)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=10).status_code == 200
    except httpx.HTTPError:
        return False


@dataclass(frozen=True)
class Pages:
    dagster: str
    stats: str
    ingress: str
    folder: Path

    def dom(self, url: str, tmp_path: Path) -> str:
        """The page as a browser has it after its scripts ran; a screenshot is taken on the way, to be looked at."""
        shot = tmp_path / "page.png"
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        done = subprocess.run(
            [*CHROMIUM, profile, f"--screenshot={shot}", "--dump-dom", url], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        assert shot.stat().st_size > 10_000
        return done.stdout

    def graphql(self, query: str) -> dict:  # type: ignore[type-arg]
        answer = httpx.post(f"{self.dagster}/graphql", json={"query": query}, timeout=120)
        assert answer.status_code == 200, answer.text
        data: dict = answer.json()["data"]  # type: ignore[type-arg]
        return data


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    folder = tmp_path_factory.mktemp("pages") / "demo"
    try:
        run_demo(folder, "0.03")
        ports = {name: free_port() for name in ("DAGSTER", "STATS", "INGRESS")}
        environment = os.environ | {f"MAILMILL_{name}_PORT": str(port) for name, port in ports.items()}
        places = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
        command = [sys.executable, "-W", "ignore", "-m", "mailmill", "up"]
        up = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
        try:
            until(lambda: answers(places["DAGSTER"] + "/server_info"), "Dagster")
            until(lambda: answers(places["STATS"] + "/health"), "the stats API")
            until(lambda: answers(places["INGRESS"] + "/health"), "the ingress")
            yield Pages(places["DAGSTER"], places["STATS"], places["INGRESS"], folder)
        finally:
            up.send_signal(signal.SIGINT)
            assert up.wait(180) == 0
    finally:
        EmbeddedServer(home=folder / ".mailmill").erase()


def test_dagster_shows_the_products_name(pages: Pages) -> None:
    found = pages.graphql("{ workspaceOrError { ... on Workspace { locationEntries { name loadStatus } } } }")
    assert found["workspaceOrError"]["locationEntries"] == [{"name": "mailmill", "loadStatus": "LOADED"}]


def test_the_asset_graph_shows_every_stage(pages: Pages, tmp_path: Path) -> None:
    page = pages.dom(f"{pages.dagster}/asset-groups", tmp_path)
    for group in ("ingest", "target", "send", "listen", "read"):
        assert group in page


def test_a_run_of_the_demo_can_be_read_afterwards(pages: Pages, tmp_path: Path) -> None:
    runs = pages.graphql("{runsOrError(limit:100){... on Runs{results{runId jobName status}}}}")["runsOrError"][
        "results"
    ]
    assert {"ingest", "segment", "campaign", "publish"} <= {run["jobName"] for run in runs}
    campaign = next(run for run in runs if run["jobName"] == "campaign")
    assert campaign["status"] == "SUCCESS"
    page = pages.dom(f"{pages.dagster}/runs/{campaign['runId']}", tmp_path)
    assert "deliveries" in page
    assert "every_recipient_is_accounted_for" in page


def test_no_address_is_in_what_dagster_keeps(pages: Pages) -> None:
    query = """{assetsOrError{... on AssetConnection{nodes{assetMaterializations(limit:100){metadataEntries{
      label ... on TextMetadataEntry{text} ... on MarkdownMetadataEntry{mdStr} ... on JsonMetadataEntry{jsonString}
      ... on TableMetadataEntry{table{records}}}}}}}}"""
    kept = str(pages.graphql(query))
    assert "masked_sample" in kept
    assert "***@" in kept
    for domain in ("@mail.example", "@kontor.test", "@verlag.test", "@studio.test"):
        assert domain not in kept


def test_the_listener_reports_to_dagster(pages: Pages) -> None:
    kept = "... on Asset{assetMaterializations{metadataEntries{label}}}"
    query = '{assetOrError(assetKey:{path:["delivery_events"]}){' + kept + "}}"
    before = len(pages.graphql(query)["assetOrError"].get("assetMaterializations") or [])
    assert report_fold(pages.dagster, Report(events=3, batches=1))
    found = pages.graphql(query)["assetOrError"]["assetMaterializations"]
    assert len(found) == before + 1
    assert {entry["label"] for entry in found[0]["metadataEntries"]} >= {"events", "lag"}


def test_the_stats_api_documents_itself_without_the_internet(pages: Pages, tmp_path: Path) -> None:
    page = pages.dom(f"{pages.stats}/docs", tmp_path)
    for path in ("overview", "contacts", "campaigns", "events", "performance"):
        assert f"/{path}" in page


def test_the_unsubscribe_page_asks_before_it_acts(pages: Pages, tmp_path: Path) -> None:
    forged = httpx.get(f"{pages.ingress}/u/forged-token", timeout=60)
    assert forged.status_code == 404
    page = pages.dom(f"{pages.ingress}/u/forged-token", tmp_path)
    assert "<script" not in page
