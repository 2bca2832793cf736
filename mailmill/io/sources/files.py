"""Files as a source, CSV and XLSX: those a person names, or every file of the source's folder.

Files are left where they are. What was read before is recognised by its content, under whatever name it comes.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from mailmill.errors import Misconfigured, at
from mailmill.io.sources.contents import BROKEN, Blocks, Workbook, contents, shown
from mailmill.pipelines.ingest.csv import read_csv
from mailmill.pipelines.ingest.decoding import Survey
from mailmill.pipelines.ingest.formats import FILES, refuse_other_formats
from mailmill.pipelines.ingest.ports import Cursor, RawBatch, Refusal
from mailmill.pipelines.ingest.workbooks import read_workbook


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvFiles:
    """The files of one import. `settle_s`: a file in the folder that changed less long ago may still be growing."""

    paths: Sequence[Path] = ()
    folder: Path | None = None
    encoding: str | None = None
    delimiter: str | None = None
    sheet: str | None = None
    settle_s: float = 1.0

    def batches(self, cursor: Cursor | None) -> Iterator[RawBatch | Refusal]:
        """One batch a file (of a .zip: a member); a file that cannot be read is refused and the others go on.

        Raises: Misconfigured when a named file or the folder is not there, or cannot be looked at.
        """
        for path in self.paths:
            with _looking(path):
                _refuse_what_is_no_file(path)
        with _looking(self.folder):
            dropped = self.dropped()
        for path in [*self.paths, *dropped]:
            with at(shown(path.name)):
                yield from self._of(path)

    def dropped(self) -> list[Path]:
        """The files of the folder that are read, or refused, in the order of their names."""
        if self.folder is None:
            return []
        if not self.folder.is_dir():
            raise Misconfigured(
                "the folder of the source is not there", place=str(self.folder), remedy="Make it, or correct `folder`."
            )
        files = [path for path in sorted(self.folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
        return [path for path in files if path.suffix.lower()[1:] in FILES]

    def _of(self, path: Path) -> Iterator[RawBatch | Refusal]:
        try:
            changed_at = self._settled(path)
            for name, held in contents(path):
                if held is None:
                    yield Refusal(origin=name, message="in an archive only text files are read; unpack it")
                elif isinstance(held, Workbook):
                    yield self._workbook(name, held.path.read_bytes(), changed_at)
                else:
                    yield self._text(name, held, changed_at)
        except Misconfigured as error:
            yield Refusal(origin=shown(path.name), message=str(error))
        except BROKEN as error:
            yield _broken(shown(path.name), error)

    def _settled(self, path: Path) -> datetime:
        """When the file changed last, once it has stopped changing."""
        for _ in range(10):
            age = time.time() - path.stat().st_mtime
            if self.folder is None or not 0 <= age < self.settle_s:
                return datetime.fromtimestamp(max(0.0, min(path.stat().st_mtime, time.time())), UTC)
            time.sleep(self.settle_s - age)
        raise Misconfigured("the file is still being written", remedy="It is read at the next import.")

    def _text(self, name: str, blocks: Blocks, changed_at: datetime) -> RawBatch | Refusal:
        """A file is read twice: once for its digest and encoding, once for its rows, as whoever keeps them goes on."""
        try:
            digest, survey = hashlib.sha256(), Survey()
            for number, block in enumerate(blocks):
                if not number:
                    refuse_other_formats(block, self.encoding)
                digest.update(block)
                survey.update(block)
            if self.encoding is None:
                survey.refuse_strange()
            again = _Unchanged(blocks, digest.digest())
            table = read_csv(again, encoding=self.encoding or survey.encoding(), delimiter=self.delimiter)
        except Misconfigured as error:
            return Refusal(origin=name, message=str(error))
        except BROKEN as error:  # one member of an archive may be
            return _broken(name, error)
        key = batch_key(digest, self.encoding, self.delimiter)
        return RawBatch(key=key, origin=name, seen_at=changed_at, table=table)

    def _workbook(self, name: str, content: bytes, changed_at: datetime) -> RawBatch | Refusal:
        try:
            table = read_workbook(content, self.sheet)
        except Misconfigured as error:
            return Refusal(origin=name, message=str(error))
        others = ", ".join(f"{name!r}{' (hidden)' * (name in table.hidden)}" for name in table.unread)
        read = f"only the sheet {table.sheet!r} is read" if table.sheet else "no sheet is read"
        note = f"of the workbook {read}, not {others}; `sheet` of the source names another"
        key = workbook_key(content, self.sheet)
        return RawBatch(key=key, origin=name, seen_at=changed_at, table=table, notes=(note,) if others else ())


@contextmanager
def _looking(path: Path | None) -> Iterator[None]:
    """A file or folder that may not be looked at, or whose disk is gone."""
    try:
        yield
    except OSError as error:
        raise Misconfigured(f"it cannot be read: {_why(error)}", place=shown(path or "")) from error


def _refuse_what_is_no_file(path: Path) -> None:
    if path.is_dir():
        raise Misconfigured(
            "this is a folder, not a file",
            place=shown(path),
            remedy="Name the files in it, or make it the `folder` of the source.",
        )
    if not path.is_file():
        what = "this is a pipe or a device, not a file" if path.exists() else "there is no such file"
        raise Misconfigured(what, place=shown(path))


def workbook_key(content: bytes, sheet: str | None) -> str:
    """What makes a workbook this batch: another sheet of the same bytes is other rows."""
    return batch_key(hashlib.sha256(content), sheet and sheet.casefold(), None)


def batch_key(content: hashlib._Hash, encoding: str | None, delimiter: str | None) -> str:
    """What makes a content this batch, given its SHA-256; read by other settings, the same bytes are other rows."""
    for setting in (encoding, delimiter):
        content.update(f"\x00{setting}".encode() if setting else b"")
    return content.hexdigest()


@dataclass(frozen=True, slots=True)
class _Unchanged:
    """Blocks that must be those of another time."""

    blocks: Blocks
    digest: bytes

    def __iter__(self) -> Iterator[bytes]:
        now = hashlib.sha256()
        try:
            for block in self.blocks:
                now.update(block)
                yield block
        except BROKEN as error:
            raise _changed() from error
        if now.digest() != self.digest:
            raise _changed()


def _changed() -> Misconfigured:
    return Misconfigured("the file changed while it was read", remedy="It is read again at the next import.")


def _broken(origin: str, error: Exception) -> Refusal:
    return Refusal(origin=origin, message=f"the file cannot be read: {_why(error)}")


def _why(error: Exception) -> str:
    """In words for who has the file, not for who reads Python."""
    if isinstance(error, EOFError):
        return "its end is missing; copy or pack it anew"
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
