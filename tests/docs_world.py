"""The documents' commands, and a scratch project in which they are run as a reader would: a shell, real processes."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from ports import free_port

CLONE = Path(__file__).parents[1]
DOCUMENTS = [CLONE / "README.md", *sorted((CLONE / "docs").glob("*.md"))]
PORTS = {"DAGSTER": 3000, "INGRESS": 8025, "STATS": 8026, "SANDBOX": 2525}  # what documents and example say
HEALTH = {"ingress": ["INGRESS/health"], "api": ["STATS/health"],
          "up": ["DAGSTER/server_info", "INGRESS/health", "STATS/health"]}  # fmt: skip
FIRST_WORDS = {"listen": "listen: folding", "send": "messages/s"}  # of what has no port


@dataclass(frozen=True, slots=True)
class Command:
    """A line of a fenced or indented block, its continuations joined; `not_run` says why it is only parsed."""

    document: str
    line: str
    not_run: str | None = None

    @property
    def words(self) -> list[str]:
        return shlex.split(self.line, comments=True)

    @property
    def serves(self) -> bool:
        """It goes on until Ctrl-C."""
        verb, options = self.words[1], self.words[2:]
        return (
            verb in ("sandbox", "ingress", "api", "up")
            or (verb == "listen" and "--until-idle" not in options)
            or (verb == "send" and "--forever" in options)
        )


def commands(document: Path) -> list[Command]:
    """Every `mailmill …` of the document's blocks, in order, and the `cd …` between them."""
    text = document.read_text(encoding="utf-8").replace("\\\n", " ")
    found: list[Command] = []
    for block in re.finditer(r"(?:<!-- not run: (.*?) -->\s*)?^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block[2].splitlines():
            if match := re.match(r"(?:\$ )?((?:mailmill|cd) .*)", line):
                found.append(Command(document.name, match[1].rstrip(), block[1]))
    for line in re.findall(r"^ {4}(?:\$ )?(\S.*)", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.MULTILINE):
        if match := re.match(r"(?:docker compose (?:run|exec)\b.* cli |mailmill )(.*)", line):
            found.append(Command(document.name, f"mailmill {match[1]}", "it belongs to another machine's shape"))
    return found


def mentions(document: Path) -> list[str]:
    """What stands as `mailmill …` within a sentence or a table."""
    prose = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.M | re.S)
    return [" ".join(span.split()) for span in re.findall(r"`(mailmill [^`]+)`", prose)]


def blocks(document: Path, language: str) -> list[str]:
    """The fenced blocks of a language."""
    text = document.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def until(done: Callable[[], Any], what: str, *, within_s: float, every_s: float = 0.1) -> Any:
    """Wait on a condition with a deadline. Out: what fulfilled it."""
    deadline = time.monotonic() + within_s
    while not (found := done()):
        assert time.monotonic() < deadline, f"waited {within_s:.0f} s for {what}"
        time.sleep(every_s)
    return found


def free_ports() -> dict[str, int]:
    """A free port for each that mailmill listens on, no two alike."""
    return {name: free_port() for name in PORTS}


@dataclass
class Reader:
    """Somebody who types what a document says, in `folder`, with an empty home and nothing set but free ports."""

    folder: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=free_ports)
    servers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MAILMILL_", "DAGSTER_"))}
        ports = {f"MAILMILL_{name}_PORT": str(port) for name, port in self.ports.items()}
        home = self.folder if "HOME" not in self.settings else Path(self.settings["HOME"])
        path = f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}"
        return kept | ports | {"HOME": str(home), "PATH": path, "MAILMILL_SECRETS_DIR": "none"} | dict(self.settings)

    def here(self, text: str) -> str:
        """The text with this reader's ports in place of the documented ones."""
        for name, port in PORTS.items():
            text = re.sub(rf"\b{port}\b", str(self.ports[name]), text)
        return text

    def type(self, command: Command) -> str:
        """One line of a document. Out: what it said."""
        if command.words[0] == "cd":
            self.folder = (self.folder / command.words[1]).resolve(strict=True)
            return ""
        if command.serves:
            self.start(command.words[1], self.here(command.line))
            return ""
        said = self.run(self.here(command.line))
        if command.words[1] == "init":  # what an operator does where a port is taken
            for path in (self.folder / command.words[2]).glob("*.yaml"):
                path.write_text(self.here(path.read_text(encoding="utf-8")), encoding="utf-8")
        return said

    def run(self, line: str, *, code: int = 0) -> str:
        done = subprocess.run(
            ["bash", "-c", line], cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == code, f"{line}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def start(self, verb: str, line: str, *, within_s: float = 240.0) -> subprocess.Popen[bytes]:
        """A server in a terminal of its own, healthy when this returns; an earlier one of its kind is ended."""
        if verb in self.servers:
            self.end(verb)
        with open(self._log(verb), "wb") as log:
            server = subprocess.Popen(
                ["bash", "-c", f"exec {line}"], cwd=self.folder, env=self.environment, stdout=log, stderr=log,
                stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_as_a_terminal_does,
            )  # fmt: skip
        self.servers[verb] = server

        def ready() -> bool:
            assert server.poll() is None, f"{line} ended with {server.returncode}\n{self.log(verb)}"
            return self.healthy(verb)

        until(ready, f"{line} to be healthy", within_s=within_s)
        return server

    def healthy(self, verb: str) -> bool:
        if verb == "sandbox":
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self.ports["SANDBOX"])) == 0
        if verb in FIRST_WORDS:
            return FIRST_WORDS[verb] in self.log(verb)
        return all(self._answers(place) for place in HEALTH[verb])

    def _answers(self, place: str) -> bool:
        name, _, path = place.partition("/")
        try:
            return httpx.get(f"http://127.0.0.1:{self.ports[name]}/{path}", timeout=10).status_code == 200
        except httpx.HTTPError:
            return False

    def _log(self, verb: str) -> Path:
        return self.folder / f"{verb}.log"

    def log(self, verb: str) -> str:
        return self._log(verb).read_text(encoding="utf-8", errors="replace")

    def end(self, *verbs: str, within_s: float = 120.0) -> None:
        """Ctrl-C in these terminals, all of them by default; each has to end cleanly."""
        ending = {verb: self.servers.pop(verb) for verb in verbs or list(self.servers)}
        for server in ending.values():
            os.killpg(server.pid, signal.SIGINT)
        try:
            for verb, server in ending.items():
                assert server.wait(within_s) == 0, f"{verb} ended with {server.returncode}\n{self.log(verb)}"
                assert "Traceback" not in self.log(verb), self.log(verb)
        finally:
            kill(ending.values())


def kill(servers: Sequence[subprocess.Popen[bytes]] | Any) -> None:
    """End what a failed test has left."""
    for server in servers:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _as_a_terminal_does() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # who started the tests in the background has it ignored
