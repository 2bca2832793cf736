"""`mailmill up`: everything an operator needs, on loopback, in one terminal."""

from __future__ import annotations

import fcntl
import signal
import sys
import time
from pathlib import Path
from typing import TextIO

import httpx
from rich.console import Console
from rich.table import Table

from mailmill.cli.app import app, installation
from mailmill.cli.ports import refuse_taken
from mailmill.cli.processes import Process, stop_all
from mailmill.composition import Installation
from mailmill.errors import Misconfigured

HEALTHY_WITHIN_S = 120.0


@app.command()
def up() -> None:
    """Start PostgreSQL, Dagster's UI and daemon, listener, ingress and stats API; Ctrl-C stops all of them."""
    mill = installation()
    mill.home.mkdir(parents=True, exist_ok=True)
    with open(mill.home / "up.lock", "w") as lock:
        _only_one(lock, mill.home)
        for part in ("dagster", "ingress", "stats"):
            setting = f"{part}_port"
            refuse_taken(mill.settings.bind, getattr(mill.settings, setting), setting=f"MAILMILL_{setting.upper()}")
        _prepare_database(mill)
        processes = _processes(mill)
        for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: a shell may have started us with it ignored
            signal.signal(number, _interrupt)
        try:
            for process in processes:
                process.start()
            _show_when_healthy(mill, processes)
            _watch(processes)
        except KeyboardInterrupt:
            print("\nstopping", flush=True)
        finally:
            stop_all(processes)
            if mill.server is not None:
                mill.server.stop()
        print("stopped", flush=True)


def _interrupt(number: int, frame: object) -> None:
    for again in (signal.SIGINT, signal.SIGTERM):  # an impatient second one would leave the rest running
        signal.signal(again, signal.SIG_IGN)
    raise KeyboardInterrupt


def _only_one(lock: TextIO, home: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Misconfigured(
            "mailmill up runs already over this data folder",
            place=str(home),
            remedy="Stop it with Ctrl-C in its terminal, or set another MAILMILL_HOME.",
        ) from None


def _prepare_database(mill: Installation) -> None:
    """Migrations run here, after a backup where there is something to lose."""
    from mailmill.cli import dagster_home
    from mailmill.io.postgres import schema

    current = schema.current_version(mill.any_database)
    if current is not None and current not in schema.known_versions():
        schema.check(mill.any_database)  # a newer one is refused before anything is written
    if current is not None and current != schema.wanted_version():
        from mailmill.cli.backup import back_up

        target = mill.home / "backups" / f"at-{current}-{int(time.time())}.tar"
        target.parent.mkdir(parents=True, exist_ok=True)
        back_up(mill, target)
        print(f"backed up to {target}")
    schema.migrate(mill.any_database)
    dagster_home.prepare(mill)


def _processes(mill: Installation) -> list[Process]:
    settings, logs = mill.settings, mill.home / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    python = [sys.executable, "-W", "ignore", "-m"]
    workspace = mill.home / "dagster" / "workspace.yaml"  # dagster_home.prepare wrote it
    dagster = ["dagster", "dev", "-w", str(workspace), "-h", settings.bind, "-p", str(settings.dagster_port)]
    commands = {
        "dagster": [*python, *dagster, "--log-level", "warning"],
        "listener": [*python, "mailmill", "listen"],
        "ingress": [*python, "mailmill", "ingress"],
        "stats": [*python, "mailmill", "api"],
    }
    # children may run in another folder, so the data folder is named absolutely
    environment = {
        "MAILMILL_HOME": str(mill.home),
        "PYTHONUNBUFFERED": "1",
        "MAILMILL_DAGSTER_URL": urls(mill)["dagster"][0],
    }
    return [
        Process(name=name, command=command, log=logs / f"{name}.log", environment=environment)
        for name, command in commands.items()
    ]


def urls(mill: Installation) -> dict[str, tuple[str, str]]:
    """Name -> (URL for people, URL that tells health)."""
    settings = mill.settings
    host = mill.local_host
    dagster = f"http://{host}:{settings.dagster_port}"
    ingress = f"http://{host}:{settings.ingress_port}"
    stats = f"http://{host}:{settings.stats_port}"
    return {
        "dagster": (dagster, f"{dagster}/server_info"),
        "ingress": (ingress, f"{ingress}/health"),
        "stats": (f"{stats}/docs", f"{stats}/health"),
    }


def _healthy(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2.0).status_code == 200
    except httpx.HTTPError:
        return False


def _show_when_healthy(mill: Installation, processes: list[Process]) -> None:
    console = Console(highlight=False)
    waiting = dict(urls(mill))
    deadline = time.monotonic() + HEALTHY_WITHIN_S
    console.print("starting", end="")
    while waiting and time.monotonic() < deadline:
        waiting = {name: pair for name, pair in waiting.items() if not _healthy(pair[1])}
        for process in processes:
            if said := process.watch(time.monotonic()):
                console.print(f"\n{said}", soft_wrap=True)
        console.print(".", end="")
        time.sleep(0.5)
    console.print()
    table = Table(title="mailmill", title_justify="left")
    for column in ("part", "health", "where"):
        table.add_column(column, no_wrap=True, overflow="ignore")  # a URL in two pieces is none
    table.add_row("postgresql", "up", _postgres_place(mill))
    for process in processes:
        place = urls(mill).get(process.name, ("", ""))[0]
        healthy = process.running and process.name not in waiting
        table.add_row(process.name, "up" if healthy else "not healthy", place)
    console.print(table)
    console.print(f"Logs are in {mill.home / 'logs'}. Ctrl-C stops all of them.", soft_wrap=True)


def _postgres_place(mill: Installation) -> str:
    return "MAILMILL_DATABASE_URL" if mill.server is None else str(mill.server.socket_dir)


def _watch(processes: list[Process]) -> None:
    while True:
        for process in processes:
            if said := process.watch(time.monotonic()):
                print(said, flush=True)
        time.sleep(0.5)
