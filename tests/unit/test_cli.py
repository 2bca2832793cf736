"""The command line as a whole."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import sys
import tempfile
import termios
from importlib import import_module
from pathlib import Path

import dagster as dg
import pytest
import typer

from mailmill.cli import VERBS, main, runs
from mailmill.cli.app import answer_table, app, installation
from mailmill.errors import Misconfigured


def test_every_verb_is_found_in_the_module_that_the_table_names() -> None:
    found = {}
    for module in dict.fromkeys(VERBS.values()):
        import_module(f"mailmill.cli.{module}")
    command = typer.main.get_command(app)
    for name in command.list_commands(None):  # type: ignore[attr-defined]
        verb = command.get_command(None, name)  # type: ignore[attr-defined]
        callbacks = [one.callback for one in getattr(verb, "commands", {}).values()] or [verb.callback]
        (found[name],) = {callback.__module__.rpartition(".")[2] for callback in callbacks}
    assert found == VERBS


def test_an_argument_that_is_not_UTF_8_is_refused_in_a_sentence(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["mailmill", "check", os.fsdecode(b"caf\xe9@people.example")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "is not UTF-8" in ascii(capsys.readouterr().err)


@pytest.mark.parametrize("there", [True, False])
def test_the_trace_of_a_fault_of_ours_is_kept_in_the_data_folder_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], there: bool
) -> None:
    def surprise(value: str) -> None:
        raise ZeroDivisionError(value)

    home, elsewhere = tmp_path / "data", tmp_path / "tmp"
    elsewhere.mkdir()
    if there:
        home.mkdir()
    monkeypatch.setenv("MAILMILL_HOME", str(home))
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    monkeypatch.setattr("mailmill.cli.check.addresses.check", surprise)
    monkeypatch.setattr(sys, "argv", ["mailmill", "check", "ann@people.example"])
    installation.cache_clear()
    with pytest.raises(SystemExit) as ended:
        main()
    installation.cache_clear()
    [kept] = (home if there else elsewhere).iterdir()
    said = capsys.readouterr().err
    assert ended.value.code == 1 and str(kept) in said and "ann@" not in said
    assert "ZeroDivisionError: ann@people.example" in kept.read_text() and kept.stat().st_mode & 0o077 == 0


def test_what_a_run_failed_of_is_told_in_our_words_or_by_its_kind_alone():
    @dg.asset
    def ours() -> None:
        try:
            raise ValueError("ann@x.org")
        except ValueError as error:
            raise Misconfigured("bad: worse", remedy="Correct it.") from error

    @dg.asset
    def foreign() -> None:
        raise ValueError("ann@x.org")

    told = [str(runs._failure(dg.materialize([one], raise_on_error=False), {})) for one in (ours, foreign)]
    assert told[0] == "bad: worse\n  Correct it."
    assert told[1].startswith("an unexpected error, ValueError, in foreign: see run ") and "ann@x.org" not in told[1]


def test_a_table_on_a_pipe_cuts_nothing(capsys) -> None:
    long = f"<{'a' * 300}@bounce.mail.example>"
    answer_table([{"campaign": "shop/welcome", "message_id": long}])
    assert long in capsys.readouterr().out


TYPED = """
import signal, sys, time
from pathlib import Path
from mailmill.cli import _outlive_the_terminal

def end(*_):
    print("said to nobody", flush=True)
    Path(sys.argv[1]).touch()
    sys.exit()

_outlive_the_terminal()
signal.signal(signal.SIGTERM, end)
print("up", flush=True)
time.sleep(600)
"""


def test_a_terminal_that_is_closed_ends_a_verb_as_SIGTERM_does(tmp_path: Path) -> None:
    def as_a_terminal_does() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # who started the tests with nohup has it ignored
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    ours, theirs = pty.openpty()
    verb = subprocess.Popen(
        [sys.executable, "-c", TYPED, str(tmp_path / "ended")], stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True, preexec_fn=as_a_terminal_does,
    )  # fmt: skip
    try:
        os.close(theirs)
        assert b"up" in os.read(ours, 100)
        os.close(ours)
        assert verb.wait(60) == 0
    finally:
        verb.kill()
        verb.wait()
    assert (tmp_path / "ended").exists()


def test_a_terminal_too_narrow_for_a_table_gets_a_line_a_value(capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    rows = [{f"column_{n}": f"{row}{'x' * n}" for n in range(12)} | {"reason": None} for row in "ab"]
    answer_table(rows, title="many")
    told = capsys.readouterr().out.splitlines()
    assert "many" in told[0] and told[1:3] == ["column 0   a", "column 1   ax"]
    assert told[13:15] == ["", "column 0   b"]
    answer_table([{"a": 1, "b": "two words " * 20}])
    assert "│ 1 │ two words" in capsys.readouterr().out, "words go on in the next line"
