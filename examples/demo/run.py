"""The demo: two tenants, messy contacts from four kinds of source, two campaigns through a real relay, counted events.

Everything is real: PostgreSQL, the SMTP relay (mailmill's sandbox), the HTTP services, the runs on Dagster's instance.
It leaves a project folder, `.mailmill/demo`, that `make up` opens, and `report.json` in it. It fails unless every
recipient is accounted for, the relay's own log compared with the ledger.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx

from mailmill.cli.up import urls
from mailmill.composition import Installation
from mailmill.io.postgres.server import EmbeddedServer

HERE = Path(__file__).resolve().parent
CLONE = HERE.parents[1]
sys.path.insert(0, str(HERE))

import make_data  # noqa: E402 - beside this file, wherever it is run from
import reckoning  # noqa: E402

CAMPAIGNS = ("harbor/spring", "alpine/catalogue")
HTTP_SOURCES = {"harbor/scraper": ("scraper_pro", 4500), "alpine/backlinks": ("backlink_engine", 4000)}
SOURCES = ("harbor/newsletter", "harbor/scraper", "alpine/partners", "alpine/backlinks")
DESK = {
    "harbor": [("Ilse.Sommer@Verlag.test", "Ilse Sommer"), ("jan@bücher.example", "Jan Winter")],
    "alpine": [("meister@werkstatt.test", "Meister Huber"), ("ilse.sommer@verlag.test", "Ilse S.")],
}
PATIENCE_S = 300.0  # with a machine that is slow or busy; nothing takes as long by itself


def free_ports(*names: str) -> dict[str, int]:
    """For each a port where nobody listens, below those that the system gives to connections: one of these might be
    taken before its server starts."""
    chosen = iter(random.sample(range(12_000, 32_000), 1_000))
    return {name: next(port for port in chosen if not _listens(port)) for name in names}


@dataclass
class Demo:
    """One run of the demo in a folder of its own. `scale` shrinks the data, for tests."""

    folder: Path
    scale: float = 1.0
    kafka_url: str | None = None
    say: Callable[[str], None] = print
    ports: dict[str, int] = field(
        default_factory=lambda: free_ports("ingress", "stats", "sandbox", "scraper", "backlinks")
    )
    began: float = field(default_factory=time.monotonic)

    # ------------------------------------------------------------ small things

    def step(self, text: str) -> None:
        self.say(f"[{time.monotonic() - self.began:5.1f} s] {text}")

    def environment(self) -> dict[str, str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MAILMILL_")}
        environment |= {
            "MAILMILL_HOME": str(self.folder / ".mailmill"),
            "MAILMILL_PUBLIC_URL": f"http://127.0.0.1:{self.ports['ingress']}",
            "MAILMILL_INGRESS_PORT": str(self.ports["ingress"]),
            "MAILMILL_STATS_PORT": str(self.ports["stats"]),
            "MAILMILL_SANDBOX_PORT": str(self.ports["sandbox"]),
            "MAILMILL_PRIVATE_SOURCES": "127.0.0.1",  # its services are on loopback
            "PYTHONWARNINGS": "ignore",
        }
        return environment | ({"MAILMILL_KAFKA_URL": self.kafka_url} if self.kafka_url else {})

    def mailmill(self, *arguments: str) -> Any:
        """Run one verb as a person would. Out: its JSON answer, if it gives one."""
        done = subprocess.run(
            [sys.executable, "-m", "mailmill", *arguments],
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"mailmill {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
        return json.loads(done.stdout) if "--json" in arguments else done.stdout

    @contextmanager
    def process(
        self, name: str, command: Sequence[str], health: str | None = None
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A server in the background, healthy before the body runs and ended after it."""
        (self.folder / "logs").mkdir(exist_ok=True)
        with open(self.folder / "logs" / f"{name}.log", "wb") as log:
            child = subprocess.Popen(
                [sys.executable, *command], cwd=self.folder, env=self.environment(), stdout=log, stderr=log
            )
        (self.folder / "logs" / f"{name}.pid").write_text(str(child.pid))
        try:
            if health:
                self._until(lambda: child.poll() is not None or _answers(health), PATIENCE_S, f"{name} to answer")
            if child.poll() is not None:
                raise SystemExit(f"{name} ended with {child.returncode}, see {self.folder}/logs/{name}.log")
            yield child
        finally:
            child.terminate()
            try:
                child.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def _until(self, done: Callable[[], bool], timeout_s: float, what: str) -> None:
        deadline = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > deadline:
                raise SystemExit(f"waited {timeout_s:.0f} s for {what}")
            time.sleep(0.1)

    # ------------------------------------------------------------ the steps

    def prepare(self) -> None:
        """An empty project folder with configuration, inboxes and secrets; what an earlier demo left is removed."""
        self._end_leftovers()
        if (self.folder / ".mailmill").exists():
            EmbeddedServer(home=self.folder / ".mailmill").erase()
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "secrets").mkdir(parents=True)
        for name in ("scraper-key", "backlink-key", "harbor-webhook", "alpine-webhook"):
            path = self.folder / "secrets" / name
            path.write_text(secrets.token_urlsafe(24))
            path.chmod(0o600)
        places = {"9101": "scraper", "9102": "backlinks", "2525": "sandbox"}
        shutil.copy(HERE / "sandbox.yaml", self.folder / "sandbox.rules")  # not .yaml: `apply .` reads those
        for source in sorted((HERE / "project").iterdir()):
            text = source.read_text(encoding="utf-8")
            for example, name in places.items():
                text = text.replace(f"127.0.0.1:{example}", f"127.0.0.1:{self.ports[name]}")
                text = text.replace(f"port: {example}", f"port: {self.ports[name]}")
            (self.folder / source.name).write_text(text, encoding="utf-8")
        make_data.make(self.folder, scale=self.scale)

    def _end_leftovers(self) -> None:
        """End the servers of a demo that was killed; a number that was given to another program since is not ours."""
        for path in (self.folder / "logs").glob("*.pid"):
            pid = int(path.read_text() or 0)
            with suppress(OSError):
                if pid and Path(f"/proc/{pid}/cwd").resolve() == self.folder.resolve():
                    os.kill(pid, signal.SIGKILL)

    def services(self, stack: ExitStack) -> None:
        """The outside world: two contact services and a relay; and what listens: the ingress and the listener."""
        for name, (kind, count) in HTTP_SOURCES.items():
            port = self.ports["scraper" if kind == "scraper_pro" else "backlinks"]
            key = self.folder / "secrets" / ("scraper-key" if kind == "scraper_pro" else "backlink-key")
            command = [str(CLONE / "examples" / "services" / f"{kind}.py"), "--port", str(port)]
            command += ["--count", str(int(count * self.scale)), "--seed", "11", f"--key={key.read_text()}"]
            stack.enter_context(self.process(name.replace("/", "-"), command, f"http://127.0.0.1:{port}/health"))
        ingress = f"http://127.0.0.1:{self.ports['ingress']}"
        stack.enter_context(self.process("ingress", ["-m", "mailmill", "ingress"], f"{ingress}/health"))
        stack.enter_context(self.process("listener", ["-m", "mailmill", "listen"]))
        command = ["-m", "mailmill", "sandbox", "--port", str(self.ports["sandbox"]), "--rules", "sandbox.rules"]
        command += ["--log", "sandbox-log.jsonl", "--ingress", ingress]
        stack.enter_context(self.process("sandbox", command))
        self._until(lambda: _listens(self.ports["sandbox"]), PATIENCE_S, "the sandbox to listen")

    def ingest(self) -> None:
        """Every source once; people at the desk add some by hand; some addresses are suppressed beforehand."""
        for source in SOURCES:
            loaded = self.run_job("ingest", source, "mailmill/source")["contacts"]
            self.step(f"  {source}: {loaded['accepted']:,} rows accepted, {loaded['new']:,} new contacts")
        for tenant, people in DESK.items():
            for address, name in people:
                self.mailmill("contacts", "add", "--tenant", tenant, "--email", address, "--name", name)
        self.mailmill("suppress", "import", "suppressed.txt", "--tenant", "harbor")

    def run_job(self, job: str, thing: str, tag: str) -> dict[str, Any]:
        """Run a job in this process on the persistent instance; it is there to be seen in the UI afterwards."""
        from mailmill.cli.runs import run_job

        return run_job(job, thing.replace("/", "|"), tags={tag: thing.replace("/", "|")} if tag else {})

    def schedule(self) -> datetime:
        """When the campaigns start. A verb takes a second or two; where it takes longer, that time has passed."""
        for seconds in (10, 60, 300):
            starts = datetime.now(UTC) + timedelta(seconds=seconds)
            try:
                for campaign in CAMPAIGNS:
                    self.mailmill("campaign", "schedule", campaign, starts.isoformat())
            except SystemExit:
                if datetime.now(UTC) < starts or seconds == 300:
                    raise
            else:
                break
        return starts

    def send(self) -> None:
        starts = self.schedule()
        time.sleep(max(0.0, (starts - datetime.now(UTC)).total_seconds()) + 0.5)
        for campaign in CAMPAIGNS:
            self.run_job("campaign", campaign, "mailmill/campaign")
            account = self.mailmill("account", campaign, "--json")
            self.step(f"  {campaign}: {account['planned']:,} recipients, {account['by_state'].get('sent', 0):,} sent")

    def settle(self) -> None:
        """Wait until every recipient is in a terminal state and the relay's reports have come through."""
        for campaign in CAMPAIGNS:
            deadline = time.monotonic() + PATIENCE_S
            while (account := self.mailmill("account", campaign, "--json"))["open"]:
                if time.monotonic() > deadline:
                    raise SystemExit(f"{campaign} does not finish: {account}")
                self.run_job("campaign", campaign, "mailmill/campaign")
        log, rules = self.folder / "sandbox-log.jsonl", self.folder / "sandbox.rules"
        what = "the relay to report what became of its mail"
        self._until(lambda: not reckoning.reports_owed(log, rules), PATIENCE_S, what)

    def run(self) -> dict[str, Any]:
        """All of it. Out: the report."""
        self.step("preparing a project folder with two tenants")
        self.prepare()
        os.environ.update({k: v for k, v in self.environment().items() if k.startswith("MAILMILL_")})
        os.chdir(self.folder)
        self.mailmill("migrate")
        self.mailmill("apply", ".")
        with ExitStack() as stack:
            self.services(stack)
            self.step(f"ingesting {len(SOURCES)} sources and the desk")
            self.ingest()
            for segment in ("harbor|readers", "alpine|partners-and-links"):
                self.run_job("segment", segment, "mailmill/segment")
            self.step("two campaigns: freezing the audience, filling the ledger, sending")
            self.send()
            self.step("waiting for bounces, opens, clicks and unsubscribes to come back")
            self.settle()
        self.mailmill("listen", "--until-idle")
        self.step("publishing what analysts open")
        self.run_job("publish", "", "")
        report = reckoning.report(self.folder, CAMPAIGNS, seconds=time.monotonic() - self.began)
        path = self.folder / "report.json"
        path.write_text(reckoning.dumps(report))
        return report


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=CLONE / ".mailmill" / "demo", help="it is emptied first")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the data, for a quick look")
    parser.add_argument("--kafka", metavar="HOST:PORT", help="use this broker as the event log")
    given = parser.parse_args()
    folder = given.folder.absolute()
    places = urls(Installation())  # before the demo sets ports of its own: `make up` will use these
    demo = Demo(folder, scale=given.scale, kafka_url=given.kafka)
    report = demo.run()
    demo.mailmill("down")  # `make up` starts it again
    reckoning.show(report, folder, places)
    sys.exit(0 if report["ok"] else 1)


if __name__ == "__main__":
    main()
