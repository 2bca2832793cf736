"""The processes of `mailmill up`: started, watched, restarted with back-off, stopped together; logs are bounded."""

from __future__ import annotations

import ctypes
import logging
import logging.handlers
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

LOG_BYTES, LOG_FILES = 5_000_000, 3
PR_SET_PDEATHSIG = 1  # prctl(2)
_LIBC = ctypes.CDLL(None)  # before a child is forked: it must not load anything
GROUP_GRACE_S = 3.0  # for what a child started, after the child itself has ended


@dataclass(kw_only=True)
class Process:
    """One child with its own process group, so that a Ctrl-C in the terminal reaches it only through us."""

    name: str
    command: Sequence[str]
    log: Path
    environment: Mapping[str, str]
    child: subprocess.Popen[bytes] | None = None
    restarts: int = 0
    restart_at: float = 0.0
    started_at: float = 0.0
    _reader: threading.Thread | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start the child; what it prints goes to a log that rotates."""
        self.child = subprocess.Popen(
            self.command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **self.environment},
            start_new_session=True,
            preexec_fn=self._end_with_parent if sys.platform == "linux" else None,
        )
        self.started_at = time.monotonic()
        self._reader = threading.Thread(target=self._copy_output, args=(self.child,), daemon=True)
        self._reader.start()

    def _end_with_parent(self) -> None:
        """In the child: were we killed, it would go on, and hold the ports that the next `mailmill up` needs."""
        _LIBC.prctl(PR_SET_PDEATHSIG, self.stop_signal)

    @property
    def stop_signal(self) -> signal.Signals:
        return signal.SIGINT if self.name == "dagster" else signal.SIGTERM

    def _copy_output(self, child: subprocess.Popen[bytes]) -> None:
        handler = logging.handlers.RotatingFileHandler(self.log, maxBytes=LOG_BYTES, backupCount=LOG_FILES)
        handler.setFormatter(logging.Formatter("%(message)s"))
        assert child.stdout is not None
        with child.stdout:
            for line in child.stdout:
                text = line.decode("utf-8", "replace").rstrip("\n")
                handler.emit(logging.LogRecord(self.name, logging.INFO, "", 0, text, None, None))
        handler.close()

    @property
    def running(self) -> bool:
        return self.child is not None and self.child.poll() is None

    def watch(self, now: float) -> str | None:
        """Restart a child that ended, after a growing pause. Out: what to tell the operator, if anything."""
        if self.running or self.child is None:
            if self.running and now - self.started_at > 60:
                self.restarts = 0
            return None
        if not self.restart_at:
            pause = min(60.0, 2.0**self.restarts)
            self.restart_at = now + pause
            return f"{self.name} ended with {self.child.returncode}; again in {pause:.0f} s, see {self.log}"
        if now >= self.restart_at:
            self.restart_at, self.restarts = 0.0, self.restarts + 1
            self.start()
        return None

    def signal(self, number: int) -> None:
        if self.running:
            assert self.child is not None
            with suppress(ProcessLookupError):
                os.killpg(self.child.pid, number)

    def end_group(self, within_s: float) -> None:
        """What the child started ends with it: Dagster's code servers have been seen to outlive their parent."""
        if self.child is None:
            return
        deadline = time.monotonic() + within_s
        with suppress(ProcessLookupError):
            while time.monotonic() < deadline:
                os.killpg(self.child.pid, 0)
                time.sleep(0.05)
            os.killpg(self.child.pid, signal.SIGKILL)


def stop_all(processes: Sequence[Process], *, grace_s: float = 20.0) -> None:
    """Ask every child to end, wait, then insist."""
    for process in processes:
        process.signal(process.stop_signal)
    deadline = time.monotonic() + grace_s
    for process in processes:
        if process.child is not None:
            with suppress(subprocess.TimeoutExpired):
                process.child.wait(max(0.1, deadline - time.monotonic()))
            process.signal(signal.SIGKILL)
            process.child.wait()
            process.end_group(GROUP_GRACE_S)
