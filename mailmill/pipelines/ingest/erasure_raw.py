"""Whose row a raw row is: told by the columns that hold an address or a number, read as validation reads them. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import polars as pl

from mailmill.errors import Misconfigured
from mailmill.pipelines.ingest import addresses, cells, phones
from mailmill.pipelines.ingest.columns import mapped
from mailmill.pipelines.ingest.erasure import Person
from mailmill.pipelines.ingest.erasure_rows import text_rows
from mailmill.pipelines.ingest.raw import CELL
from mailmill.pipelines.ingest.wordlists import countries


def raw_rows(person: Person, frame: pl.LazyFrame, columns: Mapping[str, str]) -> list[int]:
    """The lines of a raw batch that are the person's. One with somebody else's address is not, whatever its number.

    In:     RAW_SCHEMA with the source's cells; columns, as the source maps them. Where they do not say which column
            holds an address, any cell that is one counts.
    """
    schema = frame.collect_schema()
    names = [name.removeprefix(CELL) for name in schema if name.startswith(CELL)]
    unread = frame.filter(pl.col("problem").is_not_null() & text_rows(person, {"raw": pl.String()})).select("line")
    lines = unread.collect(engine="streaming")["line"].to_list()
    try:
        known = mapped(names, columns, place="").known if names else {}
        mails = [known["email"]] if "email" in known else []
        calls, land = [known["phone"]] if "phone" in known else [], known.get("country")
    except Misconfigured:
        known, mails, calls, land = {}, names, names, None
    for header in mails:
        lines += _by_mail(person, frame, header)
    for header in calls:
        lines += _unclaimed(_by_phone(person, frame, header, land), frame, known.get("email"), person.keys)
    return sorted(set(lines))


def numbered_rows(numbers: Collection[str], frame: pl.LazyFrame, columns: Mapping[str, str]) -> list[int]:
    """The lines of a raw batch that nothing but one of these numbers says whose they are.

    In: E.164; else as raw_rows. A row with an address is somebody else's, who shares the number.
    """
    names = [name.removeprefix(CELL) for name in frame.collect_schema() if name.startswith(CELL)]
    known = mapped(names, columns, place="", few=True).known if numbers and names else {}
    if "phone" not in known:
        return []
    person, land = Person(keys=tuple(numbers)), known.get("country")
    read = frame.filter(pl.col("problem").is_null())
    return _unclaimed(_by_phone(person, read, known["phone"], land), read, known.get("email"))


def _unclaimed(lines: list[int], frame: pl.LazyFrame, header: str | None, theirs: Collection[str] = ()) -> list[int]:
    """Of these lines those that no address says to be somebody else's. In: header, of the addresses; their own keys."""
    if header is None or not lines:
        return lines
    found = frame.filter(pl.col("line").is_in(lines)).select("line", cell=CELL + header).collect(engine="streaming")
    keys = addresses.examine(cells.clean(found["cell"]))["address_key"]
    return found.filter(keys.is_null() | keys.is_in(list(theirs)))["line"].to_list()


def _by_mail(person: Person, frame: pl.LazyFrame, header: str) -> list[int]:
    if not person.folded:
        return []
    cell = pl.col(CELL + header)
    # what is not ASCII may be folded in more ways than one, so it is examined wherever it may be an address
    wide = cell.str.contains(r"[^ -~]") & cell.str.contains("[@\uff20\ufe6b]")
    likely = (cell.str.to_lowercase().str.contains_any(list(person.folded)) | wide).fill_null(False)
    found = frame.filter(likely).select("line", cell=cell).collect(engine="streaming")
    keys = addresses.examine(cells.clean(found["cell"]))["address_key"]
    return found.filter(keys.is_in(list(person.keys)).fill_null(False))["line"].to_list()


def _by_phone(person: Person, frame: pl.LazyFrame, header: str, land: str | None) -> list[int]:
    if not person.endings:
        return []
    cell = pl.col(CELL + header)
    digits = cell.str.normalize("NFKC").str.replace_all(r"\D", "")
    # an extension may follow, and any script's digits are read
    likely = (digits.str.contains_any(list(person.endings)) | cell.str.contains(r"[\p{Nd}--0-9]")).fill_null(False)
    country = pl.col(CELL + land) if land else pl.lit(None, pl.String)
    found = frame.filter(likely).select("line", cell=cell, country=country).collect(engine="streaming")
    typed, region = cells.clean(found["cell"]), _region(found["country"])
    numbers = phones.examine(typed, region)
    theirs = numbers.is_in(list(person.keys)).fill_null(False)
    # without a country it is the source's, which may have been another then: the digits alone decide
    bare = typed.str.contains(person.numbers or "").fill_null(False) & region.is_null() & numbers.is_null()
    return found.filter(theirs | bare)["line"].to_list()


def _region(country: pl.Series) -> pl.Series:
    word = cells.clean(country).str.to_lowercase()
    return word.replace_strict(countries(), default=None, return_dtype=pl.String)


def keys_of(frame: pl.LazyFrame, columns: Mapping[str, str], country: str | None = None) -> set[str]:
    """Every match key that the rows of a raw batch give: a number where there is no address.

    In: as raw_rows; the source's country.
    """
    schema = frame.collect_schema()
    names = [name.removeprefix(CELL) for name in schema if name.startswith(CELL)]
    known = mapped(names, columns, place="", few=True).known if names else {}
    wanted = [known[field] for field in ("email", "phone", "country") if field in known]
    rows = frame.select(CELL + header for header in wanted).unique().collect(engine="streaming") if wanted else None
    found: set[str] = set()
    if rows is not None and "email" in known:
        mails = addresses.examine(cells.clean(rows[CELL + known["email"]]))["address_key"]
        found |= set(mails.drop_nulls())
        rows = rows.filter(mails.is_null())
    if rows is not None and "phone" in known:
        land = rows[CELL + known["country"]] if "country" in known else pl.Series([None] * rows.height, dtype=pl.String)
        region = _region(land).fill_null(country) if country else _region(land)
        found |= set(phones.examine(cells.clean(rows[CELL + known["phone"]]), region).drop_nulls())
    return found
