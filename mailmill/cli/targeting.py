"""Files of addresses, as people hand them to a verb."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from mailmill.errors import Misconfigured

MAX_FILE_BYTES = 256 * 2**20


def lines(path: Path) -> list[str]:
    """The lines of a text file; of a CSV the first column.

    Raises: Misconfigured when it cannot be read as UTF-8.
    """
    found = [line.split(",")[0].split(";")[0].strip().strip('"') for line in _text(path).splitlines()]
    return ["", *found[1:]] if found and found[0].lower() in ("email", "e-mail", "address", "mail") else found


def table(path: Path, columns: Sequence[str]) -> pl.DataFrame | None:
    """A CSV with these columns, its cells as text, null when empty; None where its header does not name them all.

    Raises: Misconfigured when it cannot be read as UTF-8, or a row has more cells than the header.
    """
    text = _text(path)
    header = text.partition("\n")[0].replace('"', "").strip()
    for separator in (",", ";", "\t"):
        if set(columns) <= set(header.split(separator)):
            try:
                read = pl.read_csv(text.encode(), separator=separator, infer_schema=False)
            except pl.exceptions.PolarsError:
                raise Misconfigured("a row has more cells than the header", place=str(path)) from None
            return read.select(pl.col(columns).str.strip_chars().replace("", None))
    return None


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise Misconfigured(f"larger than {MAX_FILE_BYTES >> 20} MiB", place=str(path), remedy="Split it.")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise Misconfigured(f"cannot be read: {error.strerror}", place=str(path)) from None
    except UnicodeDecodeError:
        raise Misconfigured("is not text in UTF-8", place=str(path), remedy="Save it in this encoding.") from None
