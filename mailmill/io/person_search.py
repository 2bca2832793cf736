"""The search for a person in files: their values, and their bytes."""

from __future__ import annotations

import mmap
from pathlib import Path

import polars as pl

from mailmill.pipelines.ingest import erasure as persons
from mailmill.pipelines.ingest.erasure import Person


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


def bytes_hold(path: Path, who: Person) -> bool:
    """Whether the bytes mention the person. One that another person's address ends with is no hit."""
    spelled = {text.encode() for text in (*who.needles, *who.spellings, *who.keys)}
    try:
        if not path.stat().st_size:
            return False
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return any(_stands_alone(content, text) for text in spelled)
    except FileNotFoundError:
        return False


def _stands_alone(content: mmap.mmap, text: bytes) -> bool:
    at = content.find(text)
    while at >= 0:
        before, after = content[max(0, at - 1) : at], content[at + len(text) : at + len(text) + 2]
        goes_on = after[:1].isalnum() or (after[:1] in (b".", b"-", b"_") and after[1:].isalnum())
        if not (before.isalnum() or before in (b".", b"_", b"+", b"-")) and not goes_on:
            return True
        at = content.find(text, at + 1)
    return False


def store_holds(path: Path, who: Person) -> bool:
    """Whether a DuckDB file holds the person in a table: texts lie compressed there."""
    if path.suffix != ".duckdb":
        return False
    from mailmill.io.warehouse import texts_of

    for frame in texts_of(path):
        if frame.height and frame.select(persons.mentions(who, frame.schema).any()).item():
            return True
    return False
