"""dagster.yaml as mailmill writes it."""

from __future__ import annotations

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from mailmill.cli.dagster_home import instance


@pytest.mark.parametrize("name", ["plain", "50% of {it}", 'a "quoted" one', "back\\slash: # ü", "it's"])
def test_any_folders_name_is_written_as_it_is(name: str) -> None:
    home = Path("/srv") / name / "dagster"
    read = YAML(typ="safe", pure=True).load(instance(home))
    assert read["local_artifact_storage"]["config"]["base_dir"] == str(home)
    assert read["compute_logs"]["config"]["base_dir"] == str(home / "logs")
