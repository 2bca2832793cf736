"""The services of docker-compose.yml, each started as its role over a server that deploy/ has prepared."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from ports import free_port
from production import check, environment_of, listens

pytestmark = pytest.mark.system


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
        url = (migrated / "urls" / f"{name}_url").read_text()
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


def test_dagsters_processes_get_healthy_over_postgresql_and_know_every_run(
    compose: dict[str, Any], migrated: Path, root: Path, tmp_path: Path
) -> None:
    """Code server, web server and daemon as in the file: only hosts, ports and the data folder are this machine's. They
    show the run of a verb and that of a dropped file, and a forget searches both."""
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
    (tmp_path / "dagster.yaml").write_text(instance.replace("/opt/data", str(migrated / "data")))
    shop = tmp_path / "shop"
    shared = {"MAILMILL_HOME": str(migrated / "data"), "MAILMILL_PROJECT": str(shop)}
    with ExitStack() as stack:
        environment, cli = (
            stack.enter_context(environment_of(compose, name, migrated))[0] | shared for name in ("dagster-code", "cli")
        )
        environment |= {"DAGSTER_HOME": str(tmp_path), "DAGSTER_PG_URL_FILE": str(migrated / "urls" / "dagster_url"),
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
            _both_kinds_of_runs(shop, cli, f"http://127.0.0.1:{web}/graphql", migrated / "urls" / "dagster_url")
        finally:
            for process in running:
                process.send_signal(signal.SIGTERM)
            for process in running:
                process.wait(timeout=120)
            log.close()


def _both_kinds_of_runs(shop: Path, cli: dict[str, str], graphql: str, storage: Path) -> None:
    """One import by the service `cli`, one by the daemon, of a file that is called after a person, who is forgotten."""
    assert check(["mailmill", "init", str(shop)], cli).returncode == 0
    text = (shop / "mailmill.yaml").read_text()  # another tenant than that of the other tests, and another folder
    for of_theirs, ours in (("slug: example", "slug: other"), ("tenant: example", "tenant: other"),
                            ("folder: inbox", "folder: dropped")):  # fmt: skip
        text = text.replace(of_theirs, ours)
    (shop / "mailmill.yaml").write_text(text)
    (shop / "inbox").rename(shop / "dropped")
    assert check(["mailmill", "apply", str(shop)], cli).returncode == 0
    done = check(["mailmill", "ingest", "other/inbox"], cli)
    assert done.returncode == 0, done.stderr
    dropped = shop / "dropped" / "zoe@people.example.csv"  # a tick that finds several asks for a run by the last one
    dropped.write_text("email\nzoe@people.example\n")
    query = "{ runsOrError { ... on Runs { results { jobName status tags { key value } } } } }"
    deadline, ended = time.monotonic() + 300, list[dict[str, str]]()
    while len({"mailmill/in-process", "dagster/sensor_name"} & {key for tags in ended for key in tags}) < 2 or not any(
        dropped.name in tags.get("dagster/run_key", "") for tags in ended
    ):
        assert time.monotonic() < deadline, ended
        time.sleep(0.5)
        runs = httpx.post(graphql, json={"query": query}, timeout=30).json()["data"]["runsOrError"]["results"]
        ended = [
            {tag["key"]: tag["value"] for tag in run["tags"]}
            for run in runs if run["jobName"] == "ingest" and run["status"] == "SUCCESS"
        ]  # fmt: skip
    dropped.unlink()
    done = check(["mailmill", "forget", "zoe@people.example", "--tenant", "other", "--json"], cli)
    answer = json.loads(done.stdout)
    assert answer["proved"] and answer["tenants"][0]["contacts"] == 1
    with psycopg.connect(storage.read_text().replace("+psycopg2", "")) as connection:
        told = connection.execute("SELECT count(*) FILTER (WHERE value LIKE '%zoe@people%'), count(*) FROM run_tags")
        named, tags = told.fetchone() or (0, 0)
    assert named == 0 and tags > 0


def test_the_main_job_is_done_by_the_services_as_their_roles(
    compose: dict[str, Any], migrated: Path, own_kafka: str, tmp_path: Path
) -> None:
    """The example's campaign mailed, folded from Kafka and read, each by the role that has to do it in production."""
    ports = {name: str(free_port()) for name in ("ingress", "stats", "sandbox")}
    urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    shop = tmp_path / "shop"
    shared = {
        "MAILMILL_HOME": str(migrated / "data"), "MAILMILL_PROJECT": str(shop), "MAILMILL_KAFKA_URL": own_kafka,
        "MAILMILL_PUBLIC_URL": urls["ingress"], "MAILMILL_INGRESS_PORT": ports["ingress"],
        "MAILMILL_STATS_PORT": ports["stats"], "PYTHONWARNINGS": "ignore",
    }  # fmt: skip

    def as_owner(*verb: str) -> Any:
        done = subprocess.run(["mailmill", *verb], env=of["cli"], cwd=shop, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout) if "--json" in verb else done.stdout

    with ExitStack() as stack:
        services = ["ingress", "stats", "listen", "send"]
        of = {
            one: stack.enter_context(environment_of(compose, one, migrated))[0] | shared for one in ["cli", *services]
        }
        shop.mkdir()
        as_owner("init", ".")
        text = (shop / "mailmill.yaml").read_text()
        (shop / "mailmill.yaml").write_text(text.replace("port: 2525", f"port: {ports['sandbox']}"))
        with (shop / "inbox" / "contacts.csv").open("a") as file:
            file.writelines(f"who+{what}@readers.example,,en,US\n" for what in ("click", "bounce", "unsubscribe"))
        as_owner("apply", ".")
        as_owner("ingest", "example/inbox")
        as_owner("campaign", "start", "example/welcome")
        key = as_owner("key", "create", "--tenant", "example", "--name", "test", "--json")["key"]

        log = stack.enter_context((tmp_path / "log").open("w+"))
        command = ["mailmill", "sandbox", "--port", ports["sandbox"], "--ingress", urls["ingress"]]
        running = [subprocess.Popen(command, env=of["cli"], cwd=shop, stdout=log, stderr=log)]
        for service in services:
            command = ["mailmill", *compose["services"][service]["command"]]
            running.append(subprocess.Popen(command, env=of[service], cwd=shop, stdout=log, stderr=log))
        try:
            deadline, account, counts = time.monotonic() + 300, {"open": 1}, {}
            while account["open"] or not (
                counts and counts["clicked"]["messages"] and counts["bounced_hard"] and counts["unsubscribed"]
            ):
                ended = [process.args for process in running if process.poll() is not None]
                assert time.monotonic() < deadline and not ended, (ended, counts, (tmp_path / "log").read_text())
                time.sleep(0.5)
                with suppress(httpx.TransportError):  # the API is starting
                    said = {"Authorization": f"Bearer {key}"}
                    answer = httpx.get(f"{urls['stats']}/api/v2/stats/example/overview", headers=said, timeout=30)
                    counts = answer.raise_for_status().json()["counts"]
                account = as_owner("account", "example/welcome", "--json")
        finally:
            for process in running:
                process.send_signal(signal.SIGTERM)
            codes = {process.wait(timeout=120) for process in running}
        assert counts["accepted"] == account["by_state"]["sent"] > 0
        assert codes <= {0, -signal.SIGTERM, 128 + signal.SIGTERM}, (tmp_path / "log").read_text()
