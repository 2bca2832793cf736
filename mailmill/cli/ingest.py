"""The verb about contacts coming in: ingest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mailmill.cli import imports
from mailmill.cli.app import Json, app, installation
from mailmill.composition import Installation
from mailmill.errors import Misconfigured
from mailmill.io.postgres import ingest as sources
from mailmill.pipelines.ingest.ports import SourceRow


@app.command()
def ingest(
    source: Annotated[str | None, typer.Argument(help="tenant/source; without it every folder and API.")] = None,
    file: Annotated[list[Path] | None, typer.Option("--file", help="A file; once for each.")] = None,
    full: Annotated[bool, typer.Option("--full", help="An API from its beginning, not only what is new.")] = False,
    accept_columns: Annotated[
        bool, typer.Option("--accept-columns", help="Let in what is held because its columns changed.")
    ] = False,
    discard: Annotated[
        list[int] | None,
        typer.Option("--discard", help="A batch that is held or withheld, and wrong; once for each.", min=1),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Everything it has given so far, by the rules of today; nothing is read.")
    ] = False,
    batch: Annotated[int | None, typer.Option("--batch", help="With --again: this batch alone.", min=1)] = None,
    force: Annotated[bool, typer.Option("--force", help="Load also where more than max_reject_share is bad.")] = False,
    json: Json = False,
) -> None:
    """Take in what a source has: its files, or what its API gives since the last time, as a run that the UI shows."""
    mill = installation()
    if again or batch is not None:
        if file or full or accept_columns or discard or not again:
            raise Misconfigured("--again reads nothing, and --batch belongs to it", place="--again, --batch")
        _again(mill, source, batch, force, json)
        return
    waiting = bool(accept_columns or discard or force)  # what is kept already may be all there is to do
    rows = _sources(mill, source, by_hand=bool(file or full or waiting))
    for row in rows:
        if row.spec.type == "manual" and not (file or full or waiting):
            raise Misconfigured(
                f"{row.name} is filled by hand", remedy="Use `mailmill contacts add`, or a source of type csv."
            )
        if row.spec.type == "csv" and not (file or full or row.spec.folder or waiting):
            raise Misconfigured(
                f"the source {row.name} has no folder and no file is named",
                place="--file",
                remedy="Name the files, or give the source a `folder`.",
            )
    done = [
        imports.take_in(
            mill, row, files=file or (), full=full, accept_columns=accept_columns, discard=discard or (), force=force
        )
        for row in rows
    ]
    imports.show(done, json)
    imports.complain(done)


def _again(mill: Installation, name: str | None, batch: int | None, force: bool, json: bool) -> None:
    with mill.database.transaction() as conn:
        if batch is not None:
            row = sources.of_batch(conn, batch)
            if name not in (None, row.name):
                raise Misconfigured(f"batch {batch} is of {row.name}", place="--batch")
        elif name is None:
            raise Misconfigured("say which source", place="SOURCE", remedy="Sources are called tenant/source.")
        else:
            row = sources.source(conn, name)
    done = [imports.again(mill, row, batch=batch or 0, force=force)]
    imports.show(done, json)
    imports.complain(done)


def _sources(mill: Installation, name: str | None, *, by_hand: bool) -> list[SourceRow]:
    """The source of this name; without one all that can be read as they are, or the only one.

    Raises: Misconfigured when there is none, or when options for one source could mean several.
    """
    with mill.database.transaction() as conn:
        if name is not None:
            return [sources.source(conn, name)]
        found = [
            row
            for row in sources.sources(conn)
            if row.spec.folder or row.spec.url or (by_hand and row.spec.type == "csv")
        ]
    if not found:
        raise Misconfigured("no source has a folder or an API", place="SOURCE", remedy="Apply a YAML file with one.")
    if by_hand and len(found) > 1:
        names = ", ".join(row.name for row in found[:20])
        raise Misconfigured("these options are for one source", place="SOURCE", remedy=f"Name it. There are: {names}.")
    return found
