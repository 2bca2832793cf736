"""The files of the production shape, parsed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from production import environment_of
from psycopg import sql
from ruamel.yaml import YAML

from mailmill.io.postgres.binaries import wheel_binaries
from mailmill.io.postgres.database import ROLES
from mailmill.io.postgres.server import EmbeddedServer

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def compose() -> dict[str, Any]:
    """docker-compose.yml with its anchors and merges written out."""
    loaded: dict[str, Any] = YAML(typ="safe", pure=True).load((ROOT / "docker-compose.yml").read_text())
    return loaded


@pytest.fixture(scope="module")
def production(root: Path) -> Iterator[Path]:
    """A PostgreSQL whose roles deploy/'s scripts made, and below `urls` how each of its users reaches it from here."""
    home = Path(tempfile.mkdtemp(prefix="mmd"))
    server = EmbeddedServer(home=home / "home", options={"fsync": "off", "shared_buffers": "64MB"})
    try:
        server.start()
        with psycopg.connect(server.conninfo("postgres", "postgres"), autocommit=True) as connection:
            for name in ("mailmill", "dagster"):  # a server of one's own has neither databases nor roles yet
                connection.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))
            for role in ROLES:
                connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(f"mailmill_{role}")))
        made = [str(root / "deploy" / "make-secrets.sh"), str(home / "secrets")]
        subprocess.run(made, check=True, capture_output=True)
        host = quote(str(server.socket_dir), safe="")
        environment = {
            "PATH": f"{wheel_binaries() / 'bin'}:{os.defpath}", "SECRETS": str(home / "secrets"),
            "PGHOST": str(server.socket_dir), "PGUSER": "postgres", "PGPASSWORD": server.secrets()["postgres"],
        }  # fmt: skip
        for _ in range(2):  # a second run changes nothing
            subprocess.run([str(root / "deploy" / "postgres" / "roles.sh")], check=True, env=environment)
        (home / "urls").mkdir()
        for url in home.glob("secrets/*_url"):
            here = re.sub(r"@postgres:5432/(\w+)", rf"@/\1?host={host}", url.read_text())
            (home / "urls" / url.name).write_text(here)
        yield home
    finally:
        server.erase()
        shutil.rmtree(home)


@pytest.fixture(scope="module")
def migrated(compose: dict[str, Any], production: Path) -> Path:
    with environment_of(compose, "migrate", production) as (environment, _):
        command = ["mailmill", *compose["services"]["migrate"]["command"]]
        subprocess.run(command, check=True, env=environment, timeout=300, capture_output=True)
    return production
