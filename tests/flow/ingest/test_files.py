"""Files as people drop them: folders, archives, half-copied files."""

from __future__ import annotations

import gzip
import io
import os
import random
import tarfile
import zipfile
from datetime import UTC, date, datetime
from datetime import time as clock

import openpyxl
import pytest

from mailmill.errors import Misconfigured
from mailmill.io.sources import files
from mailmill.io.sources.feeds import feed_of
from mailmill.io.sources.files import CsvFiles
from mailmill.pipelines.ingest.ports import RawBatch

TEXT = b"email,name\na@x.org,Ann\n"
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(range(256))


def packed(**members: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name.replace("_csv", ".csv"), text)
    return content.getvalue()


def tarred(text: bytes) -> bytes:
    content, info = io.BytesIO(), tarfile.TarInfo("list.csv")
    info.size = len(text)
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(info, io.BytesIO(text))
    return content.getvalue()


def said(feed: CsvFiles):
    return list(feed.batches(None))


def test_F37_a_packed_file_is_the_same_batch_as_the_plain_one(mill):
    plain, gz = mill.file(TEXT, "a.csv"), mill.file(gzip.compress(TEXT), "a.csv.gz")
    both = mill.file(packed(one_csv=TEXT, two_csv=b"email\nb@x.org\n", readme=b"x"), "a.zip")
    batches = said(CsvFiles(paths=[plain, gz, both]))
    assert [batch.origin for batch in batches] == ["a.csv", "a.csv.gz", "a.zip/one.csv", "a.zip/two.csv"]
    assert len({batch.key for batch in batches}) == 2


def test_P01_a_table_of_another_kind_in_an_archive_is_refused_by_its_name_and_the_texts_are_read(mill):
    book = a_workbook(["email"], ["b@x.org"])
    members = {
        "a_csv": TEXT,
        "b.XLSX": book,
        "in/c.csv.gz": b"x",
        "__MACOSX/._b.xlsx": b"x",
        "p.png": PNG,
        "d.zip/": b"",
    }
    found = said(CsvFiles(paths=[mill.file(packed(**members), "a.zip")]))
    assert [one.origin for one in found] == ["a.zip/a.csv", "a.zip/b.XLSX", "a.zip/in/c.csv.gz"]
    assert [one.text.partition(": ")[2] for one in found[1:]] == [
        "in an archive only text files are read; unpack it"
    ] * 2


@pytest.mark.parametrize(
    ("content", "says"),
    [
        pytest.param(gzip.compress(TEXT * 100)[:40], "cannot be read: its end is missing", id="a .gz that is cut off"),
        pytest.param(packed(one_csv=TEXT)[:60], "cannot be read", id="a .zip that is cut off"),
        pytest.param(packed(sheet=b"x"), "export it as CSV", id="an archive without a text"),
        pytest.param(
            packed(**{"[Content_Types].xml": b"x", "xl/workbook.xml": b"x"}), "workbook cannot be read", id="no XLSX"
        ),
        pytest.param(packed(**{"META-INF/manifest.xml": b"x", "content.xml": b"x"}), "looks like ODS", id="ODS"),
        pytest.param(PNG, "no text file (it looks like PNG); export it as CSV", id="PNG"),
        pytest.param(gzip.compress(PNG), "looks like PNG", id="PNG in a .gz"),
        pytest.param(
            gzip.compress(tarred(b"email,phone\n" + b"b@x.org,+4315337031\n" * 5000)), "like TAR", id=".tar.gz"
        ),
        pytest.param(packed(one_csv=PNG), "looks like PNG", id="PNG in a .zip, called CSV"),
        pytest.param(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n", "looks like PDF", id="PDF"),
        pytest.param(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(512), "looks like XLS", id="XLS"),
        pytest.param(random.Random(1).randbytes(5000), "full of control characters", id="noise"),
        pytest.param(bytes(5000), "full of control characters", id="nothing but NULs"),
        pytest.param(bytes(b for n in range(900) for b in (n % 251, 0)), "full of control", id="numbers of 16 bits"),
        pytest.param(b"a@x.org,Ann\n", "header line", id="no header"),
        pytest.param(
            b"Ann <b@x.org>, Bob <c@x.org>\n", "first line holds contacts", id="a line of names and addresses"
        ),
        pytest.param(
            b"insert ('ann@x.org', '+43 664 1234567');\n",
            "there are: insert ('a***@x***.org', '+43***",
            id="a line of SQL, which is kept where no address may be",
        ),
        pytest.param(b"Members 2026\n\nemail,name\nb@x.org,Bob\n", "take away the lines above", id="a title"),
        pytest.param(b"\xef\xbb\xbf\n<!DOCTYPE html><table><td>email</td>", "looks like HTML", id="HTML"),
        pytest.param(b'[\n  {"email": "b@x.org"}]', "looks like JSON", id="JSON"),
        pytest.param(b"BEGIN:VCARD\r\nEMAIL:b@x.org\r\n", "looks like vCard", id="vCard"),
        pytest.param("email,name\nb@x.org,Борис\n".encode("cp1251"), "encoding cannot be found", id="Windows-1251"),
        pytest.param("email,name\nb@x.org,鈴木一郎\n".encode("shift_jis"), "encoding cannot be found", id="Shift-JIS"),
        pytest.param("email,name\nb@x.org,Błażej\n".encode("cp1250"), "encoding cannot be found", id="Windows-1250"),
        pytest.param("email,name\nb@x.org,Jörg Müller\n".encode("mac_roman"), "encoding cannot", id="of a Mac"),
        pytest.param("email,name\nb@x.org,Jörg Müller\n".encode("cp850"), "encoding cannot", id="of DOS"),
        pytest.param(b"Ort,Name\nRom,Ann\n", "e-mail address", id="no address column"),
    ],
)
def test_F37_what_cannot_be_read_as_a_whole_is_refused_and_the_rest_goes_on(mill, content, says):
    source = mill.source()
    done = mill.run(source, CsvFiles(paths=[mill.file(content, "bad.csv"), mill.file(TEXT, "good.csv")]))
    (refusal,) = done.received.refused
    assert refusal.origin.startswith("bad.csv")
    assert says in done.received.refused[0].message
    assert list(mill.contacts()) == ["a@x.org"]


def test_P04_what_is_windows_1252_is_read_and_what_is_not_once_the_source_names_its_encoding(mill):
    names = ["Françoise Müller-Lüdenscheidt", "Þórður Åström", "„Zitat“ – naïve…", "Mª José d´Arc", "col·legi", "äöüß"]
    content = "email,name\n" + "".join(f"{n}@x.org,{name}\n" for n, name in enumerate(names))
    assert mill.read(mill.source(), content.encode("cp1252")).received.refused == ()
    assert [row["name"] for row in mill.contacts().values()] == names
    russian = "email,name\n1@y.org,Борис\n".encode("cp1251")
    assert mill.read(mill.source(), russian, encoding="cp1251").received.refused == ()
    assert mill.contacts()["1@y.org"]["name"] == "Борис"


def damaged(content: bytes, member: bytes) -> bytes:
    """The archive with the first bytes of a member's data overwritten."""
    at = content.index(member) + len(member)
    return content[:at] + b"\xff" * 8 + content[at + 8 :]


def test_P01_a_damaged_member_of_an_archive_is_named_and_the_others_are_read(mill):
    content = damaged(packed(a_csv=TEXT, b_csv=b"email\nb@x.org\n" * 9, c_csv=b"email\nc@x.org\n"), b"b.csv")
    one, refusal, two = said(CsvFiles(paths=[mill.file(content, "three.zip")]))
    assert (one.origin, two.origin) == ("three.zip/a.csv", "three.zip/c.csv")
    assert refusal.text.startswith("three.zip/b.csv: the file cannot be read: ")


def test_P04_the_members_of_an_archive_are_read_whenever_they_are_asked_for_and_it_is_opened_once(mill, monkeypatch):
    for part in ("io.sources.contents.BLOCK", "pipelines.ingest.decoding.CHUNK"):
        monkeypatch.setattr(f"mailmill.{part}", 10)
    path = mill.file(packed(**{f"{n}_csv": TEXT * 100 for n in range(5)}), "many.zip")
    opened, open_anew = [], zipfile.ZipFile.__init__
    monkeypatch.setattr(zipfile.ZipFile, "__init__", lambda *args: opened.append(1) or open_anew(*args))
    one_by_one = [batch.table.frame.height for batch in CsvFiles(paths=[path]).batches(None)]
    assert (one_by_one, len(opened)) == ([199] * 5, 1)
    assert [batch.table.frame.height for batch in said(CsvFiles(paths=[path]))] == [199] * 5


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (packed(a_csv=TEXT, b_csv=TEXT).replace(b"b.csv", b"a.csv"), "two files of the archive have the same name"),
        (packed(é_csv=TEXT).replace(b"\xc3\xa9.csv", b"\xc3\xc3.csv"), "cannot be read"),
    ],
)
def test_P01_names_in_an_archive_that_cannot_be_are_a_refusal(mill, content, says):
    (refusal,) = said(CsvFiles(paths=[mill.file(content, "odd.zip")]))
    assert says in refusal.message


def test_P01_a_name_that_is_not_utf_8_is_shown_as_it_can_be_and_stops_nothing(mill):
    folder = mill.folder / "in"
    folder.mkdir()
    for name, content in ((b"a\xe9.csv", TEXT), (b"b\xe9.csv", PNG), (b"c\xe9.zip", packed(a_csv=b"email\nc@x.org\n"))):
        (folder / os.fsdecode(name)).write_bytes(content)
    source = mill.source(folder="in")
    done = mill.run(source, CsvFiles(folder=folder, settle_s=0))
    assert list(mill.contacts()) == ["a@x.org", "c@x.org"]
    assert [refusal.origin for refusal in done.received.refused] == ["b\\xe9.csv"]
    assert [batch.origin for batch in mill.store.batches(source, None)] == ["a\\xe9.csv", "c\\xe9.zip/a.csv"]


def a_workbook(*rows: list) -> bytes:
    book, content = openpyxl.Workbook(), io.BytesIO()
    for row in rows:
        book.active.append(row)
    book.save(content)
    return content.getvalue()


def test_P04_a_workbook_is_read_as_a_person_sees_it_with_the_row_of_the_sheet(mill):
    day, moment = date(2026, 1, 2), datetime(2026, 1, 2, 3, 4, 5)  # noqa: DTZ001
    head = ["E-Mail", "Name", "Zahl", "Datum", "Zeit", "Uhr", "Bruch"]
    book = a_workbook([], head, ["a@x.org", "Zo\u00eb", 3, day, moment, clock(1, 2, 3), 1.5], [], ["bad"])
    done = mill.run(mill.source(), CsvFiles(paths=[mill.file(book, "people.xlsx")]))
    assert (done.received.refused, done.validated.accepted) == ((), 1)
    contact = mill.contacts()["a@x.org"]
    assert (contact["name"], contact["fields"]) == (
        "Zo\u00eb", {
            "zahl": "3", "datum": "2026-01-02", "zeit": "2026-01-02 03:04:05", "uhr": "01:02:03", "bruch": "1.5",
        },
    )  # fmt: skip
    assert [(row["line"], row["reason"]) for row in mill.rejected()] == [(5, "address_without_at")]


def a_workbook_of(*, hidden: str = "", **sheets: list[list[str]]) -> bytes:
    book, content = openpyxl.Workbook(), io.BytesIO()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
        sheet.sheet_state = "hidden" if name == hidden else "visible"
    book.save(content)
    return content.getvalue()


def test_P04_a_sheet_that_nobody_sees_is_read_only_where_the_source_names_it(mill):
    old, new = [["email"], ["old@x.org"]], [["email"], ["new@x.org"]]
    path = mill.file(a_workbook_of(hidden="Old", Old=old, Members=new), "people.xlsx")
    done = mill.run(mill.source(), CsvFiles(paths=[path]))
    assert list(mill.contacts()) == ["new@x.org"]
    assert "only the sheet 'Members' is read, not 'Old' (hidden); " in done.received.notes[0]
    mill.run(mill.source(), CsvFiles(paths=[path], sheet="old"))
    assert list(mill.contacts()) == ["new@x.org", "old@x.org"]
    path = mill.file(a_workbook_of(hidden="Old", Old=old, Cover=[]), "alone.xlsx")
    notes = mill.run(mill.source(), CsvFiles(paths=[path])).received.notes
    assert "no sheet is read, not 'Old' (hidden); " in " ".join(notes)


def test_P04_of_a_workbook_the_sheet_that_the_source_names_is_read_and_the_others_are_named(mill):
    people = {"Cover": [], "Old": [["email"], ["old@x.org"]], "Members": [["email"], ["new@x.org"]], "Blank": []}
    path = mill.file(a_workbook_of(**people), "people.xlsx")
    done = mill.run(mill.source(), CsvFiles(paths=[path]))
    assert list(mill.contacts()) == ["old@x.org"]
    (note,) = done.received.notes
    assert note == ("people.xlsx: of the workbook only the sheet 'Old' is read, not 'Members'; "
                    "`sheet` of the source names another")  # fmt: skip
    source = mill.source(sheet="members")
    done = mill.run(source, feed_of(source, project=mill.folder, secret=str, files=[path]))
    assert list(mill.contacts()) == ["new@x.org", "old@x.org"], "by another sheet the same file is another batch"
    assert "not 'Old'" in done.received.notes[0]
    gone = mill.run(mill.source(), CsvFiles(paths=[path], sheet="Member"))
    assert gone.received.refused[0].message.startswith("the workbook has no sheet 'Member'")
    assert "'Cover', 'Old', 'Members', 'Blank'" in gone.received.refused[0].message
    blank = mill.run(mill.source(), CsvFiles(paths=[path], sheet="Blank"))
    assert blank.received.notes[0] == "people.xlsx: the file is empty"
    assert mill.run(mill.source(), CsvFiles(paths=[path])).received.known == 1


def a_sheet(xml: str) -> bytes:
    """A workbook whose one sheet is this XML."""
    content = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(a_workbook([]))) as old, zipfile.ZipFile(content, "w") as new:
        for name in old.namelist():
            start = '<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>'
            text = f"{start}{xml}</sheetData></worksheet>".encode()
            new.writestr(name, text if name.endswith("sheet1.xml") else old.read(name))
    return content.getvalue()


HEAD = '<row r="1"><c r="A1" t="inlineStr"><is><t>email</t></is></c></row>'


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ('<row r="1048576"><c r="XFD1048576"><v>1</v></c></row>', "reaches to the cell XFD1048576"),
        (f'<row>{"<c/>" * 16_000}<c><v>1</v></c></row><row r="1048576"><c><v>1</v></c></row>', "cell WQK1048576"),
        ("<row><c><v>1</v></row>", "sheet1.xml is damaged"),
    ],
)
def test_F37_a_workbook_with_a_cell_far_outside_is_refused_by_its_name_and_others_go_on(mill, rows, says):
    (mill.folder / "in").mkdir()
    for name, content in (("a.xlsx", a_sheet(HEAD + rows)), ("b.csv", TEXT)):
        (mill.folder / "in" / name).write_bytes(content)
    refusal, batch = said(CsvFiles(folder=mill.folder / "in", settle_s=0))
    assert says in refusal.message and batch.origin == "b.csv"


def test_F37_a_workbook_with_a_number_that_is_no_date_and_formatted_as_one_is_refused_and_others_go_on(mill):
    book = openpyxl.Workbook()
    book.active.append(["email", "phone"])
    book.active.append(["a@x.org", -(10**12)])
    book.active["B2"].number_format = "yyyy-mm-dd"
    book.save(mill.folder / "a.xlsx")
    refusal, batch = said(CsvFiles(paths=[mill.folder / "a.xlsx", mill.file(TEXT, "b.csv")]))
    assert "the workbook cannot be read" in refusal.message and batch.origin == "b.csv"


def test_P04_empty_cells_far_outside_that_have_only_a_look_are_none(mill):
    far = a_sheet(HEAD + '<row r="1048576" s="1"><c r="XFD1048576" s="1"/></row>')
    (batch,) = said(CsvFiles(paths=[mill.file(far, "a.xlsx")]))
    assert batch.table.columns == ("email",)


def test_P04_a_workbook_without_rows_is_an_answer_and_one_without_a_header_is_refused(mill):
    paths = [mill.file(a_workbook(), "empty.xlsx"), mill.file(a_workbook(["a@x.org", "Ann"]), "bare.xlsx")]
    done = mill.run(mill.source(), CsvFiles(paths=paths))
    assert done.received.notes == ("empty.xlsx: the file is empty",)
    assert "not the names of the columns" in done.received.refused[0].message


def test_P04_a_gz_of_several_members_is_read_to_its_end(mill):
    content = gzip.compress(TEXT) + gzip.compress(b"b@x.org,Bob\n")
    done = mill.run(mill.source(), CsvFiles(paths=[mill.file(content, "two.csv.gz")]))
    assert done.received.rows == 2 and list(mill.contacts()) == ["a@x.org", "b@x.org"]


def test_P04_a_file_that_changes_while_it_is_read_is_refused_and_nothing_of_it_kept(mill, monkeypatch):
    monkeypatch.setattr("mailmill.io.sources.contents.BLOCK", 10)
    monkeypatch.setattr("mailmill.pipelines.ingest.decoding.CHUNK", 10)
    path = mill.file(TEXT * 1000)
    (batch,) = said(CsvFiles(paths=[path]))
    path.write_bytes(TEXT * 1000 + b"b@x.org,Bob\n")
    with pytest.raises(Misconfigured, match="changed while it was read"):
        mill.store.keep(mill.source(), batch)
    assert mill.rows("SELECT count(*) n FROM batches") == [{"n": 0}]


def test_P01_a_list_of_phone_numbers_and_names_is_read_as_such_lists_are(mill):
    lines = ["phone_number,name", "+12125550123,Ann", "2125550124,Bob", "+1 (212) 555-0123,Anna", "12,Cem"]
    done = mill.run(mill.source(), CsvFiles(paths=[mill.file("\n".join(lines))]))
    contacts = mill.contacts()
    assert contacts["+12125550123"]["name"] == "Anna" and contacts["+12125550123"]["email"] is None
    assert "phone_syntax" in {row["reason"] for row in mill.rejected()}
    assert done.validated.read == 4


def test_F37_an_empty_file_is_an_answer(mill):
    done = mill.read(mill.source(), b"")
    assert (done.received.rows, len(done.received.batches), done.received.refused) == (0, 1, ())
    assert done.loaded.counts.batches == 1


@pytest.mark.parametrize("encoding", [None, "utf-16-le"])
def test_F37_a_text_with_odd_characters_is_still_a_text(mill, encoding):
    lines = "email,name\n" + "".join(f"u{n}@x.org,Zo\u00eb {chr(n % 4)}\n" for n in range(2000)) + "\x1a"
    done = mill.read(mill.source(), lines.encode(encoding or "utf-8"))
    assert done.received.refused == ()
    assert done.validated.accepted == 1500


@pytest.mark.parametrize(
    ("content", "says"), [(b"", "empty"), (b"\n\n", "empty"), (b"email,name\n", "a header and no rows")]
)
def test_F37_a_file_without_rows_is_noted_each_time_it_comes(mill, content, says):
    source = mill.source()
    for _ in range(2):
        done = mill.read(source, content)
        assert [note for note in done.received.notes if says in note], done.received.notes
        assert done.received.refused == ()


def test_a_bomb_is_not_unpacked(mill, monkeypatch):
    monkeypatch.setattr("mailmill.io.sources.contents.MAX_BYTES", 1000)
    for content in (gzip.compress(b"x" * 5000), packed(one_csv=b"x" * 5000)):
        refused = said(CsvFiles(paths=[mill.file(content, "bomb")]))
        assert "larger" in refused[0].message


def test_a_folder_gives_every_file_again_and_takes_none_away(mill):
    source = mill.source(folder="in")
    folder = mill.folder / "in"
    folder.mkdir()
    for name in ("one.csv", ".hidden.csv", "two.csv.part"):
        (folder / name).write_bytes(TEXT)
    assert mill.run(source, CsvFiles(folder=folder, settle_s=0)).received.rows == 1
    (folder / "two.csv").write_bytes(TEXT + b"b@x.org,Bob\n")
    done = mill.run(source, CsvFiles(folder=folder, settle_s=0))
    assert (done.received.known, done.received.rows, done.loaded.counts.new) == (1, 2, 1)
    assert len(list(folder.iterdir())) == 4


def test_P01_a_spreadsheet_of_another_kind_in_the_folder_is_refused_and_not_overlooked(mill):
    folder = mill.folder / "in"
    folder.mkdir()
    xls = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(512)
    ods = packed(**{"META-INF/manifest.xml": b"x", "content.xml": b"x"})
    book = a_workbook(["email"], ["a@x.org"])
    for name, content in (
        ("a.xls", xls),
        ("b.ods", ods),
        ("c.xlsm", book),
        ("d.xlsb", packed(sheet=b"x")),
        ("e.md", b"x"),
    ):
        (folder / name).write_bytes(content)
    found = said(CsvFiles(folder=folder, settle_s=0))
    assert [one.origin for one in found] == ["a.xls", "b.ods", "c.xlsm", "d.xlsb"]
    assert [one.origin for one in found if isinstance(one, RawBatch)] == ["c.xlsm"]


def test_a_file_that_is_still_being_copied_is_waited_for(mill, monkeypatch):
    folder = mill.folder / "in"
    folder.mkdir()
    path = folder / "slow.csv"
    path.write_bytes(TEXT)

    rest = [b"user%d@x.org,U\n" % number for number in range(5)]

    def copied_meanwhile(seconds: float) -> None:
        if rest:
            with path.open("ab") as file:
                file.write(rest.pop())
        else:  # nobody has written for long
            os.utime(path, (1_700_000_000, 1_700_000_000))

    monkeypatch.setattr(files.time, "sleep", copied_meanwhile)
    batches = said(CsvFiles(folder=folder, settle_s=3600.0))
    assert batches[0].table.frame.height == 6


def test_the_age_of_a_file_is_the_recency_of_its_values(mill):
    source = mill.source()
    old, new = mill.file("email,name\na@x.org,Old\n", "old.csv"), mill.file("email,name\na@x.org,New\n", "new.csv")
    os.utime(old, (1_700_000_000, 1_700_000_000))
    mill.run(source, CsvFiles(paths=[new]))
    mill.run(source, CsvFiles(paths=[old]))
    assert mill.contacts()["a@x.org"]["name"] == "New"
    for odd in (-(10**11), 10**12):  # no year of a calendar, which a broken clock or copy leaves behind
        os.utime(old, (odd, odd))
        (batch,) = CsvFiles(paths=[old]).batches(None)
        assert isinstance(batch, RawBatch) and 1970 <= batch.seen_at.year <= datetime.now(UTC).year


def test_P03_a_row_of_an_old_date_keeps_the_weight_of_its_source_in_either_order(mill):
    weak, strong = mill.source("lo"), mill.source("hi", priority=100)
    for number, sources in enumerate([(weak, strong), (strong, weak)]):
        for source in sources:
            name, date = ("High", "1900-01-01") if source is strong else ("Low", "2026-01-01")
            mill.read(source, f"email,name,created_at\na{number}@x.org,{name},{date}\n")
    assert [row["name"] for row in mill.contacts().values()] == ["High", "High"]


def test_a_folder_in_the_place_of_a_file_is_called_one(mill):
    with pytest.raises(Misconfigured, match=r"a folder, not a file\n.*Name the files"):
        said(CsvFiles(paths=[mill.folder]))


def test_a_file_or_folder_that_is_not_there_or_cannot_be_looked_at_is_named(mill):
    pipe, long = mill.folder / "pipe", mill.folder / ("x" * 300)  # as one that lies where nobody may look
    os.mkfifo(pipe)
    for feed, says in (
        (CsvFiles(paths=[mill.folder / "no.csv"]), r"no\.csv: there is no such file"),
        (CsvFiles(folder=mill.folder / "no"), "the folder of the source is not there"),
        (CsvFiles(paths=[pipe]), "a pipe or a device, not a file"),
        (CsvFiles(paths=[long]), "x: it cannot be read: File name too long"),
        (CsvFiles(folder=long), "x: it cannot be read: File name too long"),
    ):
        with pytest.raises(Misconfigured, match=says):
            said(feed)


@pytest.mark.parametrize(("country", "keys"), [(None, ["+12025550123"]), ("US", ["+12025550123", "+12025550124"])])
def test_P01_ten_digits_are_a_number_where_the_source_says_its_country(mill, country, keys):
    """So the list is corrected and read again; each number says itself whether it is Canadian."""
    lines = ["phone_number,name", "+12025550123,Ann", "2025550124,Bob"]
    done = mill.run(mill.source(country=country), CsvFiles(paths=[mill.file("\n".join(lines))]))
    assert sorted(mill.contacts()) == keys
    assert done.validated.rejected == 2 - len(keys)
    assert {contact["country"] for contact in mill.contacts().values()} == {None}


def test_the_country_of_a_source_is_that_of_rows_that_name_none_and_have_no_number_of_another(mill):
    rows = [
        "email,phone,country", "none@x.org,,", "named@x.org,,Germany", "abroad@x.org,+12025550123,",
        "here@x.org,01 5337031,", "there@x.org,030 1234567,DE", "odd@x.org,,Atlantis",
    ]  # fmt: skip
    mill.run(mill.source(country="AT"), CsvFiles(paths=[mill.file("\n".join(rows))]))
    shown = mill.generation().sort("email").select("email", "country", "phone").rows()
    assert shown == [
        ("abroad@x.org", "US", "+12025550123"), ("here@x.org", "AT", "+4315337031"), ("named@x.org", "DE", None),
        ("none@x.org", "AT", None), ("odd@x.org", "AT", None), ("there@x.org", "DE", "+49301234567"),
    ]  # fmt: skip
    assert mill.contacts()["odd@x.org"]["fields"] == {"country_as_given": "Atlantis"}


def test_an_empty_file_is_no_change_of_columns(mill):
    source = mill.source(on_change="hold")
    mill.read(source, "email,name\na@x.org,Ann\n")
    done = mill.read(source, b"")
    assert (done.received.held, done.received.notes) == ((), ("list-0.csv: the file is empty",))
