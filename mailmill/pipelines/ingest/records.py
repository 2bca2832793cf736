"""Records that are not one line each, or not written as RFC 4180 says: read one by one, with Python's csv."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field

import polars as pl

from mailmill.pipelines.ingest.decoding import MAX_LINE, Lines

MAX_FIELD = 1_000_000  # characters
MAX_RECORD = 32_000_000  # the same; so far the end of a quoted field is looked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Untangled:
    """What became of tangled lines. Indices are those of the lines looked at."""

    whole: list[tuple[int, list[str]]] = field(default_factory=list)  # index, cells
    broken: list[tuple[int, int, str]] = field(default_factory=list)  # index, how many lines, reason code
    covered: list[int] = field(default_factory=list)  # every line of the above
    open_at: int | None = None  # a record that goes on behind the last line begins here; nothing after it was read


def untangle(lines: Lines, tangled: pl.Series, delimiter: str, width: int) -> Untangled:
    """Read the records that begin at tangled lines.

    One whose quotes are whole is a row or refused as one: its lines are no rows, whatever is wrong with it. A quote
    that never closes gives back the lines after its first: it must not swallow the rows that follow it.
    """
    done = Untangled()
    resume = -1
    for index in tangled:
        if index < resume:
            continue
        found = record(lines, index, delimiter)
        if found is None:
            return Untangled(whole=done.whole, broken=done.broken, covered=done.covered, open_at=index)
        cells, taken = found
        if isinstance(cells, str) or len(cells) != width:
            done.broken.append((index, taken, cells if isinstance(cells, str) else "ragged_line"))
        else:
            done.whole.append((index, cells))
        resume = index + taken
        done.covered.extend(range(index, resume))
    return done


def record(lines: Lines, start: int, delimiter: str) -> tuple[list[str] | str, int] | None:
    """The cells of the record that begins at a line, or the reason why it is none, and how many lines it takes; or
    None where more lines than these are needed to tell."""
    csv.field_size_limit(MAX_RECORD)
    reach = _Reach(lines, start)
    reader = csv.reader(reach, delimiter=delimiter, strict=True)
    try:
        cells = next(reader)
    except (csv.Error, StopIteration):
        return None if reach.exhausted and not lines.last else ("broken_quote", 1)
    if reach.cut:
        return "line_too_long", reader.line_num
    return "field_too_long" if max(map(len, cells), default=0) > MAX_FIELD else cells, reader.line_num


class _Reach:
    """The lines from `start`, as far as one record may reach."""

    def __init__(self, lines: Lines, start: int) -> None:
        self._lines, self._start = lines, start
        self.cut = False  # one of them may lack its end
        self.exhausted = False  # there were no more lines, though a record might reach further

    def __iter__(self) -> Iterator[str]:
        taken, end = 0, len(self._lines.text)
        for index in range(self._start, end):
            line = self._lines.text[index]
            self.cut |= len(line) >= MAX_LINE // 4 and len(line.encode()) >= MAX_LINE
            yield line if self._lines.last and index + 1 == end else line + "\n"
            taken += len(line)
            if taken > MAX_RECORD:
                return
        self.exhausted = True
