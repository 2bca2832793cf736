"""Verbs about contacts coming in: ingest, contacts add."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from mailmill.cli import imports
from mailmill.cli.app import Json, answer_json, answer_table, app, installation
from mailmill.composition import Installation
from mailmill.errors import Misconfigured
from mailmill.io.postgres import ingest as sources
from mailmill.io.sources.manual import Typed
from mailmill.pipelines.ingest import rejects, stage
from mailmill.pipelines.ingest.columns import ALIASES
from mailmill.pipelines.ingest.ports import SourceRow

contacts = typer.Typer(no_args_is_help=True, help="Contacts by hand.")
app.add_typer(contacts, name="contacts")


@app.command()
def ingest(
    source: Annotated[str | None, typer.Argument(help="tenant/source; without it every folder and API.")] = None,
    file: Annotated[list[Path] | None, typer.Option("--file", help="A file; once for each.")] = None,
    full: Annotated[bool, typer.Option("--full", help="An API from its beginning, not only what is new.")] = False,
    accept_columns: Annotated[
        bool, typer.Option("--accept-columns", help="Let in what is held because its columns changed.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Load also where more than max_reject_share is bad.")] = False,
    json: Json = False,
) -> None:
    """Take in what a source has: its files, or what its API gives since the last time, as a run that the UI shows."""
    mill = installation()
    rows = _sources(mill, source, by_hand=bool(file or full or accept_columns or force))
    for row in rows:
        if row.spec.type == "csv" and not (file or full or row.spec.folder or accept_columns or force):
            raise Misconfigured(
                f"the source {row.name} has no folder and no file is named",
                place="--file",
                remedy="Name the files, or give the source a `folder`.",
            )
    done = [
        imports.take_in(mill, row, files=file or (), full=full, accept_columns=accept_columns, force=force)
        for row in rows
    ]
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


@contacts.command("add")
def add(
    tenant: Annotated[str, typer.Option(help="The tenant's slug.")],
    email: Annotated[str, typer.Option()] = "",
    phone: Annotated[str, typer.Option()] = "",
    name: Annotated[str, typer.Option()] = "",
    field: Annotated[list[str] | None, typer.Option("--field", help="name=value; once for each.")] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="Once for each.")] = None,
    source: Annotated[str | None, typer.Option(help="Which source of type manual, if there are several.")] = None,
    json: Json = False,
) -> None:
    """Add a contact, or say something new about one, through the tenant's manual source."""
    mill = installation()
    row = {"email": email, "phone": phone, "name": name, "tags": ";".join(tag or ())} | _fields(field or [])
    given = {key: value for key, value in row.items() if value}
    if not given.keys() & {"email", "phone"}:
        raise Misconfigured("a contact needs --email or --phone")
    with mill.database.transaction() as conn:
        found = sources.sources(conn, tenant=tenant, slug=source, kind="manual")
    person = _only(found, tenant)
    stage.receive(person, Typed(rows=[given], at=datetime.now(UTC)), mill.ingest)
    validated = stage.validate(person, mill.ingest)
    if validated.rejected:
        reason = next(iter(validated.reasons))
        raise Misconfigured(f"the contact was not taken in: {rejects.REASONS.get(reason, reason)}", place=reason)
    counts = stage.load(person, mill.ingest, mill.ingest).counts
    published = stage.publish_contacts(person.tenant_id, mill.ingest, now=datetime.now(UTC))
    answer = {"source": person.name, "new": counts.new, "changed": counts.changed, "contacts": published.rows}
    answer_json(answer) if json else answer_table([answer])


def _fields(pairs: list[str]) -> dict[str, str]:
    fields = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise Misconfigured(f"{pair!r} is not name=value", place="--field")
        fields[name] = value
    clash = sorted(fields.keys() & (ALIASES.keys() - {"language", "category", "country", "time_zone"}))
    if clash:
        raise Misconfigured(f"{', '.join(clash)} has an option of its own or cannot be set", place="--field")
    return fields


def _only(found: list[SourceRow], tenant: str) -> SourceRow:
    if len(found) == 1:
        return found[0]
    if not found:
        raise Misconfigured(
            f"the tenant {tenant!r} has no source of type manual",
            place="--tenant",
            remedy="Apply a YAML document with `kind: source` and `type: manual`.",
        )
    raise Misconfigured(
        f"{tenant} has several manual sources: {', '.join(row.slug for row in found)}",
        place="--source",
        remedy="Name one of them.",
    )
