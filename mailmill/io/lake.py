"""The lake: immutable Parquet files in a folder. A file is visible only once the manifest (PostgreSQL) lists it."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from mailmill.errors import StoreUnavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class LakeFile:
    """A finished file that nobody sees yet. `file` is the path below the lake's root."""

    file: str
    rows: int
    bytes: int


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
            folder.mkdir(parents=True, exist_ok=True)
            if isinstance(frame, pl.LazyFrame):
                frame.sink_parquet(temporary, compression="zstd", compression_level=1)
            else:
                frame.write_parquet(temporary, compression="zstd", compression_level=1)
            _fsync(temporary)
            temporary.rename(final)
            _fsync(folder)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise StoreUnavailable(f"the lake cannot be written in {folder}: {error.strerror}") from error
        rows = pl.scan_parquet(final, glob=False).select(pl.len()).collect().item()
        return LakeFile(file=str(final.relative_to(self.root)), rows=rows, bytes=final.stat().st_size)

    def path(self, file: str) -> Path:
        return self.root / file

    def scan(self, files: Iterable[str], schema: pl.Schema) -> pl.LazyFrame:
        """These files as one frame; columns a file lacks are null, no file gives an empty frame of `schema`."""
        paths = [self.root / file for file in files]
        if not paths:
            return pl.LazyFrame(schema=schema)
        return pl.scan_parquet(paths, schema=schema, missing_columns="insert", extra_columns="ignore", glob=False)

    def sweep(self, listed: Iterable[str], *, older_than_s: float = 3600.0) -> int:
        """Remove files that no manifest row names and that are too old to be still on their way. Out: how many."""
        keep, limit, removed = {str(self.root / file) for file in listed}, time.time() - older_than_s, 0
        for path in self.root.rglob("*.parquet*"):
            if str(path) not in keep and path.stat().st_mtime < limit:
                path.unlink(missing_ok=True)
                removed += 1
        return removed


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
