"""Bytes of a CSV file -> raw rows with their line numbers. Nothing is half-read: a row is whole, or it says why not.

Lines that are plain, or quoted as RFC 4180 says, go through polars. Only what is tangled (a quoted field with line
breaks, stray quotes) goes through Python's csv, record by record.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence

import polars as pl

from mailmill.errors import Misconfigured
from mailmill.pipelines.ingest.columns import headers, looks_like_data
from mailmill.pipelines.ingest.decoding import Lines, decode
from mailmill.pipelines.ingest.raw import CELL, RAW_SCHEMA, RawTable
from mailmill.pipelines.ingest.rejects import RAW_TEXT_LIMIT

DELIMITERS = (",", ";", "\t", "|")
MAX_FIELD = 1_000_000  # characters


def read_csv(content: bytes, *, encoding: str | None = None, delimiter: str | None = None) -> RawTable:
    """The rows of a file as they came, each with the line it begins at; bad lines with their problem.

    In:     encoding and delimiter where the operator names them, else they are found.
    Out:    RawTable; an empty file has no rows and no columns. Blank lines are no rows.
    Raises: Misconfigured when there is no header line to tell several columns apart.
    """
    lines = decode(content, encoding)
    start = _first_line(lines.text)
    if start is None:
        return RawTable(frame=pl.DataFrame(schema=RAW_SCHEMA), columns=(), encoding=lines.encoding)
    sep = lines.text[start]
    if sep.lower().startswith("sep=") and len(sep.strip()) <= 5:  # Excel's own way to name its delimiter
        delimiter, start = delimiter or sep[4:5] or None, start + 1
    delimiter = delimiter or _delimiter(lines.text[start : start + 50])
    cells, used = _header(lines.text, start, delimiter)
    if looks_like_data(cells):
        if len(cells) > 1:
            raise Misconfigured(
                "the first line holds contacts, not the names of the columns",
                remedy="Put a header line above them, for example: email,name,phone.",
            )
        cells, used = ["email"], 0
    names = headers(cells)
    frame = _rows(lines, start + used, delimiter, names)
    return RawTable(frame=frame, columns=tuple(names), encoding=lines.encoding, delimiter=delimiter)


def _first_line(text: pl.Series) -> int | None:
    """Index of the first line that is not blank."""
    filled = (text.str.strip_chars() != "").arg_true()
    return int(filled[0]) if len(filled) else None


def _delimiter(sample: pl.Series) -> str:
    """The delimiter that divides the header, and most lines after it, into the same number of fields."""
    bare = sample.str.replace_all(r'"(?:[^"]|"")*"', "")
    scores = []
    for rank, candidate in enumerate(DELIMITERS):
        counts = bare.str.count_matches(candidate, literal=True)
        if len(counts) and counts[0]:
            scores.append(((counts == counts[0]).mean(), counts[0], -rank, candidate))
    return str(max(scores)[3]) if scores else ","


def _header(text: pl.Series, start: int, delimiter: str) -> tuple[list[str], int]:
    """The first record's cells and how many lines it takes; names with a stray quote are taken as they stand."""
    record = _record(text, start, delimiter)
    if isinstance(record, str):
        return text[start].replace('"', "").split(delimiter), 1
    return record


def _rows(lines: Lines, start: int, delimiter: str, names: list[str]) -> pl.DataFrame:
    """RAW_SCHEMA and a column a name, in the order of the file."""
    frame = _classified(lines, start, delimiter, len(names))
    tangled = frame["index"].filter((frame["kind"] == "tangled").fill_null(False))
    whole, broken, covered = _untangle(lines.text, tangled, delimiter, len(names))
    if covered:
        frame = frame.filter(~pl.col("index").is_in(covered))
    frame = frame.filter((pl.col("kind") != "tangled") & (pl.col("kind") != "blank"))
    good = frame.filter(pl.col("kind") == "good")
    parts = [_parsed(good, delimiter, names)]
    if good.height < frame.height:
        bad = frame.filter(pl.col("kind") != "good").select(line=_LINE, problem="kind", raw=_cut(pl.col("text")))
        parts.append(bad)
    if broken:
        parts.append(pl.DataFrame(broken, schema=RAW_SCHEMA, orient="row").with_columns(raw=_cut(pl.col("raw"))))
    if whole:
        schema = {"line": pl.Int64(), **{CELL + name: pl.String() for name in names}}
        parts.append(pl.DataFrame(whole, schema=schema, orient="row"))
    return parts[0] if len(parts) == 1 else pl.concat(parts, how="diagonal").sort("line")


_LINE = pl.col("index").cast(pl.Int64) + 1


def _cut(text: pl.Expr) -> pl.Expr:
    long = text.str.slice(0, RAW_TEXT_LIMIT) + pl.lit(" … [cut]")
    return pl.when(text.str.len_chars() > RAW_TEXT_LIMIT).then(long).otherwise(text)


def _classified(lines: Lines, start: int, delimiter: str, width: int) -> pl.DataFrame:
    """index, text and kind of each line: good, blank, tangled, or the reason code of what is wrong with it."""
    sep = "\\" + delimiter if delimiter == "|" else delimiter
    field = rf'(?:"(?:[^"]|"")*"|[^"{sep}]*)'
    text = pl.col("text")
    frame = pl.DataFrame({"text": lines.text, "bad": lines.undecodable}).with_row_index("index")[start:]
    frame = frame.with_columns(quoted=text.str.contains('"', literal=True))
    bare = pl.when("quoted").then(text.str.replace_all(r'"(?:[^"]|"")*"', "")).otherwise(text)
    fields = bare.str.count_matches(delimiter, literal=True) + 1
    kind = (
        pl.when("bad").then(pl.lit("bad_encoding"))
        .when(text.str.contains("\x00", literal=True)).then(pl.lit("nul_character"))
        .when(text.str.len_bytes() > MAX_FIELD).then(pl.lit("tangled"))  # a field may be too long
        .when(pl.col("quoted") & ~text.str.contains(f"^{field}(?:{sep}{field})*$")).then(pl.lit("tangled"))
        .when(text.str.contains(rf"^[\s{sep}]*$")).then(pl.lit("blank"))
        .when(fields != width).then(pl.lit("ragged_line"))
        .otherwise(pl.lit("good"))
    )  # fmt: skip
    return frame.select("index", "text", kind=kind)


def _untangle(
    text: pl.Series, tangled: pl.Series, delimiter: str, width: int
) -> tuple[list[list[int | str]], list[tuple[int, str, str]], list[int]]:
    """Records that polars does not read: whole ones, broken ones (line, reason, raw), and the lines they cover.

    A record that does not come out with `width` fields gives back the lines after its first: an unclosed quote must
    not swallow the rows that follow it.
    """
    whole: list[list[int | str]] = []
    broken: list[tuple[int, str, str]] = []
    covered: list[int] = []
    resume = -1
    for index in tangled:
        if index < resume:
            continue
        record = _record(text, index, delimiter)
        if isinstance(record, str) or len(record[0]) != width:
            broken.append((index + 1, record if isinstance(record, str) else "ragged_line", text[index]))
            resume = index + 1
        else:
            whole.append([index + 1, *record[0]])
            resume = index + record[1]
        covered.extend(range(index, resume))
    return whole, broken, covered


def _record(text: pl.Series, start: int, delimiter: str) -> tuple[list[str], int] | str:
    """The record that begins at a line and how many lines it takes, or the reason why there is none."""
    csv.field_size_limit(MAX_FIELD)
    reader = csv.reader(_bounded(text, start), delimiter=delimiter, strict=True)
    try:
        return next(reader), reader.line_num
    except (csv.Error, StopIteration) as error:
        return "field_too_long" if "field limit" in str(error) else "broken_quote"


def _bounded(text: pl.Series, start: int) -> Iterator[str]:
    """The lines from `start`, as far as one record may reach."""
    taken = 0
    for index in range(start, len(text)):
        line = text[index]
        yield line + "\n" if index + 1 < len(text) else line
        taken += len(line)
        if taken > MAX_FIELD:
            return


def _parsed(good: pl.DataFrame, delimiter: str, names: Sequence[str]) -> pl.DataFrame:
    """Lines that are known to be whole, through polars."""
    meta = good.select(line=_LINE, problem=pl.lit(None, pl.String), raw=pl.lit(None, pl.String))
    columns = [CELL + name for name in names]
    if good.is_empty():
        return meta.with_columns(pl.lit(None, pl.String).alias(name) for name in columns)
    content = good["text"].str.join("\n").item().encode()
    cells = pl.read_csv(content, separator=delimiter, has_header=False, new_columns=columns, infer_schema=False)
    if cells.shape != (good.height, len(names)):  # polars and we disagree about a line: then not polars
        rows = list(csv.reader(good["text"], delimiter=delimiter))
        cells = pl.DataFrame(rows, schema={name: pl.String() for name in columns}, orient="row")
    return meta.hstack(cells)
