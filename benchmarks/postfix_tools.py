"""smtp-sink and smtp-source of Postfix, from Debian's package: unpacked into a folder, nothing installed, no daemon."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class PostfixTools:
    """Where the programs lie, and the libraries they need."""

    folder: Path

    def program(self, name: str) -> str:
        return str(self.folder / "usr/sbin" / name)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "LD_LIBRARY_PATH": str(self.folder / "usr/lib/postfix")}

    @contextmanager
    def sink(self) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
        """An smtp-sink on loopback that counts and throws away. Yields its port and process."""
        port = free_port()
        user = ["-u", "nobody"] if os.getuid() == 0 else []
        process = subprocess.Popen(
            [self.program("smtp-sink"), *user, f"127.0.0.1:{port}", "1000"],
            env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            yield port, process
        finally:
            process.kill()
            process.wait()

    def source_rate(self, port: int, messages: int, *, size: int, connections: int) -> float:
        """Messages a second of smtp-source over kept-open connections (-d)."""
        began = time.perf_counter()
        subprocess.run(
            [self.program("smtp-source"), "-d", "-s", str(connections), "-m", str(messages), "-l", str(size),
             "-f", "from@bench.example", "-t", "to@bench.example", f"127.0.0.1:{port}"],
            env=self.environment, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        return messages / (time.perf_counter() - began)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def tools() -> Iterator[PostfixTools]:
    """Raises: RuntimeError where apt-get cannot give the package (not Debian)."""
    folder = Path(tempfile.mkdtemp(prefix="mmpostfix"))
    try:
        for command in (["apt-get", "-qq", "download", "postfix"], ["sh", "-c", "dpkg -x postfix_*.deb ."]):
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{' '.join(command)} failed: {done.stderr.strip()[-300:]}")
        folder.chmod(0o755)
        yield PostfixTools(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
