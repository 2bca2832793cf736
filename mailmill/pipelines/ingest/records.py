"""Records that are not one line each, or not written as RFC 4180 says: read one by one, with Python's csv."""

from __future__ import annotations

import csv
import re
from array import array
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cached_property

import polars as pl

from mailmill.pipelines.ingest.decoding import Lines
from mailmill.pipelines.ingest.line_ends import MAX_LINE
from mailmill.pipelines.ingest.rejects import MAX_VALUE

MAX_FIELD = 1_000_000  # characters
LONG = 20  # lines: what spans more may be one text, or rows between two stray quotes
LOOK_ON = 32 * 2**20  # bytes of a record that are held to find the quote that closes it: a longer one is broken
NEAR = 16  # lines in which most records end
_INSIDE = re.compile('(?:[^"]++|"")*+')  # a quoted field, up to the quote that closes it


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """How many lines a record takes, and its cells or why it has none (a reason code)."""

    lines: int
    cells: list[str] = field(default_factory=list)
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Untangled:
    """What became of tangled lines. Indices are those of the lines looked at."""

    records: list[tuple[int, Record]] = field(default_factory=list)  # index of the first line; in order
    open_at: int | None = None  # a record that goes on behind the last line begins here; nothing after it was read


def untangle(lines: Lines, tangled: pl.Series, delimiter: str, width: int) -> Untangled:
    """Read the records that begin at tangled lines, and are not of one with a tangled line before.

    What a quoted field spans belongs to one record, whole or rejected: no line inside of it is ever a row. Only a
    quote that never closes gives back the lines after its own, so that it does not swallow the rows that follow; that
    the next quote opens a field shows it, too.
    """
    done: list[tuple[int, Record]] = []
    if tangled.is_empty():
        return Untangled()
    reader = Records(lines, delimiter)
    resume = -1
    for index in tangled:
        if index < resume:
            continue
        found = reader.at(index)
        if found is None:
            return Untangled(records=done, open_at=index)
        if found.reason is None and len(found.cells) != width:
            found = Record(lines=found.lines, reason="ragged_line")
        done.append((index, found))
        resume = index + found.lines
    return Untangled(records=done)


class Records:
    """The records of lines. The time that all take is linear in the lines, however many quotes never close."""

    def __init__(self, lines: Lines, delimiter: str) -> None:
        self._lines, self._delimiter = lines, delimiter
        csv.field_size_limit(MAX_FIELD)
        self._damaged = lines.undecodable if lines.undecodable.any() else None
        cut = lines.text.str.len_bytes() >= MAX_LINE  # the ends of these may be missing
        self._cut = cut if cut.any() else None

    @cached_property
    def _odd(self) -> array[int]:  # asked once a record: polars is slow at that
        return array("I", _odd(self._lines.text).to_numpy().tobytes())

    def at(self, start: int) -> Record | None:
        """The record that begins at a line; None where more lines than these are needed to tell."""
        near = min(start + NEAR, len(self._lines.text))
        if (found := self._read(start, range(start, near))) is not None:  # nearly all are whole and short
            return found
        index, opened, quoted = start, start, False
        while True:
            end, here = self._scanned(self._lines.text[index], quoted=quoted)
            if end == "closed" or _any(self._cut, index, 1):
                return self._closed(start, index + 1 - start)
            opened, quoted = index if here else opened, True  # of a broken one: the last line that is not given back
            if end == "broken":
                return self._broken(start, opened + 1 - start)
            following = bisect_right(self._odd, index)
            if following == len(self._odd):
                return self._broken(start, opened + 1 - start) if self._far(start) else None
            index = self._odd[following]

    def _scanned(self, line: str, *, quoted: bool) -> tuple[str, bool]:
        """How a line leaves its record: closed, open in a quoted field, or broken by text behind a closing quote; and
        whether the field that is so begins on this line, or was closed on it. In: quoted, whether the line begins in an
        open field."""
        at, here = 0, False
        while True:
            if not quoted and not line.startswith('"', at):
                at = line.find(self._delimiter, at) + 1
                if at == 0:
                    return "closed", here
                continue
            at, here = (at, here) if quoted else (at + 1, True)
            at = _INSIDE.match(line, at).end() + 1  # type: ignore[union-attr]  # it matches no text, too
            if at > len(line):
                return "open", here
            if at == len(line):
                return "closed", here
            if line[at] != self._delimiter:
                # a quote that opens a field elsewhere closes none, but shows that the one before it never did
                return "broken", here or not self._opens(line, at - 1)
            at, quoted = at + 1, False

    def _opens(self, line: str, quote: int) -> bool:
        before, after = line[:quote].rstrip('"'), line[quote + 1 :].lstrip(" ")
        return (
            (not before or before.endswith(self._delimiter)) and bool(after) and not after.startswith(self._delimiter)
        )

    def _closed(self, start: int, count: int) -> Record:
        found = self._read(start, range(start, start + count))
        return found or Record(lines=count, reason=self._flawed(start, count) or "field_too_long")

    def _read(self, start: int, lines: range) -> Record | None:
        """The record where these lines hold it whole, with no field that is too long."""
        text = self._lines.text
        reader = csv.reader((text[index] + "\n" for index in lines), delimiter=self._delimiter, strict=True)
        try:
            cells = next(reader)
        except (csv.Error, StopIteration):
            return None
        count = reader.line_num
        if reason := self._flawed(start, count):
            return Record(lines=count, reason=reason)
        if any("\x00" in cell for cell in cells):
            return Record(lines=count, reason="nul_character")
        if count > LONG and any(len(cell.encode()) > MAX_VALUE for cell in cells):  # of which each line is to count
            return Record(lines=count, reason="value_too_long")
        return Record(lines=count, cells=cells)

    def _broken(self, start: int, count: int) -> Record:
        return Record(lines=count, reason=self._flawed(start, count) or "broken_quote")

    def _flawed(self, start: int, count: int) -> str | None:
        if _any(self._cut, start, count):
            return "line_too_long"
        return "bad_encoding" if _any(self._damaged, start, count) else None

    def _far(self, start: int) -> bool:
        """Whether no more lines are to be looked at for the end of a record."""
        held = self._lines.text[start:]
        return self._lines.last or int(held.str.len_bytes().sum() or 0) + len(held) >= LOOK_ON


def _any(flags: pl.Series | None, start: int, count: int) -> bool:
    return flags is not None and bool(flags[start : start + count].any())


def _odd(text: pl.Series) -> pl.Series:
    """Indices of the lines that can close a quoted field, or break it: the quotes of all others are in pairs."""
    frame = pl.DataFrame({"text": text}).with_row_index("index")
    quoted = frame.filter(pl.col("text").str.contains('"', literal=True))
    pairless = pl.col("text").str.replace_all('""', "", literal=True)
    return quoted.filter(pairless.str.contains('"', literal=True))["index"].cast(pl.UInt32)
