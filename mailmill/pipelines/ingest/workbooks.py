"""One sheet of an XLSX workbook -> raw rows, each with its row of the sheet.

Cells come as a person sees them: a whole number without a fraction, a day without a time, nothing as nothing.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from xml.etree import ElementTree

import polars as pl

from mailmill.errors import Misconfigured
from mailmill.pipelines.ingest.columns import headers, looks_like_data
from mailmill.pipelines.ingest.raw import CELL, RawTable
from mailmill.pipelines.ingest.workbook_reach import refuse_far_cells


def read_workbook(content: bytes, wanted: str | None = None) -> RawTable:
    """The rows of a sheet; the line of a row is its number in the sheet. Rows without any value are no rows.

    In:     wanted, the sheet's name in whatever case; without it the first one with anything in it that is not hidden.
    Raises: Misconfigured when it cannot be read, has no such sheet, or no header row to tell several columns apart.
    """
    sheets = {name: _filled(sheet) for name, sheet in _sheets(content).items()}
    names = [name for name, rows in sheets.items() if rows.height]
    hidden = _hidden(content)
    name = next((one for one in names if one not in hidden), "")
    if wanted is not None:
        name = next((one for one in sheets if one.casefold() == wanted.casefold()), "")
        if not name:
            known = ", ".join(repr(one) for one in sheets)
            raise Misconfigured(f"the workbook has no sheet {wanted!r}", remedy=f"Its sheets are {known}.")
    unread = tuple(one for one in names if one != name)
    secret = tuple(one for one in unread if one in hidden)
    if name not in names:
        return RawTable(frames=[], columns=(), sheet=name, unread=unread, hidden=secret)
    rows = sheets[name]
    return replace(_table(rows["line"].cast(pl.Int64), rows.drop("line"), name), unread=unread, hidden=secret)


def _filled(sheet: pl.DataFrame) -> pl.DataFrame:
    return sheet.with_row_index("line", offset=1).filter(~pl.all_horizontal(pl.exclude("line").is_null()))


def _sheets(content: bytes) -> dict[str, pl.DataFrame]:
    try:
        refuse_far_cells(content)
        return pl.read_excel(
            io.BytesIO(content), sheet_id=0, engine="calamine", has_header=False, infer_schema_length=0,
            drop_empty_rows=False, drop_empty_cols=False, raise_if_empty=False, read_options={"skip_rows": 0},
        )  # fmt: skip
    except Misconfigured:
        raise
    except BaseException as error:  # whatever is wrong with a file: the engine has errors of its own for each
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # which is none to Python
            raise
        raise Misconfigured(
            f"the workbook cannot be read ({type(error).__name__})", remedy="Save it again as XLSX, or as CSV."
        ) from error


def _hidden(content: bytes) -> set[str]:
    """The sheets that a spreadsheet program does not show. Source: ECMA-376 part 1, 18.2.19 and 18.18.68."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            book = ElementTree.fromstring(archive.read("xl/workbook.xml"))
    except (KeyError, ElementTree.ParseError):  # it lies elsewhere: then every sheet counts as shown
        return set()
    sheets = (one for one in book.iter() if one.tag.rpartition("}")[2] == "sheet")
    return {one.get("name", "") for one in sheets if one.get("state") in ("hidden", "veryHidden")}


def _table(lines: pl.Series, cells: pl.DataFrame, sheet: str) -> RawTable:
    first = ["" if cell is None else str(cell) for cell in cells.row(0)]
    used = 1
    if kind := looks_like_data(first):
        if len(first) > 1:
            raise Misconfigured(
                f"the first row of the sheet {sheet!r} holds contacts, not the names of the columns",
                remedy="Put a header row above them, for example: email, name, phone.",
            )
        first, used = [kind], 0
    names = headers(first)
    frame = pl.DataFrame([lines, *cells]).slice(used)
    frame.columns = ["line", *(CELL + name for name in names)]
    nothing = pl.lit(None, pl.String)
    shown = [_shown(pl.col(CELL + name)) for name in names]
    return RawTable(
        frames=[frame.select("line", problem=nothing, raw=nothing).hstack(frame.select(shown))],
        columns=tuple(names),
        sheet=sheet,
    )


def _shown(cell: pl.Expr) -> pl.Expr:
    """'3.0' is 3, '2026-01-02 00:00:00' is 2026-01-02, and a time of day lies on the day before all days."""
    text = cell.cast(pl.String)
    text = text.str.replace(r"^(-?\d+)\.0$", "$1")
    text = text.str.replace(r"^1899-12-3[01][T ](\d\d:\d\d:\d\d)(?:\.0+)?$", "$1")
    return text.str.replace(r"^(\d{4}-\d\d-\d\d)[T ]00:00:00(?:\.0+)?$", "$1")
