"""How far the cells of an XLSX workbook reach: who reads a sheet as a table holds every cell up to the last one.

Source: ECMA-376 part 1, sections 18.3.1.4 (c) and 18.3.1.73 (row): a cell or row without a reference follows the last.
"""

from __future__ import annotations

import io
import zipfile
from typing import IO
from xml.parsers import expat

from mailmill.errors import Misconfigured

MAX_CELLS = 20_000_000  # rows times columns, some 40 bytes each: more than 512 MiB of XML can fill
_DIGITS = "0123456789"


def refuse_far_cells(content: bytes) -> None:
    """Let workbooks pass whose sheets have together no more than MAX_CELLS, the empty ones between others included.

    Raises: Misconfigured that names the cell at the far corner; one of zipfile's errors.
    """
    cells = 0
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for info in archive.infolist():
            sheet = _Reach()
            with archive.open(info) as member:
                whole = sheet.parse(member)
            if sheet.row and not whole:
                raise Misconfigured(f"the workbook's {info.filename} is damaged", remedy="Save it again, or as CSV.")
            cells += sheet.last_row * sheet.last_column
            if cells > MAX_CELLS:
                raise Misconfigured(
                    f"a sheet of the workbook reaches to the cell {_letters(sheet.last_column)}{sheet.last_row}",
                    remedy="Delete what stands far outside of the table, or save it as CSV.",
                )


class _Reach:
    """The last row and column that hold a value, from 1; 0 where there is none."""

    def __init__(self) -> None:
        self.row = self.column = self.last_row = self.last_column = 0
        self._columns: dict[str, int] = {}

    def parse(self, member: IO[bytes]) -> bool:
        """Whether it was XML to its end."""
        parser = expat.ParserCreate()
        parser.ordered_attributes = True
        parser.StartElementHandler = self._begin
        try:
            parser.ParseFile(member)
        except (expat.ExpatError, ValueError, LookupError):
            return False
        return True

    def _begin(self, name: str, attributes: list[str]) -> None:
        tag = name if len(name) < 3 else name.rpartition(":")[2]
        if tag == "c":
            self.column += 1
            if "r" in attributes[::2]:
                self._move(attributes[attributes[::2].index("r") * 2 + 1])
        elif tag == "v" or tag == "is":
            if self.row > self.last_row:
                self.last_row = self.row
            if self.column > self.last_column:
                self.last_column = self.column
        elif tag == "row":
            self.row, self.column = self.row + 1, 0
            if "r" in attributes[::2]:
                self.row = int(attributes[attributes[::2].index("r") * 2 + 1])

    def _move(self, reference: str) -> None:
        letters = reference.rstrip(_DIGITS)
        self.column = self._columns.get(letters) or self._columns.setdefault(letters, _number(letters))
        self.row = int(reference[len(letters) :])


def _number(letters: str) -> int:
    """'A' -> 1, 'XFD' -> 16384."""
    number = 0
    for letter in letters.upper():
        number = number * 26 + ord(letter) - 64
    return number


def _letters(number: int) -> str:
    text = ""
    while number:
        number, rest = divmod(number - 1, 26)
        text = chr(65 + rest) + text
    return text
