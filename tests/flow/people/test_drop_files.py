"""Dropped archives and workbooks: a person is taken out of them, and what cannot be written anew is set aside."""

from __future__ import annotations

import gzip
import io
import os
import shlex
import zipfile
from pathlib import Path

import openpyxl
import pytest
from people_world import ANN, PEOPLE, People

from mailmill.errors import Misconfigured
from mailmill.io.sources import drop_folders
from mailmill.io.sources.files import CsvFiles
from mailmill.pipelines.ingest.ports import RawBatch


def workbook() -> bytes:
    book, content = openpyxl.Workbook(), io.BytesIO()
    for row in PEOPLE.splitlines()[:-1]:
        book.active.append(row.split(","))
    book.save(content)
    return content.getvalue()


def archive(**members: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, member in members.items():
            packed.writestr(name.replace("_", "."), member)
    return content.getvalue()


def held(folder: Path) -> dict[str, list[str | None]]:
    """Every table of a folder -> its addresses, as an import reads them."""
    found = CsvFiles(folder=folder, settle_s=0).batches(None)
    return {one.origin: one.table.frame["col:email"].to_list() for one in found if isinstance(one, RawBatch)}


def test_a_number_that_stands_as_bare_digits_is_taken_out_by_its_number(people: People) -> None:
    """A list of `phone_number,name` whose country the source says: +1 202 555 0124 stands there as 2025550124."""
    numbers = "phone_number,name\n2025550124,Bo\n+12025550123,Al\n(202) 555-0124,Bo again\n12025550124,\nNo number,Bo\n"
    people.tenant("acme", source="country: US\n", people=numbers)
    assert people.ask("ingest", "acme/inbox")["contacts"] == 2
    assert "2025550124" in people.texts(1)
    assert people.ask("forget", "+12025550124")["proved"]
    left = people.texts(1)
    assert "2025550124" not in left and "(202) 555-0124" not in left
    assert "+12025550123" in left
    assert people.ask("ingest", "acme/inbox")["contacts"] == 1
    (people.mill.project / "acme" / "again.csv").write_text("phone_number,name\n202-555-0124,Bo\n")
    assert people.ask("ingest", "acme/inbox")["reasons"] == {"forgotten": 1}


def test_a_person_is_taken_out_of_archives_and_workbooks_and_they_stay_the_batches_they_were(people: People) -> None:
    people.tenant("acme")
    folder, text = people.mill.project / "acme", PEOPLE.encode()
    (folder / "packed.csv.gz").write_bytes(gzip.compress(text + b"dan@people.example,,,,,\n"))
    two = archive(
        one_csv=text + b"eve@people.example,,,,,\n", two_txt=b"email\nfay@people.example\n", read_me=b"no list"
    )
    (folder / "both.zip").write_bytes(two)
    (folder / "book.xlsx").write_bytes(workbook())
    before = held(folder)
    said = people.ask("ingest", "acme/inbox")
    assert (said["new"], said["refused"]) == (7, [])
    assert people.ask("forget", ANN)["proved"]
    after = held(folder)
    assert after.keys() == before.keys()
    for origin, addresses in before.items():
        kept = [text for text in addresses if text and text.lower() != ANN]
        assert [text for text in after[origin] if text] == [text.replace(f" {ANN}", " ***") for text in kept]
    with zipfile.ZipFile(folder / "both.zip") as packed:
        assert packed.read("read.me") == b"no list"
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    batches = people.rows("SELECT count(*) FROM batches")
    assert people.ask("ingest", "acme/inbox")["new"] == 0
    assert people.rows("SELECT count(*) FROM batches") == batches, "each file is the batch it was"


def test_what_cannot_be_written_anew_is_set_aside_and_the_command_that_ends_it_is_told(people: People) -> None:
    people.tenant("acme")
    folder = people.mill.project / "acme"
    (folder / "with it.zip").write_bytes(archive(list_csv=PEOPLE.encode(), letter_pdf=b"%PDF-1.4 dear " + ANN.encode()))
    torn = archive(good_csv=PEOPLE.encode(), torn_csv=PEOPLE.encode())
    at = torn.index(b"torn.csv") + 8
    (folder / os.fsdecode(b"t\xe9rn.zip")).write_bytes(torn[:at] + b"\xff" * 8 + torn[at + 8 :])
    (folder / "notes.json").write_text(f'{{"ask": "{ANN}"}}')
    (folder / f"{ANN}.csv").write_bytes(b"%PDF-1.4")  # so that what the import says of it names her
    with pytest.raises(Misconfigured, match=r"t\\xe9rn.zip/torn.csv: the file cannot be read"):
        people.ask("ingest", "acme/inbox")
    said = people.ask("forget", ANN, code=1)
    hits = [hit for found in said["tenants"][0]["searched"] for hit in found["hits"]]
    assert len(hits) == 4 and all("take the person out" in hit for hit in hits)
    assert [path.name for path in folder.iterdir()] == ["people.csv"], "no import reads it again"
    moved = people.mill.home / "quarantine" / "acme" / "with it.zip"
    assert f"mv {shlex.quote(str(moved))} {shlex.quote(str(folder / 'with it.zip'))}" in hits[3]
    assert f"mv $'{moved.parent}/t\\xe9rn.zip' $'{folder}/t\\xe9rn.zip'" in hits[2]
    for path in moved.parent.glob("[!.]*[!y]"):
        path.unlink()
    assert people.ask("forget", ANN)["proved"]
    assert not list(moved.parent.iterdir()), "nor what was noted of them"
    assert ANN not in people.texts(1).replace("joann@people.example", "")


def test_a_folder_of_several_sources_or_of_a_deleted_one_is_cleaned_once_and_for_each(people: People) -> None:
    people.tenant("acme")
    folder = people.mill.project / "acme"
    yaml = people.mill.project / "two.yaml"
    for slug, place in (("second", "acme"), ("gone", "old")):
        yaml.write_text(f"kind: source\ntenant: acme\nslug: {slug}\ntype: csv\nfolder: {place}\nmax_reject_share: 1\n")
        people.do("apply", str(yaml))
    (people.mill.project / "old").mkdir()
    (people.mill.project / "old" / "list.csv").write_text(PEOPLE)
    for slug in ("inbox", "second", "gone"):
        people.do("ingest", f"acme/{slug}")
    people.do("sources", "delete", "acme/gone", "--contacts", "keep")
    yaml.write_text("kind: source\ntenant: acme\nslug: away\ntype: csv\nfolder: not mounted\n")
    people.do("apply", str(yaml))
    said = people.do("forget", ANN)
    assert f"note: {people.mill.project / 'not mounted'} is not there, so it was not searched" in said
    for file in (folder / "people.csv", people.mill.project / "old" / "list.csv"):
        assert ANN not in file.read_text().lower().replace(f"jo{ANN}", "")
    for slug in ("inbox", "second"):
        assert people.ask("ingest", f"acme/{slug}")["known_before"] == 1, "the file is the batch it was"


def test_a_file_that_is_written_or_taken_away_while_somebody_is_forgotten_stays_so(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    people.tenant("acme")
    folder, real = people.mill.project / "acme", drop_folders.replace
    (folder / "other.csv").write_text(PEOPLE)

    def replace(found: drop_folders.Looked) -> None:
        (folder / "people.csv").write_text(f"email\nnew@people.example\n{ANN}\n")
        (folder / "other.csv").unlink()
        real(found)

    with monkeypatch.context() as patch:
        patch.setattr(drop_folders, "replace", replace)
        said = people.ask("forget", ANN, code=1)
    assert [hit for one in said["tenants"][0]["searched"] for hit in one["hits"]] == [
        f"{folder / 'people.csv'}: came meanwhile; run this again"
    ]
    assert [path.name for path in folder.iterdir()] == ["people.csv"]
    assert people.ask("forget", ANN)["proved"]
    assert (folder / "people.csv").read_text() == "email\nnew@people.example\n"
