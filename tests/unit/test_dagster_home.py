"""dagster.yaml as mailmill writes it."""

from __future__ import annotations

from pathlib import Path

import pytest
from dagster import DagsterRun
from dagster._utils.tags import TagConcurrencyLimitsCounter
from ruamel.yaml import YAML

from mailmill.cli.dagster_home import instance


@pytest.mark.parametrize("name", ["plain", "50% of {it}", 'a "quoted" one', "back\\slash: # ü", "it's"])
def test_any_folders_name_is_written_as_it_is(name: str) -> None:
    home = Path("/srv") / name / "dagster"
    read = YAML(typ="safe", pure=True).load(instance(home))
    assert read["local_artifact_storage"]["config"]["base_dir"] == str(home)
    assert read["compute_logs"]["config"]["base_dir"] == str(home / "logs")


@pytest.mark.parametrize("where", ["embedded", "production"])
@pytest.mark.parametrize(("tag", "others"), [("campaign", True), ("source", True), ("tenant", False)])
def test_runs_that_would_do_each_others_work_wait_for_each_other(tag: str, others: bool, where: str) -> None:
    """A campaign and a source for themselves alone; of tenants that are validated again, for whichever is."""
    deployed = Path(__file__).parents[2] / "deploy" / "dagster.yaml"
    text = instance(Path("/srv/dagster")) if where == "embedded" else deployed.read_text()
    read = YAML(typ="safe", pure=True).load(text)["concurrency"]["runs"]
    at_work = DagsterRun(job_name="any", tags={f"mailmill/{tag}": "acme"})
    counter = TagConcurrencyLimitsCounter(read["tag_concurrency_limits"], [at_work])
    assert counter.is_blocked(at_work)
    assert counter.is_blocked(DagsterRun(job_name="any", tags={f"mailmill/{tag}": "beta"})) is not others
