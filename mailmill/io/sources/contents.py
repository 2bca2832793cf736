"""What a file holds: itself, what a .gz packs, each text file of a .zip, or a workbook. By content, not by name."""

from __future__ import annotations

import gzip
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mailmill.errors import Misconfigured
from mailmill.pipelines.ingest.formats import FILES, refuse_office_files

BLOCK = 4 * 2**20  # bytes read at once
MAX_BYTES = 2 * 2**30  # of one file, unpacked: what is larger is a bomb, or should come in pieces
MAX_WORKBOOK = 512 * 2**20  # the same of an XLSX, which is held in memory
BROKEN = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, struct.error, RuntimeError, ValueError)
_TEXTS = (".csv", ".tsv", ".txt", ".tab")


@dataclass(frozen=True, slots=True)
class Blocks:
    """A text in blocks of BLOCK bytes (the last may be shorter); each walk begins anew.

    Raises: Misconfigured when it is larger than MAX_BYTES; one of BROKEN when it cannot be read or unpacked.
    """

    path: Path
    packed: str = ""  # 'gzip', or the name of a .zip's member after 'zip:'
    archive: zipfile.ZipFile | None = None  # of that member, open or not: to open it takes as long as it has members

    def __iter__(self) -> Iterator[bytes]:
        read = 0
        for block in self._walk():
            read += len(block)
            if read > MAX_BYTES:
                raise too_large(MAX_BYTES)
            yield block

    def _walk(self) -> Iterator[bytes]:
        if self.archive is not None and self.archive.fp is not None:
            with self.archive.open(self.packed.removeprefix("zip:")) as member:
                yield from _blocks(member)
            return
        with self.path.open("rb") as file:
            yield from _walk(file, self.packed)


def _walk(file: IO[bytes], packed: str) -> Iterator[bytes]:
    if packed == "gzip":
        with gzip.GzipFile(fileobj=file) as inner:
            yield from _blocks(inner)
    elif packed:
        with zipfile.ZipFile(file) as archive, archive.open(packed.removeprefix("zip:")) as member:
            yield from _blocks(member)
    else:
        yield from _blocks(file)


def _blocks(file: IO[bytes] | gzip.GzipFile) -> Iterator[bytes]:
    while block := file.read(BLOCK):
        yield block


def too_large(limit: int) -> Misconfigured:
    size = f"{limit >> 30} GiB" if limit >> 30 else f"{limit >> 20} MiB"
    return Misconfigured(f"the file is larger than {size} unpacked", remedy="Split it.")


@dataclass(frozen=True, slots=True)
class Workbook:
    """An XLSX file."""

    path: Path


def shown(name: str | Path) -> str:
    """The name of a file as text; its bytes that are not UTF-8, as another system may have left them, as \\xe9."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def contents(path: Path) -> Iterator[tuple[str, Blocks | Workbook | None]]:
    """(origin, text) of each text that a file holds, or the workbook that it is; None for a table in an archive that is
    read only outside of it.

    Raises: Misconfigured when it is an archive that holds none, or too much; one of BROKEN.
    """
    with path.open("rb") as file:
        head = file.read(4)
        if head[:2] == b"\x1f\x8b":
            yield shown(path.name), Blocks(path, "gzip")
        elif head == b"PK\x03\x04":
            with zipfile.ZipFile(path) as archive:  # a member whose walk has begun can be read to its end after this
                members = _members(archive)
                if members is None:
                    yield shown(path.name), Workbook(path)
                    return
                for name in members:
                    text = Blocks(path, f"zip:{name}", archive) if is_text(name) else None
                    yield f"{shown(path.name)}/{name}", text
        elif path.stat().st_size > MAX_BYTES:
            raise too_large(MAX_BYTES)
        else:
            yield shown(path.name), Blocks(path)


def _members(archive: zipfile.ZipFile) -> list[str] | None:
    """The text files of an archive, which together are not larger than MAX_BYTES, and what else a folder would be read
    for, in its order; None of a workbook."""
    refuse_office_files(archive.namelist())
    book = is_workbook(archive)
    members = [info for info in archive.infolist() if not info.is_dir() and (book or is_text(info.filename))]
    if sum(info.file_size for info in members) > (MAX_WORKBOOK if book else MAX_BYTES):
        raise too_large(MAX_WORKBOOK if book else MAX_BYTES)
    if book:
        return None
    if len({info.filename for info in members}) < len(members):
        raise Misconfigured("two files of the archive have the same name", remedy="Pack it anew.")
    if not members:
        raise Misconfigured("the archive holds no .csv, .tsv or .txt file (a spreadsheet? export it as CSV)")
    return [name for name in archive.namelist() if is_text(name) or _is_table(name)]


def is_workbook(archive: zipfile.ZipFile) -> bool:
    return {"[Content_Types].xml", "xl/workbook.xml"} <= set(archive.namelist())


def _is_table(name: str) -> bool:
    return name.lower().rpartition(".")[2] in FILES and "/." not in f"/{name}" and not name.startswith("__MACOSX/")


def is_text(name: str) -> bool:
    return name.lower().endswith(_TEXTS) and not name.startswith("__MACOSX/")
