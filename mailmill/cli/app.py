"""The typer application, the installation of this process, and how answers are shown."""

from __future__ import annotations

import dataclasses
import getpass
import json
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Annotated, Any

import typer
import typer.core
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from mailmill.composition import Installation


class AlongTheWay(typer.core.TyperGroup):
    """Verbs in the order in which somebody comes to need them (VERBS), not in that of modules."""

    def list_commands(self, ctx: Any) -> list[str]:
        from mailmill.cli import VERBS

        order = {verb: place for place, verb in enumerate(VERBS)}
        return sorted(self.commands, key=lambda verb: order.get(verb, len(order)))


app = typer.Typer(
    name="mailmill",
    cls=AlongTheWay,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

ON_A_PIPE, ENDLESS = 200, 10_000  # columns
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # what a terminal would obey

Json = Annotated[bool, typer.Option("--json", help="Answer in JSON, for programs.")]


class OrShow(typer.core.TyperGroup):
    """A group of verbs whose command `show` is meant where none is named: `mailmill rejects acme/list`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ("--help", "-h")):
            args = ["show", *args]
        return super().parse_args(ctx, args)


@app.callback()
def _group() -> None:
    """A bulk-mail engine that accounts for every recipient."""  # keeps a lone verb from becoming the whole program


@cache
def installation() -> Installation:
    """The installation of this process, from its environment."""
    return Installation()


def person() -> str:
    """Who types, for the audit."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "command line"


def plain(value: Any) -> Any:
    """A value as JSON knows it: dataclasses as objects, times as ISO 8601."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    if isinstance(value, Sequence | set | frozenset):
        return [plain(item) for item in value]
    return str(value)


def answer_json(value: Any) -> None:
    json.dump(plain(value), sys.stdout, ensure_ascii=False, indent=2)
    print()


def answer_table(rows: Sequence[Mapping[str, Any]], *, title: str | None = None) -> None:
    """Rows as a table a person reads; numbers to the right. On a pipe it is as wide as its words need it; a terminal
    that is too narrow for them gets a line a value. Nothing is cut: half a Message-ID leads nowhere."""
    console = Console(width=None if sys.stdout.isatty() else ON_A_PIPE, highlight=False)
    if not rows:
        console.print(f"{title}: nothing" if title else "nothing")
        return
    if title:  # a title of the table's own would be broken at the table's width
        console.print(Text(title, style="italic"), soft_wrap=True)
    table = Table()
    for name, value in rows[0].items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        table.add_column(name.replace("_", " "), justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row.values()))  # as it is: no markup, no escape codes
    needed = Measurement.get(console, console.options.update(width=ENDLESS), table).minimum
    if not sys.stdout.isatty():
        console.width = max(console.width, needed)
    if needed <= console.width:
        console.print(table)
        return
    for place, row in enumerate(rows):
        print(end="\n" * (place > 0))
        answer_facts(row)


def answer_facts(facts: Mapping[str, Any]) -> None:
    """One thing, a line a fact; what it does not have is left out."""
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        if _cell(value):
            print(f"{name.replace('_', ' '):<{width}}  {_cell(value)}")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S %Z")
    return _CONTROL.sub("\ufffd", str(value))
