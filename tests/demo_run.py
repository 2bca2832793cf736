"""The demo as a person runs it, at a share of its size."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

CLONE = Path(__file__).parents[1]


def run_demo(folder: Path, scale: str, *more: str) -> str:
    """Out: what it said. Of a demo that does not come to its end nothing that it started goes on."""
    command = [sys.executable, str(CLONE / "examples" / "demo" / "run.py"), "--folder", str(folder), "--scale", scale]
    with subprocess.Popen(
        [*command, *more], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as demo:
        try:
            said, _ = demo.communicate(timeout=1500)
        except BaseException:
            os.killpg(demo.pid, signal.SIGKILL)
            raise
    assert demo.returncode == 0, said
    return said
