"""The services of docker-compose.yml, each started as its role over a server that deploy/ has prepared."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from ports import free_port

from mailmill.io.postgres.binaries import wheel_binaries
from mailmill.io.postgres.server import EmbeddedServer

pytestmark = pytest.mark.system
BIN = Path(sys.executable).parent
PORTS = {"8025": "MAILMILL_INGRESS_PORT", "8026": "MAILMILL_STATS_PORT"}


@pytest.fixture(scope="module")
def production(root: Path) -> Iterator[Path]:
    """A PostgreSQL whose roles deploy/'s scripts made, and a folder of secrets for each URL: the folders' parent."""
    home = Path(tempfile.mkdtemp(prefix="mmd"))
    server = EmbeddedServer(home=home / "home", options={"fsync": "off", "shared_buffers": "64MB"})
    server.start()
    subprocess.run([str(root / "deploy" / "make-secrets.sh"), str(home / "secrets")], check=True, capture_output=True)
    environment = {
        "PATH": f"{wheel_binaries() / 'bin'}:{os.defpath}", "SECRETS": str(home / "secrets"),
        "PGHOST": str(server.socket_dir), "PGUSER": "postgres", "PGPASSWORD": server.secrets()["postgres"],
    }  # fmt: skip
    for _ in range(2):  # a second run changes nothing
        subprocess.run([str(root / "deploy" / "postgres" / "roles.sh")], check=True, env=environment)
    for url in home.glob("secrets/*_url"):
        folder = home / url.name
        folder.mkdir()
        host = quote(str(server.socket_dir), safe="")
        text = url.read_text().replace("@postgres:5432/mailmill", f"@/mailmill?host={host}")
        (folder / "mailmill_database_url").write_text(text)
    yield home
    server.erase()
    shutil.rmtree(home)


def listens(port: str) -> bool:
    """Whether something takes connections there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(port))) == 0


@contextmanager
def environment_of(
    compose: dict[str, Any], name: str, production: Path
) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """The environment of a service here, and what its ports are here."""
    [secret] = [one["source"] for one in compose["services"][name]["secrets"] if isinstance(one, dict)]
    ports = {port: str(free_port()) for port in PORTS}
    with tempfile.TemporaryDirectory(dir=production) as data:
        yield {
            "PATH": f"{BIN}:{os.environ['PATH']}", "MAILMILL_SECRETS_DIR": str(production / secret),
            "MAILMILL_HOME": f"{data}/data", "MAILMILL_JOURNAL": f"{data}/journal", "MAILMILL_PROJECT": data,
            "MAILMILL_PUBLIC_URL": "https://mail.example.org", **{PORTS[port]: here for port, here in ports.items()},
        }, ports  # fmt: skip


@pytest.fixture(scope="module")
def migrated(compose: dict[str, Any], production: Path) -> Path:
    with environment_of(compose, "migrate", production) as (environment, _):
        command = ["mailmill", *compose["services"]["migrate"]["command"]]
        subprocess.run(command, check=True, env=environment, timeout=300, capture_output=True)
    return production


def check(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("name", ["send", "listen", "ingress", "stats"])
def test_a_service_starts_as_its_role_gets_healthy_and_stops(
    compose: dict[str, Any], migrated: Path, name: str
) -> None:
    service = compose["services"][name]
    with environment_of(compose, name, migrated) as (environment, ports):
        health = [str(part) for part in service["healthcheck"]["test"][1:]]
        for port, here in ports.items():
            health = [part.replace(f":{port}/", f":{here}/") for part in health]
        before = check(health, environment)
        assert name == "listen" or before.returncode == 1, "a check that is always well checks nothing"
        output = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed below
        process = subprocess.Popen(["mailmill", *service["command"]], env=environment, stdout=output, stderr=output)
        try:
            deadline, well = time.monotonic() + 300, False
            while not well and process.poll() is None and time.monotonic() < deadline:
                well = check(health, environment).returncode == 0
            output.seek(0)
            assert well, output.read()
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(timeout=120)
            output.seek(0)
            said = output.read()
            output.close()
        assert code in (0, -signal.SIGTERM, 128 + signal.SIGTERM), said


def test_no_service_may_do_more_than_its_role(migrated: Path) -> None:
    """Each URL enters as its own role and stays in it; statistics write nothing."""
    for name in ("listener", "ingress", "stats"):
        url = (migrated / f"{name}_url" / "mailmill_database_url").read_text()
        with psycopg.connect(url) as connection:
            assert connection.execute("SELECT current_user").fetchone() == (f"mailmill_{name}",)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("SET ROLE mailmill_owner")
    with psycopg.connect(url) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("UPDATE campaigns SET state = 'cancelled'")


def test_an_operators_documented_commands_apply_back_up_and_restore(
    compose: dict[str, Any], migrated: Path, root: Path, tmp_path: Path
) -> None:
    """What docs/production.md runs in the service `cli`, in its order."""
    text = (root / "docs" / "production.md").read_text()
    documented = re.findall(r"^ {4}docker compose run --rm (?:-v \S+ )?cli ([^#\n]+)", text, re.MULTILINE)
    assert [command.split()[0] for command in documented] == ["apply", "backup", "restore"]
    with environment_of(compose, "cli", migrated) as (environment, _):
        environment["MAILMILL_PROJECT"] = str(tmp_path / "project")
        for command in ("init /opt/project", *documented, "tenants --json"):
            here = command.replace("/opt/project", f"{tmp_path}/project").replace("/backups", str(tmp_path)).split()
            here += ["--replace"] if here[0] == "restore" else []  # the installation is no longer empty here
            done = check([*compose["services"]["cli"]["entrypoint"], *here], environment)
            assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout), "the tenants that were applied came back with the backup"


def test_health_says_what_is_wrong(compose: dict[str, Any], migrated: Path) -> None:
    with environment_of(compose, "stats", migrated) as (environment, ports):
        for what, said in {
            f"http://127.0.0.1:{ports['8025']}/": "does not answer", "worker": "permission denied for table workers",
            "nonsense": "is nothing to check",
        }.items():  # fmt: skip
            done = check(["mailmill", "health", what], environment)
            assert done.returncode == 1 and "Traceback" not in done.stderr
            assert said in done.stderr


def test_dagsters_processes_get_healthy_over_postgresql(
    compose: dict[str, Any], migrated: Path, root: Path, tmp_path: Path
) -> None:
    """Code server, web server and daemon as in the file: only hosts, ports and the data folder are this machine's."""
    host = quote((migrated / "owner_url" / "mailmill_database_url").read_text().partition("host=")[2], safe="%")
    url = (migrated / "secrets" / "dagster_url").read_text()
    (tmp_path / "url").write_text(url.replace("@postgres:5432/dagster", f"@/dagster?host={host}"))
    code, web = str(free_port()), str(free_port())
    here = {
        "/opt/dagster/dagster.sh": str(root / "deploy" / "dagster.sh"),
        "0.0.0.0": "127.0.0.1", "4000": code, "3000": web,
        "/opt/dagster/workspace.yaml": str(tmp_path / "workspace.yaml"),
        "http://127.0.0.1:3000/server_info": f"http://127.0.0.1:{web}/server_info",
    }  # fmt: skip
    workspace = (root / "deploy" / "workspace.yaml").read_text()
    (tmp_path / "workspace.yaml").write_text(workspace.replace("dagster-code", "127.0.0.1").replace("4000", code))
    instance = (root / "deploy" / "dagster.yaml").read_text()
    (tmp_path / "dagster.yaml").write_text(instance.replace("/opt/data", str(tmp_path / "data")))
    with environment_of(compose, "dagster-code", migrated) as (environment, _):
        environment |= {"DAGSTER_HOME": str(tmp_path), "DAGSTER_PG_URL_FILE": str(tmp_path / "url"),
                        "DAGSTER_DISABLE_TELEMETRY": "1", "PYTHONWARNINGS": "ignore"}  # fmt: skip
        log = (tmp_path / "log").open("w+")
        running: list[subprocess.Popen[bytes]] = []
        try:
            for names in (["dagster-code"], ["dagster-webserver", "dagster-daemon"]):
                for name in names:
                    service = compose["services"][name]
                    command = [here.get(part, part) for part in [*service["entrypoint"], *service["command"]]]
                    running.append(subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=log, stderr=log))
                for name in names:
                    test = [here.get(part, part) for part in compose["services"][name]["healthcheck"]["test"][1:]]
                    deadline = time.monotonic() + 300
                    port = {"dagster-code": code}.get(name, web)  # the daemon has none and is ready about then
                    # a check is a process that takes seconds to start: it would slow down what it waits for
                    while not listens(port) and time.monotonic() < deadline:
                        assert all(process.poll() is None for process in running), (tmp_path / "log").read_text()
                        time.sleep(0.1)
                    while (last := check(test, environment)).returncode and time.monotonic() < deadline:
                        assert all(process.poll() is None for process in running), (tmp_path / "log").read_text()
                    assert last.returncode == 0, last.stderr
        finally:
            for process in running:
                process.send_signal(signal.SIGTERM)
            for process in running:
                process.wait(timeout=120)
            log.close()
