"""The data folder as several processes see it that make it at once."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from mailmill.cli import main
from mailmill.cli.app import installation
from mailmill.io.data_folder import check, write_whole

AT_ONCE = 8


def test_a_file_that_several_write_at_once_is_one_of_theirs_and_no_writer_fails(tmp_path: Path) -> None:
    path, texts, together = tmp_path / "a file", [f"{n}" * 100_000 for n in range(AT_ONCE)], Barrier(AT_ONCE)

    def write(text: str) -> None:
        for _ in range(50):
            together.wait()
            write_whole(path, text)
            assert path.read_text() in texts

    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(write, texts))
    assert [one.name for one in tmp_path.iterdir()] == ["a file"]
    assert path.stat().st_mode & 0o077 == 0


NOWHERE = ".mailmill: there is no installation of mailmill here"


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        (("account", "shop/welcome"), NOWHERE),
        (("backup", "shop.tar"), NOWHERE),
        (("tenants",), NOWHERE),
        (("apply", "shop.yaml"), "shop.yaml: no such file or folder"),
    ],
)
def test_a_verb_where_nothing_is_installed_says_so_and_makes_nothing(verb, said, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MAILMILL_HOME", raising=False)
    monkeypatch.setattr(sys, "argv", ["mailmill", *verb])
    installation.cache_clear()
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert said in capsys.readouterr().err
    installation.cache_clear()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_several_make_at_once_is_good_for_each(tmp_path: Path) -> None:
    together = Barrier(AT_ONCE)

    def make(number: int) -> None:
        for round in range(50):
            together.wait()
            check(tmp_path / f"{round}")

    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(make, range(AT_ONCE)))
