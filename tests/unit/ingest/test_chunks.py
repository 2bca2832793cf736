"""P04: however a file is cut into chunks, and whichever way a line is read, the same rows come out and none is lost."""

from __future__ import annotations

import io
import tracemalloc

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mailmill.errors import Misconfigured
from mailmill.pipelines.ingest import decoding, line_ends, records
from mailmill.pipelines.ingest.csv import read_csv
from mailmill.pipelines.ingest.raw import CELL, RawTable

BITS = st.sampled_from(
    ['"', '""', ",", "\n", "\r\n", "\r", "a", "b@x.org", " ", "\x00", "é", 'x"y', '"q, r"', '"two\nlines"']
)
TEXTS = st.lists(BITS, max_size=40).map("".join)


def read(content: bytes, chunk: int, *, step: int = 7) -> RawTable:
    """In chunks of so many bytes, from blocks of `step` times as many."""
    before, decoding.CHUNK = decoding.CHUNK, chunk
    try:
        blocks = [content[start : start + step] for start in range(0, len(content), step)]
        table = read_csv(blocks, encoding="utf-8", delimiter=",")
        return RawTable(frames=list(table.frames), columns=table.columns)
    finally:
        decoding.CHUNK = before


def rows(table: RawTable) -> list[tuple]:
    return table.frame.sort("line").rows()


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.integers(1, 30))
@example('a,"open\nb,"\n' * 3, 4)
@example("a,b\r\rc,d\r\n\ne,f", 3)
def test_P04_a_file_in_small_chunks_is_the_file_in_one(text, chunk):
    content = ("email,n\n" + text).encode()
    assert rows(read(content, chunk)) == rows(read(content, 10**9))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text("aé€😀\r,", max_size=60), max_size=6), st.integers(1, 30), st.integers(1, 30))
def test_F37_of_a_line_that_is_too_long_enough_is_kept_to_refuse_it_and_others_are_whole(texts, chunk, step):
    content = "\n".join(texts).encode()
    blocks = [content[start : start + step] for start in range(0, len(content), step)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "CHUNK", chunk)
        patch.setattr(line_ends, "MAX_LINE", 20)
        found = [text.encode() for lines in decoding.decode(blocks, "utf-8") for text in lines.text]
    wanted = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").removesuffix(b"\n").split(b"\n") if content else []
    assert len(found) == len(wanted)
    for kept, line in zip(found, wanted, strict=True):
        assert line.startswith(kept) if len(line) >= 20 else kept == line
        assert len(kept) >= 20 or kept == line


def test_F37_a_file_without_line_ends_is_refused_with_its_line_in_bounded_memory():
    blocks = [b'email,n\na@x.org,A\n"b', *[b"x" * 2**22] * 16, b'y"\nc@x.org,C\n']
    tracemalloc.start()
    table = read_csv(blocks, delimiter=",")
    found = table.frame.select("line", "problem", CELL + "email").rows()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == [(2, None, "a@x.org"), (3, "line_too_long", None), (4, None, "c@x.org")]
    assert peak < 150 * 2**20, "of 64 MiB and a file as large as one likes"
    for header, says in ((b"x" * line_ends.MAX_LINE, "longer than 16 MiB"), (b"," * 20_000, "20,001 columns")):
        with pytest.raises(Misconfigured, match=says):
            read_csv(header)


def record(lines: list[str], start: int) -> tuple[list[str] | None, int]:
    """A record's cells, None where a quote breaks it, and the lines that it takes: RFC 4180 character by character."""
    text = "\n".join(lines[start:]) + "\n"
    cells, cell, state, line, opened = [], "", "start", 0, 0
    for at, char in enumerate(text):
        if state == "quoted":
            state, cell = ("closing", cell) if char == '"' else ("quoted", cell + char)
        elif state == "closing" and char == '"':
            state, cell = "quoted", cell + char
        elif char in ",\n":
            cells, cell, state = [*cells, cell], "", "start"
            if char == "\n":
                return cells, line + 1
        elif state == "closing":
            head, rest = text[: at - 1].rpartition("\n")[2].rstrip('"'), text[at:].lstrip(" ")
            opens = (not head or head.endswith(",")) and rest[0] not in ",\n"  # a field of another row
            never_closed = line > opened and opens
            return None, (opened if never_closed else line) + 1
        elif state == "start" and char == '"':
            state, opened = "quoted", line
        else:
            state, cell = "bare", cell + char
        line += text[at] == "\n"
    return None, opened + 1


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.integers(1, 30))
@example('a,"two\nb@x.org,c\n",d\n', 9)
@example('a,"two\nb@x.org,c\n","q"r\ne,f\n', 9)
@example('a,"two\nb@x.org,c\nthree" ,d\n', 9)
@example('a\x00,"two\nb@x.org,c\n"\ne,f\n', 9)
def test_P04_what_polars_reads_is_what_is_read_record_by_record(text, chunk):
    """The careful way alone: each line begins a record, unless the one before reached over it."""
    content = "email,n\n" + text
    lines = content.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    lines = lines[:-1] if lines[-1] == "" else lines
    expected, rejected, index = [], [], 1
    while index < len(lines):
        cells, taken = record(lines, index)
        damaged = "\x00" in "".join(lines[index] if cells is None or taken == 1 else cells)
        if cells is None or damaged or (len(cells) != 2 and lines[index].strip(" ,\t")):
            rejected.append(index + 1)
        elif len(cells) == 2 and (lines[index].strip(" ,\t") or taken > 1):
            expected.append((index + 1, *(cell or None for cell in cells)))
        index += taken
    frame = read(content.encode(), chunk).frame
    good = frame.filter(pl.col("problem").is_null()).select("line", *(c for c in frame.columns if c.startswith(CELL)))
    assert [tuple(cell or None for cell in row) for row in good.sort("line").rows()] == expected
    assert frame.filter(pl.col("problem").is_not_null())["line"].sort().to_list() == rejected


RECORDS = st.lists(st.lists(TEXTS.filter(lambda text: "\r" not in text), min_size=1, max_size=4), max_size=6)


@settings(max_examples=150, deadline=None)
@given(RECORDS, st.sampled_from(["\n", " \n", ',"y"z\n']), st.integers(1, 60))
def test_P04_no_line_inside_a_closed_quoted_field_is_ever_a_row(records, end, chunk):
    """Whatever is wrong with the record: its width, a NUL, text behind a closing quote."""
    text, starts, line = "email,n\n", [], 2
    for cells in records:
        written = ",".join('"' + cell.replace('"', '""') + '"' for cell in cells) + end
        starts.append(line)
        text += written
        line += written.count("\n")
    assert read(text.encode(), chunk).frame["line"].to_list() == starts


@pytest.mark.parametrize("look_on", [2**16, 2**30])
def test_P04_a_quote_that_never_closes_gives_the_lines_behind_it_back_also_in_a_long_file(look_on, monkeypatch):
    monkeypatch.setattr(records, "LOOK_ON", look_on)
    table = read(b'email,n\na@x.org,"open\n' + b"b@x.org,B\n" * 200_000, 2**19, step=2**19)
    assert table.frame["problem"].drop_nulls().to_list() == ["broken_quote"]
    assert table.frame["line"].to_list() == list(range(2, 200_003))


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=200)
    | st.lists(st.sampled_from([b'"', b",", b"\n", b"\r", b"\xff", b"\xc3\xa9", b"a"])).map(b"".join)
)
def test_P04_of_any_bytes_each_line_that_is_not_blank_is_a_row_or_a_reject(content):
    content = b"email,n\n" + content
    table = read(content, 16)
    said = table.frame["line"].to_list()
    assert said == sorted(set(said))
    lines = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    covered = {
        line + more
        for line, *cells in table.frame.select("line", "raw", *(CELL + name for name in table.columns)).rows()
        for more in range(sum((cell or "").count("\n") for cell in cells) + 1)
    }
    filled = {
        number for number, line in enumerate(lines, 1) if number > 1 and line.strip(b" ,\t\x0b\x0c\x00\x1c\x1d\x1e\x1f")
    }
    odd = {
        number
        for number in filled
        if not lines[number - 1].decode("latin-1").strip(" ,\t\x0b\x0c\x00\x1c\x1d\x1e\x1f\x85\xa0")
    }
    assert filled - odd <= covered


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_P04_any_bytes_are_read_or_refused_in_words(content):
    try:
        table = read_csv(content)
    except Misconfigured:  # the first line holds contacts, not the names of the columns
        return
    assert table.frame["line"].is_sorted()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-16-be", "cp1252", "utf-32", "shift_jis"])
def test_P04_a_character_that_a_block_cuts_is_still_read(encoding, monkeypatch):
    monkeypatch.setattr(decoding, "CHUNK", 40)
    text = "email,name\n" + "".join(f"u{n}@x.org,{'山' if encoding == 'shift_jis' else 'Zoë'} {n}\n" for n in range(40))
    content = text.encode(encoding)
    named = encoding if encoding == "shift_jis" else None
    blocks = [content] if named is None else [content[start : start + 5] for start in range(0, len(content), 5)]
    frame = read_csv(blocks, encoding=named).frame
    assert frame["col:name"].to_list() == [line.split(",")[1] for line in io.StringIO(text).read().splitlines()[1:]]
    assert frame["line"].to_list() == list(range(2, 42))
