"""Frames laid aside on disk while a batch is validated."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from mailmill.errors import StoreUnavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSpool:
    """Parquet files in a folder of their own, which is made when the first is written."""

    folder: Path
    _files: dict[int, list[Path]] = field(default_factory=dict)

    def put(self, bucket: int, frame: pl.DataFrame) -> None:
        files = self._files.setdefault(bucket, [])
        path = self.folder / f"{bucket}-{len(files)}.parquet"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            frame.write_parquet(path, compression="lz4", statistics=False)
        except OSError as error:
            raise StoreUnavailable(f"the lake cannot be written in {self.folder}: {error.strerror}") from error
        files.append(path)

    def take(self, bucket: int) -> Iterator[pl.DataFrame]:
        for path in self._files.pop(bucket, []):
            yield pl.read_parquet(path, memory_map=False, glob=False)
            path.unlink()


@contextmanager
def spool(folder: Path) -> Iterator[DiskSpool]:
    """Room below `folder`, empty before and gone afterwards; what a killed process left there, `Lake.sweep` removes."""
    one = DiskSpool(folder=folder / f".spool-{uuid.uuid4().hex}")
    try:
        yield one
    finally:
        shutil.rmtree(one.folder, ignore_errors=True)
