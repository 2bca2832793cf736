"""Files of a source's folder without a person: their lines are taken out, mentions in the lines of others masked."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import os
import re
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from mailmill.errors import Misconfigured
from mailmill.io.sources.files import CsvFiles, batch_key
from mailmill.pipelines.configuration.specs import SourceSpec
from mailmill.pipelines.ingest import erasure as persons
from mailmill.pipelines.ingest.csv import read_csv
from mailmill.pipelines.ingest.erasure import Person
from mailmill.pipelines.ingest.erasure_raw import raw_rows

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewritten:
    """A file that was written anew. The keys are those of the batch it is."""

    path: Path
    old_key: str
    new_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """A file that holds the person and cannot be rewritten here."""

    path: Path
    why: str


def erase(spec: SourceSpec, project: Path, who: Person) -> tuple[int, list[Rewritten], list[Holding]]:
    """Go through a source's folder. Out: files looked at, those rewritten, and those a person has to see to.

    Raises: OSError when the folder cannot be written.
    """
    folder = project / spec.folder if spec.folder else None
    if spec.type != "csv" or folder is None or not folder.is_dir():
        return 0, [], []
    paths = CsvFiles(folder=folder).dropped()
    rewritten: list[Rewritten] = []
    holding: list[Holding] = []
    for path in paths:
        done = _erase(path, spec, who)
        if isinstance(done, Rewritten):
            rewritten.append(done)
        elif done is not None:
            holding.append(done)
    return len(paths), rewritten, holding


def _erase(path: Path, spec: SourceSpec, who: Person) -> Rewritten | Holding | None:
    content = path.read_bytes()
    if zipfile.is_zipfile(path):  # of spreadsheets as well: their texts stand in XML
        return (
            Holding(path=path, why="is an archive; take the person out of it, or remove it")
            if _packed(path, who)
            else None
        )
    packed = content.startswith(b"\x1f\x8b")
    try:
        content = gzip.decompress(content) if packed else content
        new = _changed(content, spec, who)
    except (Misconfigured, OSError, EOFError, ValueError, zlib.error):
        held = _mentioned([content], who)
        return Holding(path=path, why="cannot be read as a table; take the line out of it") if held else None
    if new == content:
        return None
    if new is None:
        return Holding(path=path, why="would not be the same table without the line; take it out by hand")
    _replace(path, gzip.compress(new) if packed else new)
    keys = [batch_key(hashlib.sha256(text), spec.encoding, spec.delimiter) for text in (content, new)]
    return Rewritten(path=path, old_key=keys[0], new_key=keys[1])


def _packed(path: Path, who: Person) -> bool:
    with zipfile.ZipFile(path) as archive:
        return _mentioned((archive.read(info) for info in archive.infolist() if not info.is_dir()), who)


def _mentioned(contents: Iterable[bytes], who: Person) -> bool:
    for content in contents:
        texts = {content.decode(encoding, "replace") for encoding in ("utf-8", "latin-1")}
        frame = pl.DataFrame({"text": sorted(texts)}, schema={"text": pl.String})
        if frame.select(persons.mentions(who, frame.schema).any()).item():
            return True
    return False


def _changed(content: bytes, spec: SourceSpec, who: Person) -> bytes | None:
    """The text without the person: itself when it does not hold them, None when it would be another table then."""
    table = read_csv(content, encoding=spec.encoding, delimiter=spec.delimiter)
    rows = table.frame
    own = set(raw_rows(who, rows.lazy(), spec.columns))
    encoding, text = _decoded(content, table.encoding)
    lines = pl.DataFrame({"text": _LINE.findall(text)}, schema={"text": pl.String})
    mentioned = lines.select(persons.mentions(who, lines.schema)).to_series()
    if not own and not mentioned.any():
        return content
    starts = rows["line"].to_list()
    gone: set[int] = set()
    for line, following in zip(starts, [*starts[1:], lines.height + 1], strict=True):
        if line in own:
            gone.update(range(line, following))
    clean = lines.select(persons.masked(who, lines.schema))["text"]
    new = "".join(line for number, line in enumerate(clean, 1) if number not in gone).encode(encoding)
    rest = rows.filter(~pl.col("line").is_in(list(own)))
    return new if _same(rest, table.columns, new, spec) else None


def _decoded(content: bytes, encoding: str) -> tuple[str, str]:
    """The text, and the encoding that gives back the same bytes; of a file with broken lines that is Latin-1."""
    big = content.startswith(codecs.BOM_UTF16_BE)
    exact = {"utf-8-sig": "utf-8", "utf-16": "utf-16-be" if big else "utf-16-le"}.get(encoding, encoding)
    try:
        return exact, content.decode(exact)
    except UnicodeDecodeError:
        return "latin-1", content.decode("latin-1")


def _same(rest: pl.DataFrame, columns: Sequence[str], content: bytes, spec: SourceSpec) -> bool:
    """Whether the rest was left as it was, row by row."""
    table = read_csv(content, encoding=spec.encoding, delimiter=spec.delimiter)
    rows = table.frame
    if rest.is_empty():
        return rows.is_empty()
    same_problems = rest["problem"].equals(rows["problem"], null_equal=True)
    return tuple(table.columns) == tuple(columns) and rest.height == rows.height and same_problems


def _replace(path: Path, content: bytes) -> None:
    """Under a name that no import reads, then in the file's place, with its times: it is no newer than it was."""
    about = path.stat()
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.utime(temporary, ns=(about.st_atime_ns, about.st_mtime_ns))
    temporary.chmod(about.st_mode & 0o777)
    temporary.replace(path)
