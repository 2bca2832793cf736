"""docker-compose.yml: valid by the specification, bounded, without a default password, and its commands are real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from jsonschema.validators import validator_for
from ruamel.yaml import YAML
from uvicorn.middleware.proxy_headers import _TrustedHosts

from mailmill.settings import Settings

BIN = Path(sys.executable).parent
OURS = ("migrate", "send", "listen", "ingress", "stats", "dagster-code", "dagster-webserver", "dagster-daemon", "cli")
ENDS = ("migrate", "cli")  # by themselves


@pytest.fixture(scope="session")
def schema() -> dict[str, Any]:
    """The compose specification's schema (github.com/compose-spec/compose-spec), as check-jsonschema carries it."""
    text = resources.files("check_jsonschema").joinpath("builtin_schemas/vendor/compose-spec.json").read_text()
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def test_the_file_is_valid_by_the_compose_specification(compose: dict[str, Any], schema: dict[str, Any]) -> None:
    errors = validator_for(schema)(schema).iter_errors(compose)
    assert [f"{'.'.join(map(str, error.path))}: {error.message}" for error in errors] == []


def test_the_schema_would_see_a_mistake(compose: dict[str, Any], schema: dict[str, Any]) -> None:
    services = compose["services"] | {"x": {"image": "x", "helthcheck": {}}}
    assert list(validator_for(schema)(schema).iter_errors(compose | {"services": services}))


def test_the_production_shape_is_complete(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == {*OURS, "postgres", "kafka", "mailbox"}
    assert compose["services"]["send"]["deploy"]["replicas"] >= 1
    assert compose["services"]["mailbox"]["profiles"] == ["development"]


def test_an_operators_verbs_run_as_the_owner_over_the_project_and_never_by_themselves(compose: dict[str, Any]) -> None:
    cli, migrate = compose["services"]["cli"], compose["services"]["migrate"]
    assert (cli["profiles"], cli["restart"], cli["entrypoint"]) == (["tools"], "no", ["mailmill"])
    owner = {"source": "owner_url", "target": "mailmill_database_url"}
    assert migrate["secrets"] == [owner]
    assert cli["secrets"] == [owner, {"source": "dagster_url", "target": "mailmill_dagster_storage_url"}]
    assert {"data:/opt/data", "./project:/opt/project"} <= set(cli["volumes"])


def test_what_the_services_are_told_are_settings_and_whoever_starts_campaigns_may_ask_dns(
    compose: dict[str, Any],
) -> None:
    for name in OURS:
        environment = compose["services"][name]["environment"]
        ours = {key.removeprefix("MAILMILL_").lower() for key in environment if key.startswith("MAILMILL_")}
        assert ours <= Settings.model_fields.keys()
        assert environment["MAILMILL_RESOLVER"], "without one only a sandbox is sent to"
        assert environment["MAILMILL_LOG_FORMAT"] is None, "as it is where compose runs, if it is"
    assert compose["services"]["listen"]["environment"]["MAILMILL_DAGSTER_URL"] == "http://dagster-webserver:3000"


def test_a_message_that_the_service_cli_sends_is_in_a_journal_that_outlives_it(compose: dict[str, Any]) -> None:
    cli = compose["services"]["cli"]
    assert cli["environment"]["MAILMILL_JOURNAL"] == "/opt/data/journal" and "data:/opt/data" in cli["volumes"]


def test_every_service_has_a_health_check_limits_and_bounded_logs(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        limits = service["deploy"]["resources"]["limits"]
        assert limits["cpus"] and limits["memory"], name
        assert service["logging"]["options"]["max-size"], name
        assert name in ENDS or service["healthcheck"]["test"][0] == "CMD", name


def test_nothing_is_published_beyond_loopback(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", ())]
    assert len(ports) == len(set(ports)) and all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("name", ["ingress", "stats"])
def test_who_asks_is_whom_the_proxy_names_through_dockers_network(compose: dict[str, Any], name: str) -> None:
    """It knocks from the network's gateway. What the asker says of itself stands before what the proxy adds."""
    trusted = _TrustedHosts(compose["services"][name]["environment"]["FORWARDED_ALLOW_IPS"])
    assert "172.18.0.1" in trusted and "127.0.0.1" in trusted and "203.0.113.9" not in trusted
    assert trusted.get_trusted_client_address("198.51.100.7, 203.0.113.9, 172.18.0.1")[0] == "203.0.113.9"


def test_secrets_are_files_and_there_is_no_default_password(compose: dict[str, Any], root: Path) -> None:
    assert all(set(secret) == {"file"} for secret in compose["secrets"].values())
    for name, service in compose["services"].items():
        environment = service.get("environment", {})
        for key, value in environment.items():
            assert "PASSWORD" not in key or key.endswith("_FILE"), f"{name}: {key}"
            assert "://" not in str(value) or "@" not in str(value), f"{name}: {key} has a URL with a password"
        for secret in service.get("secrets", ()):
            assert (secret if isinstance(secret, str) else secret["source"]) in compose["secrets"]
    assert "deploy/secrets/" in (root / ".gitignore").read_text()


def test_secrets_are_made_again_where_those_of_before_may_not_be_written(root: Path, tmp_path: Path) -> None:
    """After an upgrade, or for a server of one's own: passwords stay, and the URLs are read-only files."""
    script, folder = root / "deploy" / "make-secrets.sh", tmp_path / "secrets"
    subprocess.run([script, folder], check=True, capture_output=True)
    before = {path.name: path.read_text() for path in folder.iterdir()}
    os.link(folder / "owner_url", tmp_path / "first")
    subprocess.run([script, folder], check=True, capture_output=True, env=os.environ | {"POSTGRES_HOST": "db:5433"})
    after = {path.name: path.read_text() for path in folder.iterdir()}
    assert after == {name: text.replace("@postgres:5432/", "@db:5433/") for name, text in before.items()}
    assert (tmp_path / "first").read_text() == before["owner_url"], "the file was replaced, not written to"
    assert all(path.stat().st_mode & 0o777 == 0o444 for path in folder.iterdir())


def test_our_containers_are_unprivileged(compose: dict[str, Any], root: Path) -> None:
    for name in OURS:
        service = compose["services"][name]
        assert service["read_only"] and service["cap_drop"] == ["ALL"], name
    assert "\nUSER 10001" in (root / "Dockerfile").read_text()


def test_each_send_worker_has_a_journal_of_its_own(compose: dict[str, Any]) -> None:
    assert "/opt/journal" in compose["services"]["send"]["volumes"], "anonymous, so one a container"


def test_dependencies_exist_and_have_what_is_waited_for(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for name, wanted in service.get("depends_on", {}).items():
            other = compose["services"][name]
            assert wanted["condition"] != "service_healthy" or "healthcheck" in other


@pytest.mark.parametrize("name", [name for name in OURS if not name.startswith("dagster")])
def test_every_command_of_ours_is_a_real_one(compose: dict[str, Any], name: str) -> None:
    """With --help in the place of starting; test_services.py starts them."""
    command = ["mailmill", *(str(part) for part in compose["services"][name]["command"])]
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0 and "Usage" in done.stdout, done.stderr
    for option in (part for part in command if part.startswith("--")):
        assert option in done.stdout


def test_dagsters_files_fit_the_containers(compose: dict[str, Any], root: Path) -> None:
    yaml = YAML(typ="safe", pure=True)
    [location] = yaml.load((root / "deploy" / "workspace.yaml").read_text())["load_from"]
    assert location["grpc_server"]["host"] in compose["services"]
    assert str(location["grpc_server"]["port"]) in compose["services"]["dagster-code"]["command"]
    storage = yaml.load((root / "deploy" / "dagster.yaml").read_text())["storage"]
    assert storage == {"postgres": {"postgres_url": {"env": "DAGSTER_PG_URL"}}}
    assert "DAGSTER_PG_URL=" in (root / "deploy" / "dagster.sh").read_text()
