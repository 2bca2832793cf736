"""Dagster's home in the data folder: its storage lies in the same PostgreSQL, so that runs outlive restarts."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from urllib.parse import quote

from psycopg.conninfo import conninfo_to_dict

from mailmill.cli.app import installation
from mailmill.composition import Installation
from mailmill.io.data_folder import write_whole

_TEMPLATE = """\
# Written by mailmill; changes here are lost. The storage's URL comes by the environment: Dagster repeats this file on
# the command lines of its processes, where everybody could read a password.
storage:
  postgres:
    postgres_url: {{env: MAILMILL_DAGSTER_STORAGE}}
telemetry: {{enabled: false}}
nux: {{enabled: false}}
local_artifact_storage:
  module: dagster.core.storage.root
  class: LocalArtifactStorage
  config: {{base_dir: {home}}}
compute_logs:
  module: dagster.core.storage.local_compute_log_manager
  class: LocalComputeLogManager
  config: {{base_dir: {logs}}}
run_coordinator:
  module: dagster.core.run_coordinator
  class: QueuedRunCoordinator
  config: {{dequeue_interval_seconds: 1}}
concurrency:
  runs:
    max_concurrent_runs: 4
    # one run a campaign and a source at a time; a second one waits
    tag_concurrency_limits:
      - {{key: "mailmill/campaign", value: {{applyLimitPerUniqueValue: true}}, limit: 1}}
      - {{key: "mailmill/source", value: {{applyLimitPerUniqueValue: true}}, limit: 1}}
      # tenants are validated again one after the other: what DNS said for one holds for all, and campaigns need room
      - {{key: "mailmill/tenant", limit: 1}}
run_monitoring: {{enabled: true, poll_interval_seconds: 30}}
# a sensor that waits, for a file to settle or for a database, holds up no other
sensors: {{use_threads: true, num_workers: 4}}
run_retries: {{enabled: true, max_retries: 1, retry_on_asset_or_op_failure: false}}
retention:
  sensor: {{purge_after_days: {{skipped: 1, started: 30, success: 7, failure: 30}}}}
  schedule: {{purge_after_days: {{skipped: 1, started: 30, success: 7, failure: 30}}}}
python_logs: {{python_log_level: INFO}}
"""
# so that people read the product's name where Dagster would show a module's
_WORKSPACE = """\
# Written by mailmill; changes here are lost.
load_from:
  - python_module: {module_name: mailmill.definitions, location_name: mailmill}
"""


def storage_url(mill: Installation) -> str:
    """Where Dagster keeps its runs: where its own services keep theirs, if a setting names that; else a database of its
    own in the embedded server, or a schema of its own.

    The driver is named: SQLAlchemy 2.1 reads plain postgresql:// as psycopg 3, and Dagster's NOTIFY fails there.
    """
    if mill.settings.dagster_storage_url is not None:
        storage = mill.dagster_storages[-1]
        with storage.transaction():  # who does not answer, or refuses, is named in our words
            return re.sub(r"^\w+:", "postgresql+psycopg2:", storage.conninfo)
    if mill.server is not None:
        mill.server.start()
        return mill.server.dagster_url()
    conninfo = mill.any_database.conninfo("owner")
    with mill.any_database.transaction("owner") as connection:
        # of two at once IF NOT EXISTS lets both begin and one fail
        connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('mailmill:dagster', 0))")
        connection.execute("CREATE SCHEMA IF NOT EXISTS dagster")  # its alembic_version must not meet ours
    parts = conninfo_to_dict(conninfo)
    user, password = quote(str(parts.get("user", "")), safe=""), quote(str(parts.get("password", "")), safe="")
    host, port = quote(str(parts.get("host", "127.0.0.1")), safe=""), parts.get("port", "5432")
    options = quote("-c search_path=dagster", safe="")
    return f"postgresql+psycopg2://{user}:{password}@/{parts['dbname']}?host={host}&port={port}&options={options}"


def instance(home: Path) -> str:
    """dagster.yaml for this folder; a string in JSON is one in YAML too, whatever characters are in it."""
    return _TEMPLATE.format(home=json.dumps(str(home)), logs=json.dumps(str(home / "logs")))


def _write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:
        write_whole(path, text)


def prepare(mill: Installation | None = None) -> Path:
    """Write dagster.yaml and workspace.yaml, and name the folder in this process's environment. Out: the folder."""
    mill = mill or installation()
    home = mill.home / "dagster"
    home.mkdir(parents=True, exist_ok=True)
    _write(home / "dagster.yaml", instance(home))
    _write(home / "workspace.yaml", _WORKSPACE)
    os.environ["DAGSTER_HOME"] = str(home)
    os.environ["MAILMILL_DAGSTER_STORAGE"] = storage_url(mill)
    os.environ["DAGSTER_DISABLE_TELEMETRY"] = "1"
    return home
