"""The search for a person in files: their values, and their bytes."""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from mailmill.pipelines.ingest import erasure as persons
from mailmill.pipelines.ingest.erasure import Person
from mailmill.pipelines.ingest.formats import FILES

# what follows belongs to another address; the ending of a file that is called after the person does not
_GOES_ON = re.compile(rb"(?!\.(?:" + "|".join(FILES).encode() + rb")(?![A-Za-z0-9]))(?:[A-Za-z0-9]|[._-][A-Za-z0-9])")


def holds(path: Path, who: Person) -> bool:
    """Whether a file of the lake mentions the person: its values, and its bytes, where statistics lie open."""
    if bytes_hold(path, who):
        return True
    try:
        frame = pl.scan_parquet(path, glob=False)
        return bool(
            frame.select(persons.mentions(who, frame.collect_schema()).any()).collect(engine="streaming").item()
        )
    except (pl.exceptions.PolarsError, OSError):
        return False  # torn, or no table: its bytes were searched


def bytes_hold(path: Path, who: Person, *, folded: bool = False) -> bool:
    """Whether the bytes mention the person. One that another person's address ends with is no hit.

    In: folded, in whatever case: of texts. What is large and read by its values is searched as the stores spell it.
    """
    with _mapped(path) as content:
        return content is not None and next(_mentions(content, who, folded), None) is not None


def overwrite(path: Path, who: Person) -> None:
    """Put stars over every mention in a text that somebody may be appending to: no byte moves."""
    with _mapped(path, mmap.ACCESS_WRITE) as content:
        for start, end in list(_mentions(content, who, True)) if content is not None else ():
            content[start:end] = b"*" * (end - start)  # type: ignore[index]


@contextmanager
def _mapped(path: Path, access: int = mmap.ACCESS_READ) -> Iterator[mmap.mmap | None]:
    """None of an empty file, and of one that is gone."""
    try:
        file = path.open("rb" if access == mmap.ACCESS_READ else "r+b")
    except FileNotFoundError:
        yield None
        return
    with file:
        if not os.fstat(file.fileno()).st_size:
            yield None
            return
        with mmap.mmap(file.fileno(), 0, access=access) as content:
            yield content


def _mentions(content: mmap.mmap, who: Person, folded: bool) -> Iterator[tuple[int, int]]:
    """Where a mention stands alone."""
    for start, end in _folded(content, who) if folded else _spelled(content, who):
        before, after = content[max(0, start - 1) : start], content[end : end + 8]
        if not (before.isalnum() or before in (b".", b"_", b"+", b"-")) and not _GOES_ON.match(after):
            yield start, end


def _folded(content: mmap.mmap, who: Person) -> Iterator[tuple[int, int]]:
    texts = sorted((text.encode() for text in who.needles), key=len, reverse=True)
    return (found.span() for found in re.finditer(b"|".join(map(re.escape, texts)), content, re.IGNORECASE))


def _spelled(content: mmap.mmap, who: Person) -> Iterator[tuple[int, int]]:
    for text in {text.encode() for text in (*who.needles, *who.spellings, *who.keys)}:
        at = content.find(text)
        while at >= 0:
            yield at, at + len(text)
            at = content.find(text, at + 1)


def store_holds(path: Path, who: Person) -> bool:
    """Whether a DuckDB file holds the person in a table: texts lie compressed there."""
    if path.suffix != ".duckdb":
        return False
    from mailmill.io.warehouse import texts_of

    for frame in texts_of(path):
        if frame.height and frame.select(persons.mentions(who, frame.schema).any()).item():
            return True
    return False
