"""Unsubscribes that no store would take, kept on the local disk until one does.

One file an unsubscribe, named by its event: asking twice is one file, and any number of ingress processes may share the
folder. A file holds the event, that is ids and no address.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

import orjson

from mailmill.errors import StoreUnavailable, TransientError

logger = logging.getLogger(__name__)
SUFFIX = ".json"
BATCH = 500


class Spool:
    """A folder of events that wait for a store."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, name: str, event: bytes) -> None:
        """Write an event so that it survives a kill and a power cut.

        Raises: StoreUnavailable when the disk does not take it.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile(dir=self._folder, suffix=".part", delete=False) as file:
                file.write(event)
                file.flush()
                os.fsync(file.fileno())
            os.replace(file.name, self._folder / f"{name}{SUFFIX}")
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise StoreUnavailable(f"the spool cannot be written: {error.strerror}") from error

    def names(self) -> list[str]:
        """What waits, oldest or not; empty when the folder is not there."""
        with suppress(OSError), os.scandir(self._folder) as entries:
            return [entry.name.removesuffix(SUFFIX) for entry in entries if entry.name.endswith(SUFFIX)]
        return []

    def read(self, name: str) -> bytes | None:
        """The event; None when another process has replayed it meanwhile, or when the disk has spoilt the file."""
        path = self._folder / f"{name}{SUFFIX}"
        try:
            event = path.read_bytes()
            orjson.loads(event)
        except orjson.JSONDecodeError:
            logger.error("a spooled unsubscribe cannot be read; it is set aside", extra={"file": path.name})
            path.rename(path.with_suffix(".unreadable"))
            return None
        except OSError:
            return None
        return event

    def remove(self, name: str) -> None:
        with suppress(OSError):
            (self._folder / f"{name}{SUFFIX}").unlink(missing_ok=True)


class Replayer:
    """Gives what is spooled to the stores as soon as they take it again."""

    def __init__(self, spool: Spool, replay: Callable[[list[bytes]], None], *, every_s: float = 1.0) -> None:
        self._spool, self._replay, self._every_s = spool, replay, every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="replayer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(10.0)

    def _run(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                self._once()
            except TransientError:
                continue
            except Exception:
                logger.exception("replaying the spool failed; it is tried again")

    def _once(self) -> None:
        names = self._spool.names()
        for start in range(0, len(names), BATCH):
            found = {name: event for name in names[start : start + BATCH] if (event := self._spool.read(name))}
            self._replay(list(found.values()))
            for name in found:
                self._spool.remove(name)
        if names:
            logger.info("spooled unsubscribes are replayed", extra={"events": len(names)})
