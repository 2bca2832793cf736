"""A stream of frames -> files of the lake."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import polars as pl

from mailmill.io.lake import Lake, LakeFile

FILE_ROWS = 200_000  # smaller frames are put together to files of about so many rows


class LakeWriter:
    """Writes in a thread of its own, so that whoever makes the frames goes on. Nobody sees the files before the
    manifest lists them.

    Raises: StoreUnavailable when the disk is full or the folder cannot be written.
    """

    def __init__(self, lake: Lake, *, tenant_id: int, dataset: str) -> None:
        self._lake, self._tenant_id, self._dataset = lake, tenant_id, dataset
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._writing: Future[None] | None = None
        self._held: list[pl.DataFrame] = []
        self.files: list[LakeFile] = []
        self.rows = 0

    def add(self, frame: pl.DataFrame) -> None:
        """In: any columns; those that other frames of a file have and this one lacks are null. A frame without rows
        makes a file where there is no other."""
        self.rows += frame.height
        self._held.append(frame)
        if sum(held.height for held in self._held) >= FILE_ROWS:
            self._flush()

    def _flush(self) -> None:
        frames, self._held = self._held, []
        if self._writing is not None:
            self._writing.result()  # no more than one waits: memory is bounded
        self._writing = self._thread.submit(self._write, frames)

    def _write(self, frames: list[pl.DataFrame]) -> None:
        if not frames:
            return
        filled = [frame for frame in frames if frame.height] or frames[:1]
        whole = filled[0] if len(filled) == 1 else pl.concat(filled, how="diagonal")
        self.files.append(self._lake.write(whole, tenant_id=self._tenant_id, dataset=self._dataset))

    def __enter__(self) -> LakeWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None and (self._writing is None or any(frame.height for frame in self._held)):
                self._flush()
            if self._writing is not None:
                self._writing.result()
        finally:
            self._thread.shutdown()
