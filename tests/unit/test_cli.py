"""The command line as a whole."""

from __future__ import annotations

import os
import sys
from importlib import import_module

import pytest
import typer

from mailmill.cli import VERBS, main
from mailmill.cli.app import app


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
