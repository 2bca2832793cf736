"""A person in rows: their own go, mentions are masked, others stay as they were."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailmill.io.person_search import bytes_hold
from mailmill.io.sources.http_items import items_table
from mailmill.io.sources.manual import table_of
from mailmill.pipelines.configuration.specs import MergeSpec
from mailmill.pipelines.ingest import erasure, erasure_rows, formats
from mailmill.pipelines.ingest.addresses import check
from mailmill.pipelines.ingest.erasure import Person
from mailmill.pipelines.ingest.erasure_raw import keys_of, numbered_rows, raw_rows
from mailmill.pipelines.ingest.erasure_text import mentioned
from mailmill.pipelines.ingest.validation import BatchFacts, match_keys

ANN = Person(keys=("ann@x.org", "+4315337031"), spellings=("Ann@X.org",))
OTHERS = ("joann@x.org", "ann@x.org.uk", "ann@x.organic", "+43153370311", "mann", "x-ann@x.org")


def _left(who: Person, dataset: str, frame: pl.LazyFrame) -> pl.DataFrame:
    own = erasure_rows.own_rows(who, dataset, frame.collect_schema())
    return erasure_rows.without(who, dataset, frame, own).collect()


AROUND = st.text(st.sampled_from(" ,;:<>()\"'\n\t=/|.-ä"), max_size=3)


@given(
    st.lists(st.tuples(AROUND, st.sampled_from(["ann@x.org", "ANN@x.ORG", "+4315337031", *OTHERS]), AROUND), max_size=5)
)
def test_after_it_no_text_mentions_the_person_and_others_are_as_they_were(parts: list[tuple[str, str, str]]) -> None:
    text = " ".join(f"{before} {middle} {after}" for before, middle, after in parts)
    frame = pl.LazyFrame(
        {"name": [text], "tags": [[text, "vip"]]}, schema={"name": pl.String, "tags": pl.List(pl.String)}
    )
    rows = _left(ANN, "contacts", frame)
    assert not erasure_rows.touched(ANN, "contacts", rows.lazy(), pl.lit(False))
    assert rows["tags"][0].to_list() == [rows["name"][0], "vip"]
    for other in OTHERS:
        assert rows["name"][0].count(other) >= sum(middle == other for _, middle, _ in parts)
    assert re.search(r"(?<![\w.+-])ann@x\.org(?![\w-]|\.\w)", rows["name"][0], re.IGNORECASE) is None


MANY = Person(keys=("ann@x.org", "joann@x.org", "ann@x.org.uk", "+4315337031", '"a b"@x.org', "b@x.org"))


@given(
    st.lists(st.sampled_from(
        [*MANY.keys, "ANN@X.org", "ann%40x.org", "ann@x.org.csv", "x", "\x06", "+", ".", "-", "@", '"', " ", "ä", "1"]
    ), max_size=6)
)  # fmt: skip
def test_whom_a_text_mentions_of_many_is_what_their_expressions_say(parts: list[str]) -> None:
    texts = pl.Series("text", ["".join(parts), "", None, "ann@x.org"])
    frame = texts.to_frame()
    mine = frame.select(erasure.mentions(MANY, frame.schema)).to_series().to_list()
    assert mine == frame.select(erasure.any_of(pl.col("text"), MANY.patterns)).to_series().to_list()
    clean = frame.select(erasure.masked(MANY, frame.schema))["text"]
    assert [a != b for a, b in zip(clean, texts, strict=True)] == mine
    assert frame.lazy().select(erasure.masked(MANY, frame.schema)).collect(engine="streaming")["text"].equals(clean)


def test_nobody_is_mentioned_by_nothing() -> None:
    frame, nobody = pl.DataFrame({"text": ["ann@x.org", None]}), Person(keys=())
    assert frame.select(erasure.mentions(nobody, frame.schema)).to_series().sum() == 0
    assert frame.with_columns(erasure.masked(nobody, frame.schema)).equals(frame)


@pytest.mark.parametrize(
    ("cells", "theirs"),
    [
        (("Ann <ann@X.org>", "", ""), True),
        (("mailto:ANN@x.org", "", ""), True),
        (("ann\u200b@x.org", "", ""), True),
        (("joann@x.org", "", ""), False),
        (("bob@x.org", "", "ann@x.org"), False),
        (("", "01 5337031", ""), True),
        (("", "0043 1 533 70 31", ""), True),
        (("", "01 5337032", ""), False),
        (("bad@@x", "01 5337031", ""), True),
        (("mum@x.org", "01 5337031", ""), False),  # who shares the number has an address of their own
    ],
)
def test_a_raw_row_is_theirs_by_the_columns_that_say_whose_it_is(cells: tuple[str, str, str], theirs: bool) -> None:
    mail, phone, note = cells
    frame = pl.LazyFrame(
        {"line": [2], "problem": [None], "raw": [None], "col:email": [mail], "col:phone": [phone], "col:note": [note],
         "col:country": ["AT"]},
        schema_overrides={"problem": pl.String, "raw": pl.String},
    )  # fmt: skip
    assert raw_rows(ANN, frame, {}) == ([2] if theirs else [])


@pytest.mark.parametrize("typed", ["Straße@x.org", "x²@x.org", "नमस्\u200dते@x.org", "ａｎｎ＠x.org"])
def test_a_raw_row_is_theirs_however_its_letters_are_folded(typed: str) -> None:
    frame = pl.LazyFrame({"line": [2], "problem": [None], "raw": [None], "col:email": [typed]},
                         schema_overrides={"problem": pl.String, "raw": pl.String})  # fmt: skip
    key = check(typed).address_key
    assert key is not None
    assert raw_rows(Person(keys=(key,)), frame, {}) == [2]


def test_a_file_called_after_the_person_mentions_them() -> None:
    for name, clean in (("ann@x.org.csv", "***"), ("list ann@x.org.xlsx.", "list ***."), ("ann@x.org.uk.csv", None)):
        assert erasure.text_mentions(ANN, name) is (clean is not None)
        assert erasure.mask_text(ANN, name) == (clean or name)


def test_a_file_of_any_kind_that_a_folder_is_looked_through_for_mentions_whom_it_is_called_after(tmp_path) -> None:
    for kind in (*formats.FILES, "csv.gz"):
        assert mentioned([f"ann@x.org.{kind}".encode()], ANN), kind
        log = tmp_path / "log"
        log.write_text(f"refused ann@x.org.{kind}\n")
        assert bytes_hold(log, ANN), kind


def test_counted_rows_stay_and_tell_nothing() -> None:
    who = Person(keys=("ann@x.org",), message_ids=(5,))
    frame = pl.LazyFrame({"message": [5, 6], "kind": ["opened", "opened"], "ip": ["1.2.3.0", "4.5.6.0"]})
    assert erasure_rows.touched(who, "events", frame, pl.lit(False))
    assert _left(who, "events", frame).rows() == [
        (5, "opened", None),
        (6, "opened", "4.5.6.0"),
    ]


def test_a_row_of_somebody_else_who_shares_the_number_stays_without_it() -> None:
    rows = {"email": ["mum@x.org", None], "phone": ["+4315337031"] * 2, "name": ["Mum", "Ann"]}
    assert _left(ANN, "validated", pl.LazyFrame(rows)).rows() == [("mum@x.org", None, "Mum")]


def test_a_hash_is_of_its_key_and_its_channel() -> None:
    one, key = erasure.keyed_hash(b"k" * 32, "email", "ann@x.org"), b"k" * 32
    assert one != erasure.keyed_hash(b"l" * 32, "email", "ann@x.org")
    assert one != erasure.keyed_hash(key, "phone", "ann@x.org")
    assert len(one) == 64


def test_a_number_alone_says_whose_row_it_is_only_where_there_is_no_address() -> None:
    frame = pl.LazyFrame(
        {"line": [2, 3, 4, 5], "problem": [None] * 3 + ["ragged_line"], "raw": [None] * 4,
         "col:email": ["mum@x.org", "", "bad@@x", ""], "col:phone": ["01 5337031"] * 4, "col:country": ["AT"] * 4},
        schema_overrides={"problem": pl.String, "raw": pl.String},
    )  # fmt: skip
    assert numbered_rows(["+4315337031"], frame, {}) == [3, 4]
    assert numbered_rows([], frame, {}) == numbered_rows(["+4315337032"], frame, {}) == []


def test_a_text_is_theirs_by_a_number_only_where_no_other_address_can_be_read_in_it() -> None:
    texts = {
        "ann@x.org,Ann,+4315337031,old": True,
        "max@x.org,Max,+4315337031,old": False,  # who shares the line at home
        "max@x.org,Max,01 5337031,old": False,
        "ole@x.org,Ole,,see 15337031": False,
        "bad@@x,Zed,01 5337031,old": True,
        ",Nobody,+4315337031,old": True,
        "max@x.org,Max,,ask ann@x.org": True,
    }
    rejected = pl.LazyFrame({"line": range(len(texts)), "raw": list(texts)})
    left = _left(ANN, "rejected", rejected)["raw"].to_list()
    assert left == [text.replace("+4315337031", "***") for text, theirs in texts.items() if not theirs]
    unread = rejected.with_columns(problem=pl.lit("ragged_line"))
    assert raw_rows(ANN, unread, {}) == [line for line, theirs in enumerate(texts.values()) if theirs]
    mixed = rejected.tail(1)  # the columns of its raw row say whose it is
    for lines, own in (([], False), ([6], True), (None, True)):
        theirs = erasure_rows.own_rows(ANN, "rejected", mixed.collect_schema(), lines)
        assert mixed.select(theirs).collect().item() is own


def test_every_spelling_of_a_mailbox_is_found_in_any_text() -> None:
    both = MergeSpec(plus_tags=True, dots=("gmail.com",))
    texts = {
        "Ann <ANN+News@x.org>;ann+b@x.org, annb@x.org ann@x.org.": {"ann+news@x.org", "ann+b@x.org", "ann@x.org"},
        "joann@x.org a.nn@x.org jo+ann@x.org ann@x.org.uk ann@y.org": set(),
        "A.nn+x@Gmail.com|an.n@gmail.com": {"a.nn+x@gmail.com", "an.n@gmail.com"},
        "mailto:ann+b\u00fc@b\u00fccher.example": {"ann+b\u00fc@xn--bcher-kva.example"},
    }
    boxes = ["ann@x.org", "ann@gmail.com", "ann@xn--bcher-kva.example"]
    for text, found in texts.items():
        frame = pl.LazyFrame({"line": [1], "raw": [text], "col:b": [None], "col:c": [["", text]]},
                             schema_overrides={"col:b": pl.String})  # fmt: skip
        assert erasure_rows.spellings(frame, boxes, both) == found
    frame = pl.LazyFrame({"raw": list(texts)})
    assert erasure_rows.spellings(frame, boxes, MergeSpec(dots=("gmail.com",))) == {"ann@x.org", "an.n@gmail.com"}


def test_a_raw_row_is_theirs_however_it_was_written_when_it_was_taken_in() -> None:
    mails = ["ann@x.org\x07", "\x07Ann <ANN@x.org>", "ann\uff20x.org", "a\u00adnn@x.org", "bob@x.org"]
    arabic = "".join(chr(ord(digit) + 0x630) for digit in "4930123456")
    calls = ["+49 30\u2028123456", "+4930123456 ext. 5", f"+{arabic}", "030\n123456", "+4930123457"]
    raw = table_of([{"email": mail, "phone": "", "country": ""} for mail in mails]
                   + [{"email": "", "phone": call, "country": "\x07DE"} for call in calls]).frame  # fmt: skip
    facts = BatchFacts(batch_id=1, source="s", seen_at=datetime(2026, 11, 20, tzinfo=UTC), columns={})
    keys = match_keys(raw, facts)
    for key in ("ann@x.org", "+4930123456"):
        lines = raw["line"].filter(keys == key).to_list()
        assert len(lines) == 4 and raw_rows(Person(keys=(key,)), raw.lazy(), {}) == lines
    assert keys_of(raw.lazy(), {}) == set(keys)


CY = Person(keys=("cy@x.org",))


def test_a_raw_row_of_few_items_that_lack_a_mapped_field_is_not_theirs_whom_it_mentions() -> None:
    columns, items = (
        {"email": "mail", "name": "display"},
        [{"mail": "bob@x.org", "by": "ann@x.org"}, {"mail": "cy@x.org"}],
    )
    rows, facts = items_table(items).frame.lazy(), {"few": True, "mapping": columns}
    assert (raw_rows(ANN, rows, columns, facts), raw_rows(CY, rows, columns, facts)) == ([], [2])
    rows = items_table([{"phone": "+4930123456", "by": "ann@x.org"}]).frame.lazy()
    assert raw_rows(ANN, rows, columns, facts) == [], "the number says whose it is"
    many = {"few": False, "mapping": columns, "columns": ["phone", "by", *columns.values()]}  # which others had before
    assert raw_rows(ANN, rows, columns, many) == []
    assert raw_rows(Person(keys=("+4930123456",)), rows, columns, facts) == [1]
    assert keys_of(rows, columns, facts) == {"+4930123456"}
    rows = items_table([{"contact": "ann@x.org"}, {"contact": "bob@x.org"}]).frame.lazy()
    assert raw_rows(ANN, rows, columns, facts) == [1], "no column says whose it is"
    assert keys_of(rows, columns, facts) == {"ann@x.org", "bob@x.org"}


@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize("header", ["kontakt", "email"])
def test_a_raw_row_is_theirs_though_the_source_maps_another_column_since(few: bool, header: str) -> None:
    item = {header: "ann@x.org", "phone": "+4930123456", "by": "cy@x.org"}
    rows = items_table([item, item | {header: "bob@x.org"}]).frame.lazy()
    before = {"email": header} if header == "kontakt" else {}
    facts = {"few": few, "mapping": before}
    for today in ({"email": "contact_mail"}, {"name": "owner"}):
        assert (raw_rows(ANN, rows, today, facts), raw_rows(CY, rows, today, facts)) == ([1], [])
        assert keys_of(rows, today, facts) == {"ann@x.org", "bob@x.org"}
    # one that is held, because what is mapped cannot read it, and a file that lies in its folder
    gone = {"email": "contact_mail"}
    for known in ({"few": False, "mapping": gone}, None):
        assert raw_rows(ANN, rows, gone, known) == [1]
        assert keys_of(rows, gone, known) >= {"ann@x.org", "bob@x.org"}


def test_a_batch_may_name_hundreds_who_were_forgotten() -> None:
    """An expression has a largest size."""
    mails, numbers = ([template.format(n) for n in range(1000)] for template in ("p{}@x.org", "+43664{:07d}"))
    who = Person((*mails, *numbers))
    raw = table_of([{"email": "", "phone": f"0664{n:07d}", "note": f"of P{n}@x.org, and q{n}@x.org"} for n in (7, 999)])
    [rows] = raw.frames
    assert numbered_rows(numbers, rows.lazy(), {}) == [1, 2]
    assert rows.select(erasure.masked(who, rows.schema))["col:note"].to_list() == [
        "of ***, and q7@x.org", "of ***, and q999@x.org",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ['x,"says ""d d""@x.org"', '{"to": "\\"d d\\"@x.org"}', "?to=%22d%20d%22%40x.org", '{"to": "\\u00fcnal+n@x.org"}',
     '{"to": "\\u00DCnal+n@x.org"}', "?to=%C3%BCnal%2Bn%40x.org", "ÜNAL+N@x.org"],
)  # fmt: skip
def test_an_address_is_found_as_programs_write_it_down(text: str) -> None:
    who = Person(keys=('"d d"@x.org', "ünal+n@x.org"), spellings=("Ünal+n@x.org",))
    assert erasure.text_mentions(who, text) and not erasure.text_mentions(who, erasure.mask_text(who, text))
