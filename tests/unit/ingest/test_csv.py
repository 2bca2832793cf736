"""F37: whatever a spreadsheet program writes is read, or refused with its line. P04: nothing is silently half-read."""

from __future__ import annotations

import csv as stdlib_csv
import io

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailmill.errors import Misconfigured
from mailmill.pipelines.ingest.columns import headers
from mailmill.pipelines.ingest.csv import read_csv
from mailmill.pipelines.ingest.raw import CELL

PLAIN = "email,name\na@x.org,Jörg\nb@x.org,Zoë\n"


def rows(content: bytes | str, **settings):
    """(line, cells…) of what was read, and (line, problem) of what was not."""
    table = read_csv(content.encode() if isinstance(content, str) else content, **settings)
    good, bad = [], []
    for row in table.frame.iter_rows(named=True):
        if row["problem"]:
            bad.append((row["line"], row["problem"]))
        else:
            good.append((row["line"], *(row[CELL + name] for name in table.columns)))
    return good, bad


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(PLAIN.encode(), id="UTF-8"),
        pytest.param(PLAIN.encode("utf-8-sig"), id="UTF-8 with BOM"),
        pytest.param(PLAIN.encode("utf-16"), id="UTF-16 with BOM"),
        pytest.param(PLAIN.encode("utf-16-le"), id="UTF-16 LE"),
        pytest.param(PLAIN.encode("utf-16-be"), id="UTF-16 BE"),
        pytest.param(PLAIN.encode("utf-32"), id="UTF-32 with BOM"),
        pytest.param(PLAIN.encode("cp1252"), id="Windows-1252"),
        pytest.param(PLAIN.replace("\n", "\r\n").encode(), id="CRLF"),
        pytest.param(PLAIN.replace("\n", "\r").encode(), id="CR only"),
        pytest.param(PLAIN.replace("\n", "\r\n", 1).encode(), id="mixed line ends"),
        pytest.param(PLAIN.rstrip("\n").encode(), id="no end to the last line"),
        pytest.param(PLAIN.replace(",", ";").encode(), id="semicolons"),
        pytest.param(PLAIN.replace(",", "\t").encode("utf-16"), id="UTF-16 with tabs"),
        pytest.param(PLAIN.replace(",", "|").encode(), id="pipes"),
        pytest.param('"email","name"\n"a@x.org","Jörg"\n"b@x.org","Zoë"\n'.encode(), id="all quoted"),
    ],
)
def test_F37_the_same_rows_come_out_of_every_encoding_delimiter_and_line_end(content):
    good, bad = rows(content)
    assert good == [(2, "a@x.org", "Jörg"), (3, "b@x.org", "Zoë")]
    assert bad == []


@pytest.mark.parametrize(
    ("content", "good", "bad"),
    [
        pytest.param("email,n\na@x.org\nb@x.org,B\nc@x.org,C,D\n", [(3, "b@x.org", "B")],
                     [(2, "ragged_line"), (4, "ragged_line")], id="ragged lines"),
        pytest.param("email,n\na@x.org,\x00\nb@x.org,B\n", [(3, "b@x.org", "B")], [(2, "nul_character")], id="NUL"),
        pytest.param('email,n\na@x.org,"one\ntwo"\nb@x.org,B\n', [(2, "a@x.org", "one\ntwo"), (4, "b@x.org", "B")], [],
                     id="quotes with newlines"),
        pytest.param('email,n\na@x.org,"one\n\n""two"", x\nthree"\nb@x.org,B\n',
                     [(2, "a@x.org", 'one\n\n"two", x\nthree'), (6, "b@x.org", "B")], [], id="all of it quoted"),
        pytest.param('email,n\na@x.org,"open\nb@x.org,B\nc@x.org,C\n', [(3, "b@x.org", "B"), (4, "c@x.org", "C")],
                     [(2, "broken_quote")], id="a quote that never closes swallows nothing"),
        pytest.param('email,n\na@x.org,"open\nb@x.org,B\nc@x.org,"C, D"\n',
                     [(3, "b@x.org", "B"), (4, "c@x.org", "C, D")], [(2, "broken_quote")],
                     id="nor does one that a later quote seems to close"),
        pytest.param('email,n\na@x.org,"Dear all,\nvictim@x.org,he complained\nbye",extra\nb@x.org,B\n',
                     [(5, "b@x.org", "B")], [(2, "ragged_line")], id="nor is what stands in quotes a row"),
        pytest.param('email,n\na@x.org,"Dear all,\nvictim@x.org,he complained\nbye" \nb@x.org,B\n',
                     [(5, "b@x.org", "B")], [(2, "broken_quote")], id="though a space follows the closing quote"),
        pytest.param('email,n\na@x.org,5" disk\nb@x.org,"x"y\n', [(2, "a@x.org", '5" disk')], [(3, "broken_quote")],
                     id="stray quotes"),
        pytest.param("email,n\n\na@x.org,A\n,\n  \nb@x.org,\n", [(3, "a@x.org", "A"), (6, "b@x.org", None)], [],
                     id="blank lines are no rows"),
        pytest.param("sep=;\nemail;n\na@x.org;A,B\n", [(3, "a@x.org", "A,B")], [], id="Excel's sep="),
        pytest.param("a@x.org\nb@x.org\n", [(1, "a@x.org"), (2, "b@x.org")], [], id="one column without a header"),
        pytest.param("Ann <a@x.org>\nb@x.org\n", [(1, "Ann <a@x.org>"), (2, "b@x.org")], [],
                     id="one column of names and addresses without a header"),
        pytest.param("+4930123456\n", [(1, "+4930123456")], [], id="one column of numbers without a header"),
        pytest.param("email\na@x.org\n", [(2, "a@x.org")], [], id="one column"),
        pytest.param("", [], [], id="empty"),
        pytest.param("\ufeff", [], [], id="only a BOM"),
        pytest.param("email,n\n\ufeffb@x.org,\ufeff\n", [(2, "\ufeffb@x.org", "\ufeff")], [], id="a field's own BOM"),
        pytest.param("\n\n", [], [], id="only blank lines"),
        pytest.param("email,n\n", [], [], id="only a header"),
    ],
)  # fmt: skip
def test_F37_a_line_is_read_whole_or_refused_with_its_number(content, good, bad):
    assert rows(content) == (good, bad)


def test_F37_a_field_of_megabytes_is_refused_and_the_rest_read():
    long = "z" * 10_000_000
    good, bad = rows(f"email,n\na@x.org,{long}\nb@x.org,B\n")
    assert (good, bad) == ([(3, "b@x.org", "B")], [(2, "field_too_long")])
    raw = read_csv(f"email,n\na@x.org,{long}\n".encode()).frame["raw"][0]
    assert len(raw) < 70_000 and raw.endswith("[cut]")


def test_P04_no_line_of_a_quoted_field_of_megabytes_is_a_row(monkeypatch):
    monkeypatch.setattr("mailmill.pipelines.ingest.decoding.CHUNK", 300_000)
    text = "victim@x.org,he complained\n" * 60_000
    blocks = [f'email,n\na@x.org,"{text}"\nb@x.org,B\nc@x.org,"open\n'.encode(), text.encode()]
    table = read_csv(blocks)
    frame = table.frame
    bad = frame.filter(pl.col("problem").is_not_null())
    assert bad["line"].to_list() == [*range(2, 60_003), 60_004]
    assert bad["problem"].to_list() == ["field_too_long"] * 60_001 + ["broken_quote"]
    assert bad["raw"][:2].to_list() == ['a@x.org,"victim@x.org,he complained', "victim@x.org,he complained"]
    assert frame["line"].to_list() == [*range(2, 120_005)]
    assert table.notes == ["lines 2-60,002 are one quoted field; if they are rows, a quote is missing"]


def test_F37_a_text_of_many_lines_is_a_row_and_noted_however_many_there_are():
    text = "line\n" * 30
    texts = "".join(f'{name}@x.org,"{text}"\n' for name in "abcdefgh")
    table = read_csv(f"email,n\n{texts}".encode())
    assert table.frame["col:email"].to_list() == [f"{name}@x.org" for name in "abcdefgh"]
    assert len(table.notes) == 6
    assert table.notes[-1] == "further quoted fields are as long"


def test_F37_lines_pasted_in_another_encoding_do_not_spoil_the_rest():
    content = PLAIN.encode() + "zoë@x.org,Zoë\n".encode("latin-1") + b"c@x.org,C\n"
    good, bad = rows(content)
    assert [row[0] for row in good] == [2, 3, 5]
    assert bad == [(4, "bad_encoding")]


def test_F37_a_named_encoding_is_kept_to_and_an_unknown_one_is_said():
    good, bad = rows("email,n\na@x.org,é\n".encode("latin-1"), encoding="utf-8")
    assert (good, bad) == ([], [(2, "bad_encoding")])
    assert rows("email,n\na@x.org,é\n".encode("cp437"), encoding="cp437")[0] == [(2, "a@x.org", "é")]
    for name in ("no-such", "base64"):
        with pytest.raises(Misconfigured, match=name):
            read_csv(b"email\n", encoding=name)


@pytest.mark.parametrize("delimiter", [*"^]-.*(\\", " ", "\x01"])
def test_F37_a_delimiter_that_a_file_names_is_taken_at_its_word(delimiter):
    text = f'sep={delimiter}\nemail{delimiter}n\na@x{delimiter}"b c"\n{delimiter}\nb@x{delimiter}"d"\n'
    assert rows(text) == ([(3, "a@x", "b c"), (5, "b@x", "d")], [])


@pytest.mark.parametrize("delimiter", ["ÿ", "、", '"', "a"])
def test_F37_what_can_be_no_delimiter_is_said_and_stops_no_other_file(delimiter):
    with pytest.raises(Misconfigured, match=f"fields end at {delimiter}"):
        read_csv(f"sep={delimiter}\nemail{delimiter}n\n".encode())


def test_F37_duplicate_and_empty_headers_keep_their_columns():
    table = read_csv(b"email,note,note,\na@x.org,1,2,3\n")
    assert table.columns == ("email", "note", "note (2)", "column 4")


def test_P04_columns_without_names_are_not_guessed():
    for line in ("a@x.org,Ann", "+49 (0)30 123456,Ann"):  # which no message may quote as names of columns
        with pytest.raises(Misconfigured, match="first line holds contacts"):
            read_csv(f"{line}\nb@x.org,Bob\n".encode())
    assert read_csv(b"email,+1 day,+12345,4006381333931\n").columns[1:] == ("+1 day", "+12345", "4006381333931")


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\x00\r"), max_size=8)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=8), st.sampled_from(",;\t|"))
def test_P04_what_a_csv_writer_writes_is_read_back_cell_by_cell(cells, delimiter):
    text = io.StringIO()
    writer = stdlib_csv.writer(text, delimiter=delimiter, lineterminator="\r\n")
    writer.writerows([("email", "a", "b"), *cells])
    table = read_csv(text.getvalue().encode(), delimiter=delimiter)
    read = [tuple(row[3:]) for row in table.frame.iter_rows()]
    filled = [row for row in cells if any(cell.strip(f"{delimiter} \t\n") for cell in row)]
    kept = [tuple(cell or None for cell in row) for row in filled]
    assert [tuple(cell or None for cell in row) for row in read if any(c and c.strip() for c in row)] == [
        row for row in kept if any(c and c.strip() for c in row)
    ]


def test_P04_many_columns_of_one_name_are_told_apart_in_time_linear_in_their_number():
    names = headers(["n", "n (3)", *["n"] * 16_000])
    assert len(set(names)) == 16_002 and names[:5] == ["n", "n (3)", "n (2)", "n (4)", "n (5)"]
