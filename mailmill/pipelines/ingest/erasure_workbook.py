"""An XLSX workbook without a person: their rows are taken out of the sheet, mentions anywhere masked. Pure.

The XML is changed as text where the person stands, so that everything else of the workbook stays as its program wrote
it; what comes out is read again and has to be the same rows without theirs. Source: ECMA-376 part 1, section 18.3.
"""

from __future__ import annotations

import html
import io
import re
import zipfile
from collections.abc import Iterable, Mapping
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import polars as pl

from mailmill.errors import Misconfigured
from mailmill.pipelines.ingest import erasure as persons
from mailmill.pipelines.ingest.erasure import Person
from mailmill.pipelines.ingest.erasure_raw import raw_rows
from mailmill.pipelines.ingest.workbooks import read_workbook

Members = dict[str, bytes]  # of the archive, by name
_ROW = re.compile(r"<((?:\w+:)?)row\b([^>]*?)(?:/>|>.*?</\1row>)", re.DOTALL)
_NUMBER = re.compile(r'\br="(\d+)"')
_SHARED = re.compile(r'<(?:\w+:)?c\b[^>]*\bt="s"[^>]*>\s*<(?:\w+:)?v>\s*(\d+)\s*<')
_STRING = re.compile(r"<((?:\w+:)?)si\b[^>]*?(?:/>|>.*?</\1si>)", re.DOTALL)
_LINK = re.compile(r'<(?:\w+:)?hyperlink\b[^>]*\bref="[A-Z]+(\d+)"[^>]*/>')
_NO_LINKS = re.compile(r"<((?:\w+:)?)hyperlinks>\s*</\1hyperlinks>")
_TAG = re.compile(r"(<[^>]*>)")
STRINGS = "xl/sharedStrings.xml"
CALCULATION = "xl/calcChain.xml"  # an order of cells that a program makes anew where it is missing


def without_rows(content: bytes, who: Person, columns: Mapping[str, str], sheet: str | None = None) -> bytes | None:
    """The workbook without the person: itself when it does not hold them, None when that cannot be done safely.

    Their rows go from every sheet that is a table, also from those that no import reads.
    In:     columns and sheet, as the source names them.
    Raises: Misconfigured when it cannot be read.
    """
    before = read_workbook(content, sheet)
    tables = {before.sheet: before.frame, **_unread(content, before.unread)}
    own = {name: set(raw_rows(who, table.lazy(), columns)) for name, table in tables.items() if table.height}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        infos = [info for info in archive.infolist() if not info.is_dir()]
        members = {info.filename: archive.read(info) for info in infos}
    try:
        clean = _without(members, {name: lines for name, lines in own.items() if lines}, who)
    except (ElementTree.ParseError, KeyError, UnicodeDecodeError, ValueError):
        return None
    if clean == members:
        return content
    new = io.BytesIO()
    with zipfile.ZipFile(new, "w") as archive:
        for info in infos:
            if info.filename in clean:
                archive.writestr(info, clean[info.filename], compress_type=info.compress_type)
    rest = before.frame.filter(~pl.col("line").is_in(list(own.get(before.sheet, ()))))
    return new.getvalue() if _holds(new.getvalue(), sheet, rest, who) else None


def _unread(content: bytes, names: Iterable[str]) -> dict[str, pl.DataFrame]:
    """The other sheets, as far as they are tables."""
    found = {}
    for name in names:
        try:
            found[name] = read_workbook(content, name).frame
        except Misconfigured:
            continue
    return found


def _holds(content: bytes, sheet: str | None, rest: pl.DataFrame, who: Person) -> bool:
    """Whether the new workbook has the rest of the rows, with mentions masked, and none of the person."""
    try:
        table = read_workbook(content, sheet)
    except Misconfigured:
        return False
    after = table.frame
    for other in _unread(content, table.unread).values():
        if other.select(persons.mentions(who, other.schema).any()).item():
            return False
    if rest.is_empty():
        return after.is_empty()
    wanted = rest.with_columns(persons.masked(who, rest.schema))
    clean = not after.select(persons.mentions(who, after.schema).any()).item()
    return clean and after.columns == wanted.columns and after.equals(wanted, null_equal=True)


def _without(members: Members, own: Mapping[str, set[int]], who: Person) -> Members:
    """In: own, the person's rows by sheet."""
    clean = dict(members)
    strings: set[int] = set()
    if own and any(name.startswith("xl/pivotCache/") for name in members):
        raise ValueError("a pivot table has its own copy of the rows")
    for sheet, lines in own.items():
        place = _place(members, sheet)
        rest, named = _cut(members[place].decode("utf-8-sig"), lines)
        clean[place], strings = rest.encode(), strings | named
    if strings:
        clean[STRINGS] = _blanked(clean, strings)
    if own:
        _forget_calculation(clean)
    for name, content in clean.items():
        if name.endswith((".xml", ".rels", ".vml")):
            clean[name] = _masked(content, who)
        elif persons.text_mentions(who, content.decode("latin-1")):
            raise ValueError("a picture or an object holds the person")
    return clean


def _place(members: Members, sheet: str) -> str:
    """The member that holds a sheet."""
    book = ElementTree.fromstring(members["xl/workbook.xml"])
    links = ElementTree.fromstring(members["xl/_rels/workbook.xml.rels"])
    targets = {link.get("Id"): link.get("Target") or "" for link in links}
    for element in book.iter():
        if element.tag.endswith("}sheet") and element.get("name") == sheet:
            number = next(value for name, value in element.attrib.items() if name.endswith("}id"))
            target = targets[number]
            return target.removeprefix("/") if target.startswith("/") else f"xl/{target}"
    raise KeyError(sheet)


def _cut(xml: str, own: set[int]) -> tuple[str, set[int]]:
    """A sheet without these rows, and which shared strings they named."""
    strings: set[int] = set()
    cut: set[int] = set()

    def kept(match: re.Match[str]) -> str:
        found = _NUMBER.search(match[2])
        if found is None:
            raise ValueError("rows without their numbers")
        if int(found[1]) not in own:
            return match[0]
        cut.add(int(found[1]))
        strings.update(map(int, _SHARED.findall(match[0])))
        return ""

    rest = _ROW.sub(kept, xml)
    if cut != own:
        raise ValueError("the rows are not where they were read")
    rest = _LINK.sub(lambda match: "" if int(match[1]) in own else match[0], rest)
    return _NO_LINKS.sub("", rest), strings


def _blanked(members: Members, strings: set[int]) -> bytes:
    """The shared strings, those empty that only the rows taken out had named."""
    for name, content in members.items():
        if name.startswith("xl/worksheets/") and name.endswith(".xml"):
            strings -= set(map(int, _SHARED.findall(content.decode("utf-8-sig"))))
    count = -1

    def kept(match: re.Match[str]) -> str:
        nonlocal count
        count += 1
        return f"<{match[1]}si><{match[1]}t></{match[1]}t></{match[1]}si>" if count in strings else match[0]

    return _STRING.sub(kept, members[STRINGS].decode("utf-8-sig")).encode()


def _forget_calculation(members: Members) -> None:
    if members.pop(CALCULATION, None) is None:
        return
    for name in ("[Content_Types].xml", "xl/_rels/workbook.xml.rels"):
        text = members[name].decode("utf-8-sig")
        members[name] = re.sub(r"<(?:Override|Relationship)\b[^>]*calcChain[^>]*/>", "", text).encode()


def _masked(content: bytes, who: Person) -> bytes:
    """XML with every mention masked, in texts and in attributes (a link's `mailto:`)."""
    text = content.decode("utf-8-sig")
    pieces = _TAG.split(text)
    frame = pl.DataFrame({"text": [html.unescape(piece) if "&" in piece else piece for piece in pieces]})
    hits = frame.select(persons.mentions(who, frame.schema)).to_series().arg_true().to_list()
    for at in hits:
        if at % 2:
            pieces[at] = persons.mask_text(who, pieces[at])
        else:
            pieces[at] = escape(persons.mask_text(who, html.unescape(pieces[at])))
    return "".join(pieces).encode() if hits else content
