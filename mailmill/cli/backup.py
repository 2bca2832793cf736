"""Verbs that keep what must not be lost: backup, restore."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from mailmill.cli.app import Json, answer_json, app, installation, plain
from mailmill.composition import Installation
from mailmill.errors import MailmillError, Misconfigured, RestoreUnfinished
from mailmill.io.backup import About


def back_up(mill: Installation, target: Path) -> About:
    """Write a backup of this installation. Raises as `mailmill.io.backup.backup` does."""
    from importlib.metadata import version

    from mailmill.io.backup import backup as write

    with _Bar() as bar:
        return write(
            mill.any_database,
            mill.lake,
            target,
            version=version("mailmill"),
            embedded=mill.server is not None,
            progress=bar.show,
        )


@app.command()
def backup(file: Annotated[Path, typer.Argument(help="The archive to write.")], json: Json = False) -> None:
    """Write the database and the lake's files into one archive. Keep it secret: it holds addresses and signing keys."""
    installation().expect_data()
    about = back_up(installation(), file)
    if json:
        answer_json({"file": file, "bytes": file.stat().st_size, "about": about})
    else:
        print(f"{file}: {file.stat().st_size:,} bytes, schema {about.schema}, {about.lake_files:,} files of the lake, "
              + ", ".join(f"{count:,} {name}" for name, count in about.counts.items()))  # fmt: skip


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="An archive that `mailmill backup` wrote.")],
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Replace what is there; who said no in it, its keys and what it sent are kept."),
    ] = False,
    json: Json = False,
) -> None:
    """Put a backup back into an empty installation. No campaign goes on by itself afterwards."""
    from mailmill.io.restore import restore as put_back

    mill = installation()
    begun_before = mill.restoring.exists()
    forgetter = mill.forgetter_over(mill.any_database)
    mill.home.mkdir(parents=True, exist_ok=True)
    mill.restoring.touch()
    try:
        with _Bar() as bar:
            done = put_back(
                mill.any_database, mill.lake, file, replace=replace, embedded=mill.server is not None, progress=bar.show
            )
    except MailmillError as error:
        if not begun_before and not isinstance(error, RestoreUnfinished):  # then nothing has changed
            mill.restoring.unlink()
        raise
    try:
        again = forgetter.replay()
    except Misconfigured:  # some cannot be recognised; a person has to forget them again, by verbs that have to run
        mill.restoring.unlink()
        raise
    mill.restoring.unlink()
    if json:
        answer_json({**plain(done), "forgotten_again": again})
        raise typer.Exit(0 if all(one.proved for one in again) else 1)
    print(f"restored what mailmill {done.about.mailmill} saved at {done.about.made_at}; schema {done.schema}, "
          f"{done.lake_files:,} files of the lake")  # fmt: skip
    if replace:
        print(f"{done.suppressions_kept:,} suppressions, {done.consents_kept:,} consents and {done.messages_known:,} "
              "rows of the ledger came from what was replaced")  # fmt: skip
        if done.removals_kept:
            print(f"{done.removals_kept:,} suppressions that had been taken back since count again")
    if done.campaigns_stopped or done.in_doubt:
        print(f"{done.campaigns_stopped:,} campaigns were stopped, {done.in_doubt:,} messages are in doubt")
        print("They may have been sent since: compare with the relay's log, then settle them (`mailmill doubts`).")
    if again:
        from mailmill.cli.forget import show

        show(again, json=False)


class _Bar:
    """Progress on the terminal's standard error; silent where there is none."""

    def __enter__(self) -> _Bar:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        self._bar = Progress(
            *columns, console=Console(file=sys.stderr), transient=True, disable=not sys.stderr.isatty()
        )
        self._tasks: dict[str, TaskID] = {}
        self._bar.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._bar.stop()

    def show(self, what: str, done: int, total: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what, total=total or None)
        self._bar.update(self._tasks[what], completed=done, total=total or None)
