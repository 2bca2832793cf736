"""The lake: immutable Parquet files in a folder. A file is visible only once the manifest (PostgreSQL) lists it."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from mailmill.errors import StoreUnavailable
from mailmill.io.data_folder import write_whole

GRACE_S = 86_400.0  # how long a file stays that nobody lists: longer than any read, and any way into the manifest
NOTES = ".unlisted.json"
SPOOL = ".spool-"  # begins the name of a folder in which one validation lays frames aside
BUSY = "busy"  # a file in it that is locked as long as the validation lives


@dataclass(frozen=True, slots=True, kw_only=True)
class LakeFile:
    """A finished file that nobody sees yet. `file` is the path below the lake's root."""

    file: str
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What a sweep did: files removed, files that nobody lists and whose grace is not over, files listed."""

    files: int
    bytes: int
    waiting: int
    waiting_bytes: int
    listed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lake:
    """Writes files that are never changed and reads those it is told to.

    Files lie at `<tenant>/<dataset>/<name>.parquet`; the name is never used twice, so an attempt that was killed
    cannot harm what another one listed.
    """

    root: Path

    def write(self, frame: pl.DataFrame | pl.LazyFrame, *, tenant_id: int, dataset: str) -> LakeFile:
        """Write one Parquet file: temporary name, fsync, rename, fsync of the folder.

        Raises: StoreUnavailable when the disk is full or the folder cannot be written; no torn file stays visible.
        """
        folder = self.root / str(tenant_id) / dataset
        name = f"{uuid.uuid4().hex}.parquet"
        temporary, final = folder / f".{name}.tmp", folder / name
        try:
            with written_in(folder):
                folder.mkdir(parents=True, exist_ok=True)
                with busy(temporary):
                    if isinstance(frame, pl.LazyFrame):
                        frame.sink_parquet(temporary, compression="zstd", compression_level=1)
                    else:
                        frame.write_parquet(temporary, compression="zstd", compression_level=1)
                    _fsync(temporary)
                    temporary.rename(final)
                _fsync(folder)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        rows = pl.scan_parquet(final, glob=False).select(pl.len()).collect().item()
        return LakeFile(file=str(final.relative_to(self.root)), rows=rows, bytes=final.stat().st_size)

    def remove_torn(self, tenant_id: int) -> None:
        """Remove what killed writers left of a tenant: files under temporary names, frames laid aside."""
        for path in below(self.root / str(tenant_id)):
            spooled = path.name == BUSY and path.parent.name.startswith(SPOOL)
            torn = path.name.startswith(".") and path.name.endswith(".parquet.tmp")
            if (spooled or torn) and not _is_busy(path):
                shutil.rmtree(path.parent, ignore_errors=True) if spooled else path.unlink(missing_ok=True)

    def path(self, file: str) -> Path:
        return self.root / file

    def scan(self, files: Iterable[str], schema: pl.Schema) -> pl.LazyFrame:
        """These files as one frame; columns a file lacks are null, no file gives an empty frame of `schema`."""
        paths = [self.root / file for file in files]
        if not paths:
            return pl.LazyFrame(schema=schema)
        return pl.scan_parquet(paths, schema=schema, missing_columns="insert", extra_columns="ignore", glob=False)

    def sweep(self, listed: Iterable[str], *, older_than_s: float = GRACE_S) -> Swept:
        """Remove files that nobody lists, once they have been seen so for `older_than_s`.

        A file may be unlisted because it is on its way, because a killed attempt left it, or because a newer generation
        took its place a moment ago and somebody reads it still: its own age tells none of these. So what is found is
        noted, and goes by the note's age; listed again, it is forgotten.
        In:     listed, taken after this was called or just before; pinned files among them.
        """
        keep, now, notes = set(listed), time.time(), self._notes()
        found: dict[Path, int] = {}
        for path in below(self.root):
            if ".parquet" in path.name:
                with suppress(FileNotFoundError):  # finished or gone since it was seen
                    found[path] = path.stat().st_size
        unlisted = {path: str(path.relative_to(self.root)) for path in found}
        unlisted = {path: name for path, name in unlisted.items() if name not in keep}
        since = {name: notes.get(name, now) for name in unlisted.values()}
        removed = [path for path, name in unlisted.items() if now - since[name] > older_than_s]
        for path in removed:
            path.unlink(missing_ok=True)
            del since[unlisted[path]]
        self._note(since)
        return Swept(
            files=len(removed),
            bytes=sum(found[path] for path in removed),
            waiting=len(since),
            waiting_bytes=sum(found[path] for path, name in unlisted.items() if name in since),
            listed=len(found) - len(unlisted),
        )

    def _notes(self) -> dict[str, float]:
        """Unlisted file -> when it was first seen so. Lost or torn notes only give every file its grace anew."""
        try:
            return dict(json.loads((self.root / NOTES).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return {}

    def _note(self, since: dict[str, float]) -> None:
        if not self.root.is_dir():
            return
        write_whole(self.root / NOTES, json.dumps(since))


@contextmanager
def written_in(folder: Path) -> Iterator[None]:
    """Raises: StoreUnavailable for what the system says against writing in the folder.

    Polars calls a disk that fills while it writes a ComputeError, as it does much else: only its words tell.
    """
    try:
        yield
    except (OSError, pl.exceptions.ComputeError) as error:
        said = re.search(r"\(os error (\d+)\)", str(error))
        number = getattr(error, "errno", None) or (int(said[1]) if said else None)
        if number is None and not isinstance(error, OSError):
            raise
        why = os.strerror(number) if number else str(error)
        raise StoreUnavailable(f"the lake cannot be written in {folder}: {why}") from error


def below(folder: Path) -> Iterator[Path]:
    """The files below a folder. What goes while they are walked, as a validation's frames do, is left out."""
    for at, _, names in os.walk(folder):
        yield from (Path(at, name) for name in names)


@contextmanager
def busy(path: Path) -> Iterator[None]:
    """Hold a file's lock (flock) while it is written: whoever finds it without one knows that its writer was killed."""
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


def _is_busy(path: Path) -> bool:
    try:
        with path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, FileNotFoundError):
        return True
    return False


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
