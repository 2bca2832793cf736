"""A person taken out of a workbook: their row and what only it named go, the rest is the same workbook."""

from __future__ import annotations

import io
import zipfile

import openpyxl
import pytest

from mailmill.pipelines.ingest.erasure import Person
from mailmill.pipelines.ingest.erasure_workbook import without_rows
from mailmill.pipelines.ingest.workbooks import read_workbook

ANN = Person(keys=("ann@x.org", "+4315337031"), spellings=("Ann@X.org",))
MAIN = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
LINKS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
STRINGS = ("email", "name", "note", "Ann@X.org", "Ann", "bob@x.org", "Bob", "knows ann@x.org &amp; Cid", "joann@x.org")
SHEET = "".join(
    f'<row r="{line}">'
    + "".join(f'<c r="{"ABC"[at]}{line}" t="s"><v>{n}</v></c>' for at, n in enumerate(cells))
    + "</row>"
    for line, cells in ((1, (0, 1, 2)), (3, (3, 4)), (4, (5, 6, 7)), (5, (8, 6)))
)  # fmt: skip
MEMBERS = {
    "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"><Default '
    'Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Default Extension="xml" '
    'ContentType="application/xml"/><Override PartName="/xl/calcChain.xml" ContentType="x"/></Types>',
    "_rels/.rels": f'<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship '
    f'Id="rId1" Type="{LINKS}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
    "xl/workbook.xml": f'<workbook {MAIN} xmlns:r="{LINKS}"><sheets><sheet name="People" sheetId="1" r:id="rId1"/>'
    "</sheets></workbook>",
    "xl/_rels/workbook.xml.rels": '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
    f'<Relationship Id="rId1" Type="{LINKS}/worksheet" Target="worksheets/sheet1.xml"/><Relationship Id="rId2" '
    f'Type="{LINKS}/sharedStrings" Target="sharedStrings.xml"/></Relationships>',
    "xl/worksheets/sheet1.xml": f"<worksheet {MAIN}><sheetData>{SHEET}</sheetData></worksheet>",
    "xl/sharedStrings.xml": f"<sst {MAIN}>" + "".join(f"<si><t>{text}</t></si>" for text in STRINGS) + "</sst>",
    "xl/calcChain.xml": f'<calcChain {MAIN}><c r="A3" i="1"/></calcChain>',
}


def workbook(**more: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in {**MEMBERS, **more}.items():
            archive.writestr(name, text)
    return packed.getvalue()


def texts(content: bytes) -> dict[str, str]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def test_a_row_goes_with_the_strings_that_only_it_named_and_other_rows_keep_their_place() -> None:
    new = without_rows(workbook(), ANN, {})
    assert new is not None
    rows = read_workbook(new).frame.select("line", "col:email", "col:name", "col:note").rows()
    assert rows == [(4, "bob@x.org", "Bob", "knows *** & Cid"), (5, "joann@x.org", "Bob", None)]
    left = texts(new)
    assert "<t></t>" in left["xl/sharedStrings.xml"] and ">Ann<" not in left["xl/sharedStrings.xml"]
    assert "xl/calcChain.xml" not in left and "calcChain" not in left["[Content_Types].xml"]
    assert without_rows(new, ANN, {}) == new


def test_a_workbook_without_the_person_stays_as_it_is() -> None:
    content = workbook()
    assert without_rows(content, Person(keys=("zoe@x.org",)), {}) == content


@pytest.mark.parametrize(
    "more",
    [
        {"xl/pivotCache/pivotCacheRecords1.xml": "<r/>"},
        {"xl/media/note.bin": "call ann@x.org"},
        {"xl/worksheets/sheet1.xml": MEMBERS["xl/worksheets/sheet1.xml"].replace(' r="3">', ">")},
        {"xl/sharedStrings.xml": MEMBERS["xl/sharedStrings.xml"].replace("knows ann@", "knows <t>a</t><t>nn@")},
    ],
    ids=["a pivot table has its own copy", "an object mentions them", "rows without numbers", "a text in pieces"],
)
def test_what_cannot_be_done_safely_is_not_done(more: dict[str, str]) -> None:
    assert without_rows(workbook(**more), ANN, {}) is None


def test_what_openpyxl_wrote_is_read_by_it_afterwards_with_links_masked() -> None:
    book, content = openpyxl.Workbook(), io.BytesIO()
    for row in (["email", "name"], ["Ann@x.org", "Ann"], ["bob@x.org", "Bob"]):
        book.active.append(row)
    book.active["A2"].hyperlink = "mailto:ann@x.org"
    book.create_sheet("notes").append(["ask ann@x.org"])
    old = book.create_sheet("last year")
    for row in (["name", "email"], ["Zoe", "zoe@x.org"], ["Ann Lee", "ANN@x.org"]):
        old.append(row)
    book.save(content)
    new = without_rows(content.getvalue(), ANN, {})
    assert new is not None and not any("ann@x.org" in text.lower() for text in texts(new).values())
    again = openpyxl.load_workbook(io.BytesIO(new))
    assert [[cell.value for cell in row] for row in again.worksheets[0]] == [
        ["email", "name"], [None, None], ["bob@x.org", "Bob"],
    ]  # fmt: skip
    assert again["notes"]["A1"].value == "ask ***"
    assert [cell.value for cell in again["last year"]["A"]][:2] == ["name", "Zoe"]
    assert not any("Ann" in text for text in texts(new).values()), "a sheet that no import reads has people too"
