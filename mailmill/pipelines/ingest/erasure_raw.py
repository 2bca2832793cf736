"""Whose row a raw row is: told by the columns that hold an address or a number, read as validation reads them. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import polars as pl

from mailmill.pipelines.ingest import addresses, cells, phones
from mailmill.pipelines.ingest.columns import mapped, unreadable
from mailmill.pipelines.ingest.erasure import Person, any_of
from mailmill.pipelines.ingest.erasure_rows import text_rows
from mailmill.pipelines.ingest.raw import CELL
from mailmill.pipelines.ingest.wordlists import countries


def raw_rows(
    person: Person, frame: pl.LazyFrame, columns: Mapping[str, str], facts: Mapping[str, Any] | None = None
) -> list[int]:
    """The lines of a raw batch that are the person's. One with somebody else's address is not, whatever its number.

    In:     RAW_SCHEMA with the source's cells; columns, as the source maps them; facts of the batch, None of a file
            as it lies. Where they do not say which column holds an address, any cell that is one counts.
    """
    names = _names(frame)
    unread = frame.filter(pl.col("problem").is_not_null() & text_rows(person, {"raw": pl.String()})).select("line")
    lines = unread.collect(engine="streaming")["line"].to_list()
    known = _known(names, columns, facts)
    for header in _cells_of("email", known, names):
        lines += _by_mail(person, frame, header)
    for header in _cells_of("phone", known, names):
        found = _by_phone(person, frame, header, known.get("country"))
        lines += _unclaimed(found, frame, known.get("email"), person.keys)
    return sorted(set(lines))


def _names(frame: pl.LazyFrame) -> list[str]:
    return [name.removeprefix(CELL) for name in frame.collect_schema() if name.startswith(CELL)]


def _known(names: Sequence[str], columns: Mapping[str, str], facts: Mapping[str, Any] | None) -> Mapping[str, str]:
    """Which columns say whose a row is: by the mapping of today, or by the one under which it was kept where today's
    finds less. Empty where neither tells."""
    facts = facts or {}
    said, few, kept = facts.get("columns", names), facts.get("few", False), facts.get("mapping")
    mappings = [columns] if kept is None else [columns, kept]
    read = [mapped(names, wanted, place="", few=True).known for wanted in mappings]
    best = max(read, key=lambda known: ("email" in known, "phone" in known))
    # these rows may all lack the column of addresses; where none could be read so, it has a name that nobody knows
    gone = all(unreadable(said, wanted, few=few) for wanted in mappings)
    return best if "email" in best or ("phone" in best and not gone) else {}


def _cells_of(field: str, known: Mapping[str, str], names: Sequence[str]) -> Sequence[str]:
    return [known[field]] if field in known else [] if known else names


def numbered_rows(numbers: Collection[str], frame: pl.LazyFrame, columns: Mapping[str, str]) -> list[int]:
    """The lines of a raw batch that nothing but one of these numbers says whose they are.

    In: E.164; else as raw_rows, the batch being read by the mapping of today. A row with an address is somebody else's,
        who shares the number.
    """
    names = _names(frame)
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
    bare = any_of(pl.lit(typed), person.numbers) & region.is_null() & numbers.is_null()
    return found.filter(theirs | bare)["line"].to_list()


def _region(country: pl.Series) -> pl.Series:
    word = cells.clean(country).str.to_lowercase()
    return word.replace_strict(countries(), default=None, return_dtype=pl.String)


def keys_of(
    frame: pl.LazyFrame, columns: Mapping[str, str], facts: Mapping[str, Any] | None = None, country: str | None = None
) -> set[str]:
    """Every match key that the rows of a raw batch give: a number where there is no address.

    In: as raw_rows; the source's country.
    """
    names = _names(frame)
    known = _known(names, columns, facts)
    mails, calls = (_cells_of(field, known, names) for field in ("email", "phone"))
    wanted = dict.fromkeys([*mails, *calls, *([known["country"]] if "country" in known else [])])
    found: set[str] = set()
    if not wanted:
        return found
    rows = frame.select(CELL + header for header in wanted).unique().collect(engine="streaming")
    unnamed = pl.repeat(True, rows.height, dtype=pl.Boolean, eager=True)
    for header in mails:
        keys = addresses.examine(cells.clean(rows[CELL + header]))["address_key"]
        found |= set(keys.drop_nulls())
        unnamed &= keys.is_null()
    rows = rows.filter(unnamed)
    land = rows[CELL + known["country"]] if "country" in known else pl.Series([None] * rows.height, dtype=pl.String)
    region = _region(land).fill_null(country) if country else _region(land)
    for header in calls:
        found |= set(phones.examine(cells.clean(rows[CELL + header]), region).drop_nulls())
    return found
