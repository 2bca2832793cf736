"""A table as text without a person: their lines are taken out, mentions in the lines of others masked. Pure."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Mapping

import polars as pl

from mailmill.pipelines.ingest import erasure as persons
from mailmill.pipelines.ingest.csv import read_csv
from mailmill.pipelines.ingest.erasure import Person
from mailmill.pipelines.ingest.erasure_raw import raw_rows

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")


def without_lines(
    content: bytes, who: Person, columns: Mapping[str, str], *, encoding: str | None, delimiter: str | None
) -> bytes | None:
    """The text without the person: itself when it does not hold them, None when it would be another table then.

    In:     columns, encoding and delimiter as the source names them.
    Raises: Misconfigured when it cannot be read as a table.
    """
    table = read_csv(content, encoding=encoding, delimiter=delimiter)
    rows = table.frame
    own = set(raw_rows(who, rows.lazy(), columns))
    exact, text = _decoded(content, table.encoding)
    lines = pl.DataFrame({"text": _LINE.findall(text)}, schema={"text": pl.String})
    if not own and not lines.select(persons.mentions(who, lines.schema).any()).item():
        return content
    starts = rows["line"].to_list()
    gone: set[int] = set()
    for line, following in zip(starts, [*starts[1:], lines.height + 1], strict=True):
        if line in own:
            gone.update(range(line, following))
    clean = lines.select(persons.masked(who, lines.schema))["text"]
    new = "".join(line for number, line in enumerate(clean, 1) if number not in gone).encode(exact)
    left = read_csv(new, encoding=encoding, delimiter=delimiter)
    same = _same(rows.filter(~pl.col("line").is_in(list(own))), left.frame)
    return new if same and tuple(left.columns) == tuple(table.columns) else None


def mentioned(contents: Iterable[bytes], who: Person) -> bool:
    """Whether any of these bytes mention the person, read as UTF-8, Latin-1 and, where it may be that, UTF-16."""
    for content in contents:
        encodings = ("utf-8", "latin-1", *(("utf-16-le", "utf-16-be") if b"\0" in content[:4096] else ()))
        texts = {content.decode(encoding, "replace") for encoding in encodings}
        frame = pl.DataFrame({"text": sorted(texts)}, schema={"text": pl.String})
        if frame.select(persons.mentions(who, frame.schema).any()).item():
            return True
    return False


def _decoded(content: bytes, encoding: str) -> tuple[str, str]:
    """The text, and the encoding that gives back the same bytes; of a file with broken lines that is Latin-1."""
    big = content.startswith(codecs.BOM_UTF16_BE)
    exact = {"utf-8-sig": "utf-8", "utf-16": "utf-16-be" if big else "utf-16-le"}.get(encoding, encoding)
    try:
        return exact, content.decode(exact)
    except UnicodeDecodeError:
        return "latin-1", content.decode("latin-1")


def _same(rest: pl.DataFrame, rows: pl.DataFrame) -> bool:
    """Whether the rest was left as it was, row by row."""
    if rest.is_empty():
        return rows.is_empty()
    return rest.height == rows.height and rest["problem"].equals(rows["problem"], null_equal=True)
