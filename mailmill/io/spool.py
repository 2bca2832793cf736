"""Frames laid aside on disk while a batch is validated."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from mailmill.errors import StoreUnavailable
from mailmill.io.lake import BUSY, SPOOL, busy, written_in


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSpool:
    """Parquet files in a folder of their own, which is made when the first is written."""

    folder: Path
    _files: dict[int, list[Path]] = field(default_factory=dict)
    lock: ExitStack = field(default_factory=ExitStack)

    def put(self, bucket: int, frame: pl.DataFrame) -> None:
        files = self._files.setdefault(bucket, [])
        path = self.folder / f"{bucket}-{len(files)}.parquet"
        with written_in(self.folder):
            if not self.folder.is_dir():
                self.folder.mkdir(parents=True)
                self.lock.enter_context(busy(self.folder / BUSY))
            frame.write_parquet(path, compression="lz4", statistics=False)
        files.append(path)

    def take(self, bucket: int) -> Iterator[pl.DataFrame]:
        for path in self._files.pop(bucket, []):
            try:
                frame = pl.read_parquet(path, memory_map=False, glob=False)
            except FileNotFoundError as error:
                raise StoreUnavailable("somebody was forgotten meanwhile; the next run validates it again") from error
            yield frame
            path.unlink(missing_ok=True)


@contextmanager
def spool(folder: Path) -> Iterator[DiskSpool]:
    """Room below `folder`, empty before and gone afterwards; what a killed process left there, `Lake.sweep` removes."""
    one = DiskSpool(folder=folder / f"{SPOOL}{uuid.uuid4().hex}")
    try:
        yield one
    finally:
        one.lock.close()
        shutil.rmtree(one.folder, ignore_errors=True)
