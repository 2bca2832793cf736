"""Bytes of a CSV file -> raw rows with their line numbers. Nothing is half-read: a row is whole, or it says why not.

Lines that are plain, or quoted as RFC 4180 says, go through polars. Only what is tangled (a quoted field with line
breaks, stray quotes) goes through Python's csv, record by record (records.py).
"""

from __future__ import annotations

import csv
import re
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import polars as pl

from mailmill.errors import Misconfigured
from mailmill.pipelines.ingest.ahead import ahead, prefetched
from mailmill.pipelines.ingest.columns import headers, looks_like_data
from mailmill.pipelines.ingest.decoding import Lines, decode, known, surveyed
from mailmill.pipelines.ingest.line_ends import MAX_LINE
from mailmill.pipelines.ingest.raw import CELL, RAW_SCHEMA, RawTable
from mailmill.pipelines.ingest.records import LONG, MAX_FIELD, Record, Records, untangle
from mailmill.pipelines.ingest.rejects import RAW_TEXT_LIMIT

DELIMITERS = (",", ";", "\t", "|")
MAX_COLUMNS = 16_384  # as many as a spreadsheet program has
MAX_NOTES = 5  # of a file


def read_csv(
    content: bytes | Iterable[bytes], *, encoding: str | None = None, delimiter: str | None = None
) -> RawTable:
    """The rows of a file as they came, each with the line it begins at; bad lines with their problem.

    In:     content whole or in blocks; blocks are walked twice where no encoding is named, else once. Encoding and
            delimiter where they are known, else they are found.
    Out:    RawTable, its rows read chunk by chunk; an empty file has no rows and no columns. Blank lines are no rows.
    Raises: Misconfigured when there is no header line to tell several columns apart, no such encoding or delimiter.
    """
    blocks = [content] if isinstance(content, bytes) else content
    encoding = surveyed(blocks) if encoding is None else known(encoding)
    chunks = decode(blocks, encoding)
    line, first = _first_lines(chunks)
    if first is None:
        return RawTable(frames=[], columns=(), encoding=encoding)
    sep, skipped = first.text[0], 0
    if sep.lower().startswith("sep=") and len(sep.strip()) <= 5:  # Excel's own way to name its delimiter
        delimiter, skipped = delimiter or _said(sep[4:5]), 1
    delimiter = delimiter or _delimiter(first.text[skipped : skipped + 50])
    cells, used = _header(first, skipped, delimiter)
    if len(cells) > MAX_COLUMNS:
        raise Misconfigured(f"the first line has {len(cells):,} columns; more than {MAX_COLUMNS:,} are not read")
    if kind := looks_like_data(cells):
        if len(cells) > 1:
            raise Misconfigured(
                "the first line holds contacts, not the names of the columns",
                remedy="Put a header line above them, for example: email,name,phone. Each contact is a line.",
            )
        cells, used = [kind], 0
    reader = _Reader(delimiter=delimiter, names=headers(cells))
    frames = reader.frames(first.since(skipped + used), prefetched(chunks), line + skipped + used)
    return RawTable(
        frames=frames, columns=tuple(reader.names), encoding=encoding, delimiter=delimiter, notes=reader.notes
    )


def _first_lines(chunks: Iterator[Lines]) -> tuple[int, Lines | None]:
    """Number of the first line that is not blank, and the lines from there on; None when all are blank."""
    line = 1
    for lines in chunks:
        filled = (lines.text.str.strip_chars() != "").arg_true()
        if len(filled):
            return line + int(filled[0]), lines.since(int(filled[0]))
        line += len(lines.text)
    return line, None


def _said(character: str) -> str | None:
    """The delimiter that a file names; None where it names none."""
    if character and (character.isalnum() or character == '"' or not character.isascii()):
        raise Misconfigured(f"the first line says that fields end at {character}", remedy="Write , or ; there.")
    return character or None


def _delimiter(sample: pl.Series) -> str:
    """The delimiter that divides the header, and most lines after it, into the same number of fields."""
    bare = sample.str.replace_all(r'"(?:[^"]|"")*"', "")
    scores = []
    for rank, candidate in enumerate(DELIMITERS):
        counts = bare.str.count_matches(candidate, literal=True)
        if len(counts) and counts[0]:
            scores.append(((counts == counts[0]).mean(), counts[0], -rank, candidate))
    return str(max(scores)[3]) if scores else ","


def _header(lines: Lines, start: int, delimiter: str) -> tuple[list[str], int]:
    """The first record's cells and how many lines it takes; names with a stray quote are taken as they stand."""
    if start >= len(lines.text):
        return ["email"], 0
    if lines.text[start : start + 1].str.len_bytes().item() >= MAX_LINE:
        raise Misconfigured("the first line is longer than 16 MiB: this is no table with a line a contact")
    found = Records(lines, delimiter).at(start) or Record(lines=1)
    return found.cells or lines.text[start].replace('"', "").split(delimiter), found.lines


@dataclass(frozen=True, slots=True, kw_only=True)
class _Records:
    """The records of a chunk: each of its lines belongs to one, but for those of a record that goes on behind it."""

    single: pl.DataFrame  # index, text and kind of the lines that are a record each
    line: int  # number of the chunk's first
    taken: int  # lines
    broken: list[tuple[int, str, str]]  # line, reason and text of records that were read one by one
    swallowed: list[pl.DataFrame]  # the same of the lines of one that is LONG
    whole: list[tuple[object, ...]]  # line and cells of such ones


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reader:
    """Reads lines below a header."""

    delimiter: str
    names: Sequence[str]
    notes: list[str] = field(default_factory=list)

    def frames(self, lines: Lines, following: Iterator[Lines], line: int) -> Iterator[pl.DataFrame]:
        """RAW_SCHEMA and a column a name, in the order of the file, a frame a chunk. In: line, number of the first."""
        for frame in ahead(self._rows, self._records(lines, following, line)):
            if frame.height:
                yield frame

    def _records(self, lines: Lines, following: Iterator[Lines], line: int) -> Iterator[_Records]:
        while True:
            records = self._found(lines, line)
            yield records
            if lines.last:
                return
            line += records.taken
            lines = lines.since(records.taken) + next(following)

    def _found(self, lines: Lines, line: int) -> _Records:
        frame = self._classified(lines)
        tangled = frame["index"].filter(frame["kind"] == "tangled")
        done = untangle(lines, tangled, self.delimiter, len(self.names))
        taken = len(lines.text) if done.open_at is None else done.open_at
        if done.records:
            spans = pl.DataFrame([(index, index + one.lines) for index, one in done.records], orient="row")
            covered = spans.select(pl.int_ranges("column_0", "column_1").explode().cast(frame["index"].dtype))
            frame = frame.filter(~pl.col("index").is_in(covered.to_series().implode()))
        if done.open_at is not None:
            frame = frame.filter(pl.col("index") < taken)
        long = [(index, one) for index, one in done.records if one.lines > LONG]
        for index, one in long:
            self._note(line + index, line + index + one.lines - 1)
        swallowed = [_each_line(lines, index, one, line) for index, one in long if one.reason]
        broken = [
            (line + index, one.reason, _text(lines, index, one.lines))
            for index, one in done.records
            if one.reason and one.lines <= LONG
        ]
        whole = [(line + index, *one.cells) for index, one in done.records if not one.reason]
        return _Records(single=frame, line=line, taken=taken, broken=broken, swallowed=swallowed, whole=whole)

    def _note(self, first: int, last: int) -> None:
        if len(self.notes) < MAX_NOTES:
            self.notes.append(f"lines {first:,}-{last:,} are one quoted field; if they are rows, a quote is missing")
        elif len(self.notes) == MAX_NOTES:
            self.notes.append("further quoted fields are as long")

    def _rows(self, records: _Records) -> pl.DataFrame:
        single, number = records.single, pl.col("index").cast(pl.Int64) + records.line
        parts = [self._parsed(single.filter(pl.col("kind") == "good"), number)]
        if single.height > parts[0].height:
            bad = single.filter(~pl.col("kind").is_in(["good", "blank"]))
            parts.append(bad.select(line=number, problem="kind", raw=_cut(pl.col("text"))))
        broken = [pl.DataFrame(records.broken, schema=RAW_SCHEMA, orient="row")] if records.broken else []
        parts += [part.with_columns(raw=_cut(pl.col("raw"))) for part in (*broken, *records.swallowed)]
        if records.whole:
            schema = {"line": pl.Int64(), **{CELL + name: pl.String() for name in self.names}}
            parts.append(pl.DataFrame(records.whole, schema=schema, orient="row"))
        return parts[0] if len(parts) == 1 else pl.concat(parts, how="diagonal").sort("line")

    def _classified(self, lines: Lines) -> pl.DataFrame:
        """index, text and kind of each line: good, blank, tangled, or the reason code of what is wrong with it."""
        sep = re.escape(self.delimiter)
        field = rf'(?:"(?:[^"]|"")*"|[^"{sep}]*)'
        text = pl.col("text")
        frame = pl.DataFrame({"text": lines.text, "bad": lines.undecodable}).with_row_index("index")
        quoted = frame.select(text.str.contains('"', literal=True)).to_series()
        parts = []
        for part, bare, rough in (
            (frame.filter(~quoted), text, pl.lit(False)),
            (frame.filter(quoted), text.str.replace_all(r'"(?:[^"]|"")*"', ""),
             ~text.str.contains(f"^{field}(?:{sep}{field})*$")),
        ):  # fmt: skip
            kind = (
                pl.when(text.str.len_bytes() >= MAX_LINE).then(pl.lit("line_too_long"))  # its end may be missing
                .when(rough).then(pl.lit("tangled"))  # whatever else it is, its record may take more lines
                .when("bad").then(pl.lit("bad_encoding"))
                .when(text.str.contains("\x00", literal=True)).then(pl.lit("nul_character"))
                .when(text.str.len_bytes() > MAX_FIELD).then(pl.lit("tangled"))  # a field may be too long
                .when(text.str.contains(rf"^[\s{sep}]*$")).then(pl.lit("blank"))
                .when(bare.str.count_matches(self.delimiter, literal=True) + 1 != len(self.names))
                .then(pl.lit("ragged_line"))
                .otherwise(pl.lit("good"))
            )  # fmt: skip
            if part.height:
                parts.append(part.select("index", "text", kind=kind))
        if not parts:
            return pl.DataFrame(schema={"index": frame["index"].dtype, "text": pl.String(), "kind": pl.String()})
        return parts[0] if len(parts) == 1 else pl.concat(parts).sort("index")

    def _parsed(self, good: pl.DataFrame, number: pl.Expr) -> pl.DataFrame:
        """Lines that are known to be whole, through polars."""
        meta = good.select(line=number, problem=pl.lit(None, pl.String), raw=pl.lit(None, pl.String))
        columns = [CELL + name for name in self.names]
        if good.is_empty():
            return meta.with_columns(pl.lit(None, pl.String).alias(name) for name in columns)
        content = good["text"].str.join("\n").item().encode()
        if content.startswith(BOM_UTF8):  # a field's own: polars takes the first away as the mark of a file
            content = BOM_UTF8 + content
        cells = pl.read_csv(
            content, separator=self.delimiter, has_header=False, new_columns=columns, infer_schema=False
        )
        if cells.shape != (good.height, len(columns)):  # polars and we disagree about a line: then not polars
            rows = list(csv.reader(good["text"], delimiter=self.delimiter))
            cells = pl.DataFrame(rows, schema={name: pl.String() for name in columns}, orient="row")
        return meta.hstack(cells)


def _each_line(lines: Lines, index: int, record: Record, line: int) -> pl.DataFrame:
    """A reject a line, RAW_SCHEMA: who counts or reads what was rejected has to see the rows a stray quote may have
    cost. In: line, the number of the first of `lines`."""
    return pl.DataFrame({"raw": lines.text[index : index + record.lines]}).select(
        pl.int_range(pl.len(), dtype=pl.Int64).alias("line") + line + index, problem=pl.lit(record.reason), raw="raw"
    )


def _text(lines: Lines, index: int, count: int) -> str:
    """A record's lines, as many as can be shown."""
    shown = min(count, RAW_TEXT_LIMIT + 1)
    return "\n".join(lines.text[index : index + shown]) if shown > 1 else str(lines.text[index])


def _cut(text: pl.Expr) -> pl.Expr:
    long = text.str.slice(0, RAW_TEXT_LIMIT) + pl.lit(" … [cut]")
    return pl.when(text.str.len_chars() > RAW_TEXT_LIMIT).then(long).otherwise(text)
