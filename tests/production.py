"""A service of docker-compose.yml here: its environment and health check, with this machine's folders and ports."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ports import free_port

BIN = Path(sys.executable).parent
PORTS = {"8025": "MAILMILL_INGRESS_PORT", "8026": "MAILMILL_STATS_PORT"}


def listens(port: str) -> bool:
    """Whether something takes connections there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(port))) == 0


@contextmanager
def environment_of(
    compose: dict[str, Any], name: str, production: Path
) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """The environment of a service here, and what its ports are here."""
    ports = {port: str(free_port()) for port in PORTS}
    with tempfile.TemporaryDirectory(dir=production) as data:
        (secrets := Path(data) / "secrets").mkdir()
        for one in compose["services"][name]["secrets"]:
            if isinstance(one, dict):
                (secrets / one["target"]).write_text((production / "urls" / one["source"]).read_text())
        yield {
            "PATH": f"{BIN}:{os.environ['PATH']}", "MAILMILL_SECRETS_DIR": str(secrets),
            "MAILMILL_HOME": f"{data}/data", "MAILMILL_JOURNAL": f"{data}/journal", "MAILMILL_PROJECT": data,
            "MAILMILL_PUBLIC_URL": "https://mail.example.org", **{PORTS[port]: here for port, here in ports.items()},
        }, ports  # fmt: skip


def check(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
