"""Raw rows: what a source said, as it said it, with where it stands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import polars as pl

CELL = "col:"  # begins the name of each column that is the source's own
RAW_SCHEMA = pl.Schema(
    {
        "line": pl.Int64(),  # of the file, from 1; of an API's answer, the number of the item
        "problem": pl.String(),  # a code of rejects.REASONS where the line could not be read
        "raw": pl.String(),  # then the line as it is; null where the cells say it
    }
)  # and one String column `col:<header>` a column of the source

_FEW = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class RawTable:
    """Rows of one file or answer, piece by piece: RAW_SCHEMA and the source's own columns, in its order.

    The pieces of a file are read from it as they are walked, once.
    """

    frames: Iterable[pl.DataFrame]
    columns: tuple[str, ...]
    encoding: str = "utf-8"
    delimiter: str = ","
    sheet: str = ""  # of a workbook
    unread: tuple[str, ...] = ()  # its other sheets with anything in them
    hidden: tuple[str, ...] = ()  # those of them that a person does not see
    notes: Sequence[str] = ()  # what a person should look at; complete when the pieces have been walked

    @property
    def frame(self) -> pl.DataFrame:
        """All rows at once, of what is small."""
        whole = pl.Schema({**RAW_SCHEMA, **{CELL + name: pl.String() for name in self.columns}})
        return pl.concat([pl.DataFrame(schema=whole), *self.frames], how="diagonal")


def few(frame: pl.DataFrame) -> bool:
    """Whether so few rows could be read that a field which all of them lack is none that is gone, where each row names
    the fields it has. What says that somebody was deleted does not count."""
    return frame["problem"].null_count() < _FEW


def usual(frame: pl.DataFrame) -> tuple[str, ...]:
    """The columns that at least half of such rows have: unlike another, it is gone where all of them lack it."""
    live = frame.filter(pl.col("problem").is_null())
    filled = (name for name in live.columns if name.startswith(CELL) and 2 * live[name].count() >= live.height)
    return tuple(name.removeprefix(CELL) for name in filled)


def raw_text(frame: pl.DataFrame) -> pl.Expr:
    """A row's text: the line as it came, or its cells written as one CSV line."""
    cells = [pl.col(name) for name in frame.columns if name.startswith(CELL)]
    if not cells:
        return pl.col("raw")
    quoted = [
        pl.when(cell.str.contains('[",\n]'))
        .then(pl.lit('"') + cell.str.replace_all('"', '""', literal=True) + pl.lit('"'))
        .otherwise(cell)
        .fill_null("")
        for cell in cells
    ]
    return pl.coalesce("raw", pl.concat_str(quoted, separator=","))
