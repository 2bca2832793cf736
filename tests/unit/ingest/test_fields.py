"""Typed custom fields: one form for each value, and rows that do not fit."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailmill.pipelines.configuration.specs import FieldSpec
from mailmill.pipelines.configuration.words import tag_slug
from mailmill.pipelines.ingest import cells
from mailmill.pipelines.ingest.fields import typed


def spec(type: str, **more: object) -> FieldSpec:
    return FieldSpec.model_validate({"kind": "field", "tenant": "acme", "slug": "f", "type": type, **more})


@pytest.mark.parametrize(
    ("of", "given", "kept"),
    [
        (spec("number"), ["1234.50", "1,234.5", "1.234,50", "1\u00a0234,5", "+007", "-0", "1.234", "1,234", "0,001",
                          None],
         ["1234.5", "1234.5", "1234.5", "1234.5", "7", "0", "1.234", "1234", "0.001", None]),
        (spec("date"), ["2026-05-02", "2026-05-02T10:00:00Z", "2.5.2026", "2026/5/2", None],
         ["2026-05-02"] * 4 + [None]),
        (spec("boolean"), ["Yes", "0", "wahr"], ["true", "false", "true"]),
        (spec("choice", values=["Free", "Paid"]), ["free", "PAID"], ["Free", "Paid"]),
        (spec("text"), ["anything"], ["anything"]),
    ],
    ids=["number", "date", "boolean", "choice", "text"],
)  # fmt: skip
def test_what_fits_is_written_in_one_form(of: FieldSpec, given: list[str | None], kept: list[str | None]) -> None:
    rows = pl.DataFrame(
        {"line": range(len(given)), "fields.f": given}, schema={"line": pl.Int64, "fields.f": pl.String}
    )
    found, misfits = typed(rows, [of])
    assert (found["fields.f"].to_list(), misfits.height) == (kept, 0)
    assert typed(found, [of])[0].equals(found), "read again, it is the same"


@pytest.mark.parametrize(
    ("of", "given"),
    [(spec("number"), "12a"), (spec("number"), "1,23,4"), (spec("date"), "5/2/2026"), (spec("date"), "2026-02-30"),
     (spec("date"), "2.5.26"), (spec("date"), "0000-01-01"), (spec("date"), "-2026/1/1"), (spec("number"), "٣"),
     (spec("boolean"), "maybe"), (spec("choice", values=["a"]), "b")],
)  # fmt: skip
def test_what_does_not_fit_rejects_its_row(of: FieldSpec, given: str) -> None:
    rows = pl.DataFrame({"line": [7, 8], "fields.f": [given, None]})
    found, misfits = typed(rows, [of])
    assert found["line"].to_list() == [8]
    assert misfits.rows() == [(7, "f", "field_type")]


# Cn: what is newer than Python's Unicode, which polars may know
WORDS = st.text(st.characters(codec="utf-8", max_codepoint=0x2FFF, exclude_categories=["Cn"]), max_size=70)


@given(st.lists(WORDS, min_size=1, max_size=20))
def test_a_column_of_tags_and_a_tag_that_a_person_writes_come_to_the_same(words):
    texts = [word.translate(dict.fromkeys(map(ord, ",;|:"))) for word in words]
    column = pl.DataFrame({"tags": texts}).select(cells.tags(()))["tags"].to_list()
    assert column == [[slug] if (slug := tag_slug(text)) else [] for text in texts]
    assert all(tag_slug(tag) == tag for tags in column for tag in tags)


def test_tags_are_divided_as_lists_and_googles_address_book_divide_them():
    column = pl.DataFrame({"tags": ["* myContacts ::: Old friends", "a;b | c,d"]}).select(cells.tags(()))["tags"]
    assert column.to_list() == [["mycontacts", "old-friends"], ["a", "b", "c", "d"]]


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("का", "का"), ("की", "की"), ("हिन्दी समाचार", "हिन्दी-समाचार"), ("ไทย ที่", "ไทย-ที่"),
        ("Gro\u0308ße", "größe"), ("GRÖSSE", "grösse"), ("\u2764\ufe0f VIP \u2764\ufe0f", "vip"), ("\u0301a", "a"),
        ("News_Letter", "news-letter"), ("\u2764\ufe0f", ""),
    ],
)  # fmt: skip
def test_a_tag_keeps_the_marks_of_its_letters_in_one_form(text: str, slug: str) -> None:
    column = pl.DataFrame({"tags": [text]}).select(cells.tags(()))["tags"][0].to_list()
    assert (tag_slug(text), column) == (slug, [slug] if slug else [])
