"""Quoting for DuckDB, which takes no parameters in a view."""

from __future__ import annotations

from pathlib import Path

import duckdb
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailmill.io.warehouse_schema import literal, path_literal


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_a_literal_reads_back_as_it_was(text: str) -> None:
    assert duckdb.sql(f"SELECT {literal(text)}").fetchall() == [(text,)]


def test_a_nul_is_refused() -> None:
    with pytest.raises(ValueError, match="NUL"):
        literal("a\0b")


@pytest.mark.parametrize("name", ["it's", "a b", "[a]", "*", "**", "?", 'a"b', "a;b", "%d", "{x,y}", "é", "a]b[", "$x"])
def test_a_path_means_itself_and_no_pattern(tmp_path: Path, name: str) -> None:
    for folder, value in ((name, 1), ("a", 2), ("x", 3)):
        (tmp_path / folder).mkdir(exist_ok=True)
        pl.DataFrame({"value": [value]}).write_parquet(tmp_path / folder / "f.parquet")
    found = duckdb.sql(f"SELECT value FROM read_parquet([{path_literal(tmp_path / name / 'f.parquet')}])").fetchall()
    assert found == [(1,)]
