"""CSV files as a source: those a person names, or every file of the source's folder.

Files are left where they are. What was read before is recognised by its content, under whatever name it comes.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import time
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mailmill.errors import Misconfigured
from mailmill.pipelines.ingest.csv import read_csv
from mailmill.pipelines.ingest.formats import refuse_office_files, refuse_other_formats
from mailmill.pipelines.ingest.ports import Cursor, RawBatch, Refusal
from mailmill.pipelines.ingest.raw import RawTable

MAX_BYTES = 2 * 2**30  # of one file, unpacked
_SUFFIXES = (".csv", ".tsv", ".txt", ".tab", ".gz", ".zip")


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvFiles:
    """The files of one import. `settle_s`: a file in the folder that changed less long ago may still be growing."""

    paths: Sequence[Path] = ()
    folder: Path | None = None
    encoding: str | None = None
    delimiter: str | None = None
    settle_s: float = 1.0

    def batches(self, cursor: Cursor | None) -> Iterator[RawBatch | Refusal]:
        """One batch a file (of a .zip: a member); a file that cannot be read is refused and the others go on.

        Raises: Misconfigured when a named file or the folder is not there.
        """
        for path in self.paths:
            if path.is_dir():
                raise Misconfigured(
                    "this is a folder, not a file",
                    place=str(path),
                    remedy="Name the files in it, or make it the `folder` of the source.",
                )
            if not path.is_file():
                raise Misconfigured("there is no such file", place=str(path))
        for path in [*self.paths, *self._dropped()]:
            yield from self._of(path)

    def _dropped(self) -> list[Path]:
        if self.folder is None:
            return []
        if not self.folder.is_dir():
            raise Misconfigured(
                "the folder of the source is not there", place=str(self.folder), remedy="Make it, or correct `folder`."
            )
        files = [path for path in sorted(self.folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
        return [path for path in files if path.suffix.lower() in _SUFFIXES]

    def _of(self, path: Path) -> Iterator[RawBatch | Refusal]:
        try:
            content, changed_at = self._settled(path)
            for name, text in _unpacked(path.name, content):
                yield self._batch(name, text, changed_at)
        except Misconfigured as error:
            yield Refusal(origin=path.name, message=str(error))
        except (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
            yield Refusal(origin=path.name, message=f"the file cannot be read: {type(error).__name__}: {error}")

    def _settled(self, path: Path) -> tuple[bytes, datetime]:
        """The content once the file has stopped changing, and when it changed last."""
        for _ in range(10):
            before = path.stat()
            age = time.time() - before.st_mtime
            if self.folder is not None and age < self.settle_s:
                time.sleep(self.settle_s - max(age, 0.0))
                continue
            if before.st_size > MAX_BYTES:
                raise _too_large()
            content, after = path.read_bytes(), path.stat()
            if (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns):
                now = datetime.now(UTC)
                return content, min(datetime.fromtimestamp(after.st_mtime, UTC), now)
        raise Misconfigured("the file is still being written", remedy="It is read at the next import.")

    def _batch(self, name: str, content: bytes, changed_at: datetime) -> RawBatch | Refusal:
        try:
            refuse_other_formats(content, self.encoding)
            table = read_csv(content, encoding=self.encoding, delimiter=self.delimiter)
        except Misconfigured as error:
            return Refusal(origin=name, message=str(error))
        digest = hashlib.sha256(content)
        for setting in (self.encoding, self.delimiter):  # read otherwise, the same bytes are other rows
            digest.update(f"\x00{setting}".encode() if setting else b"")
        return RawBatch(key=digest.hexdigest(), origin=name, seen_at=changed_at, table=table, notes=_notes(table))


def _notes(table: RawTable) -> tuple[str, ...]:
    """No rows are an answer, and one that a person should not overlook."""
    if table.frame.height:
        return ()
    return ("the file has a header and no rows",) if table.columns else ("the file is empty",)


def _too_large() -> Misconfigured:
    return Misconfigured(f"the file is larger than {MAX_BYTES >> 30} GiB unpacked", remedy="Split it.")


def _unpacked(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
    """(origin, bytes) of a file: itself, what a .gz holds, or each text file of a .zip. By content, not by name."""
    if content.startswith(b"\x1f\x8b"):
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            text = file.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise _too_large()
        yield name, text
    elif content.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            refuse_office_files(archive.namelist())
            members = [info for info in archive.infolist() if not info.is_dir() and _is_text(info.filename)]
            if sum(info.file_size for info in members) > MAX_BYTES:
                raise _too_large()
            if not members:
                raise Misconfigured("the archive holds no .csv, .tsv or .txt file (a spreadsheet? export it as CSV)")
            for info in members:
                yield f"{name}/{info.filename}", archive.read(info)
    else:
        yield name, content


def _is_text(name: str) -> bool:
    return name.lower().endswith((".csv", ".tsv", ".txt", ".tab")) and not name.startswith("__MACOSX/")
