"""The sandbox's own account of what it saw and did: one JSON object a line, written before the answer is given."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import orjson

REMEMBERED = 5_000_000  # messages whose copies are counted; some 500 MB at most


class Log:
    """Appends to a file; what was written is with the kernel when `write` returns: a kill loses nothing."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115
        self._lock = threading.Lock()
        self._copies: dict[int, int] = {}

    def write(self, **fields: Any) -> None:
        with self._lock:
            self._file.write(orjson.dumps({"at": round(time.time(), 3), **fields}, option=orjson.OPT_APPEND_NEWLINE))

    def taken(self, message_id: str, recipient: str) -> int:
        """How many times this message was taken for this recipient, this time included."""
        key = hash((message_id, recipient))
        copies = self._copies.pop(key, 0) + 1
        self._copies[key] = copies
        if len(self._copies) > REMEMBERED:
            del self._copies[next(iter(self._copies))]
        return copies

    def close(self) -> None:
        self._file.close()
