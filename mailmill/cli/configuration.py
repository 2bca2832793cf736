"""Verbs about the project's files: init, apply, tenants."""

from __future__ import annotations

import json as jsonlib
import secrets
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from mailmill.cli.app import Json, answer_json, answer_table, app, installation, person
from mailmill.composition import Installation
from mailmill.errors import MailmillError, Misconfigured
from mailmill.io import project_files
from mailmill.io.postgres import configuration, keys
from mailmill.pipelines.configuration import content, documents, references
from mailmill.pipelines.configuration.documents import Declared, Key, Problem
from mailmill.pipelines.configuration.plan import Change, Stored, plan, summary


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What `apply` did, or with `dry_run` would do."""

    dry_run: bool
    changes: list[Change]
    keys_made: list[keys.Purpose]
    schema_made: bool
    warnings: list[Problem] = field(default_factory=list)


class Refused(Misconfigured):
    """Documents with problems; nothing was applied."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        many = "one problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n  ".join([f"{many}, nothing was applied", *map(str, problems)]))


def apply_paths(mill: Installation, paths: Sequence[Path], *, dry_run: bool = False) -> Applied:
    """Bring what is stored to what these files and folders say, all of it or nothing.

    Raises: Refused with every problem of every file; Misconfigured when the database is of another version.
    """
    from mailmill.io.postgres import schema  # imports SQLAlchemy, which other verbs here do without

    declared = _declared(mill, paths)
    empty = schema.current_version(mill.any_database) is None
    if empty:
        changes = _planned(declared, {})  # what is wrong is said before a schema is made
        if dry_run:
            return Applied(dry_run=True, changes=changes, keys_made=list(keys.PURPOSES), schema_made=True)
        schema.migrate(mill.any_database)
    schema.check(mill.any_database)
    with mill.database.transaction() as connection:
        configuration.lock(connection, [documents.name_of(one.key) for one in declared if one.key[0] == "campaign"])
        changes = _planned(declared, configuration.stored(connection))
        made = keys.missing(connection) if dry_run else keys.ensure(connection)
        if not dry_run:
            configuration.write(connection, changes, by=person())
    warnings = _warnings(mill, declared)
    return Applied(dry_run=dry_run, changes=changes, keys_made=made, schema_made=empty, warnings=warnings)


def _warnings(mill: Installation, declared: list[Declared]) -> list[Problem]:
    """What is applied and may still be a slip: merge fields, tags and sources that no contact has."""
    from mailmill.io.postgres.audiences import PostgresContacts  # the lake's libraries, only where contacts are named
    from mailmill.pipelines.configuration import merge_fields, rule_names
    from mailmill.pipelines.target.rereading import reread

    templates = [one for one in declared if one.key[0] == "template"]
    segments = [one for one in declared if one.key[0] == "segment"]
    store = PostgresContacts(database=mill.database, lake=mill.lake)
    with mill.database.transaction() as connection:
        ids = configuration.tenant_ids(connection, {one.key[1] for one in (*templates, *segments)})

    def looked() -> list[Problem]:
        found = {tenant: store.generation(number) for tenant, number in ids.items()}
        contacts = {tenant: one.contacts for tenant, one in found.items() if one is not None}
        return [*merge_fields.check(templates, contacts), *rule_names.check(segments, contacts)]

    return reread(looked)


def _declared(mill: Installation, paths: Sequence[Path]) -> list[Declared]:
    found, unreadable = project_files.read(paths)
    declared, invalid = documents.validate(found)
    declared, missing = project_files.inline(declared)
    problems = [*unreadable, *invalid, *missing, *content.check(declared)]
    if problems:  # what refers to a document that has a problem of its own is no further problem
        claimed = {key for document in found if (key := document.claimed())}
        with suppress(MailmillError):  # without a database, what can be said without it
            claimed |= _stored_keys(mill)
            problems += references.check(declared, claimed)
        raise Refused(problems)
    if not declared:
        raise Misconfigured("no document in these files", remedy="`mailmill init FOLDER` writes an example.")
    return declared


def _stored_keys(mill: Installation) -> set[Key]:
    from mailmill.io.postgres import schema

    if mill.server is not None and not mill.home.exists():  # a mistake in a file is no reason to make a database
        return set()
    if schema.current_version(mill.any_database) is None:
        return set()
    with mill.database.transaction() as connection:
        return set(configuration.stored(connection))


def _planned(declared: list[Declared], stored: Mapping[Key, Stored]) -> list[Change]:
    changes, refused = plan(declared, stored, datetime.now(UTC))
    if problems := [*references.check(declared, stored.keys()), *refused]:
        raise Refused(problems)
    return changes


# ---------------------------------------------------------------- the verbs

Paths = Annotated[list[Path], typer.Argument(help="YAML files, or folders with YAML files in and below them.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would change, change nothing.")]


@app.command()
def apply(paths: Paths, dry_run: DryRun = False, json: Json = False) -> None:
    """Bring tenants, sources, transports, identities, templates, segments and campaigns to what the files say."""
    try:
        applied = apply_paths(installation(), paths, dry_run=dry_run)
    except Refused as refused:
        if not json:
            raise
        answer_json({"applied": False, "problems": refused.problems})
        sys.exit(1)
    if json:
        answer_json(
            {
                "applied": not dry_run,
                "summary": summary(applied.changes),
                "changes": [_shown(change) for change in applied.changes],
                "keys_made": applied.keys_made,
                "warnings": applied.warnings,
            }
        )
    else:
        _show(applied)


def _shown(change: Change) -> dict[str, Any]:
    return {
        "action": change.action,
        "kind": change.kind,
        "name": change.name,
        "place": change.place,
        "fields": change.fields,
        "state": change.state,
        "note": change.note,
    }


_MARKS = {"create": "[green]+[/]", "change": "[yellow]~[/]", "unchanged": " "}


def _show(applied: Applied) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for change in applied.changes:
        state = f" -> {change.state}" if change.state else ""
        console.print(f"{_MARKS[change.action]} {change.kind:<10} {escape(change.name)}{state}")
        for one in change.fields:
            console.print(f"    {escape(one.field)}: {escape(_brief(one.old))} -> {escape(_brief(one.new))}")
        if change.note:
            console.print(f"    [yellow]{escape(change.note)}[/]")
    for purpose in applied.keys_made:
        console.print(f"[green]+[/] key        {purpose}")
    for warning in applied.warnings:
        console.print(f"[yellow]warning[/] {escape(str(warning))}")
    counts = summary(applied.changes)
    what = f"{counts['create']} to create, {counts['change']} to change, {counts['unchanged']} unchanged"
    console.print(
        f"{what}; nothing was changed (--dry-run)" if applied.dry_run
        else what.replace("to create", "created").replace("to change", "changed")
    )  # fmt: skip


def _brief(value: Any, limit: int = 70) -> str:
    text = "nothing" if value is None else jsonlib.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


@app.command()
def tenants(json: Json = False) -> None:
    """The tenants and what each of them has."""
    with installation().database.transaction() as connection:
        rows = configuration.tenants(connection)
    answer_json(rows) if json else answer_table(rows, title="tenants")


@app.command()
def init(folder: Annotated[Path, typer.Argument(help="An empty folder, or one to be made.")] = Path(".")) -> None:
    """Write a commented example project into an empty folder."""
    write_example(folder)
    print(f"An example project lies in {folder}. Read its mailmill.yaml, then:")
    if folder.resolve() != Path.cwd():
        print(f"  cd {shlex.quote(str(folder))}")
    print("  mailmill apply .                # store what the files say")
    print("  mailmill ingest example/inbox   # take in the sample contacts")
    print("  mailmill up                     # user interface, listener and statistics, on loopback")


def write_example(folder: Path) -> None:
    """Copy the example project.

    Raises: Misconfigured when the folder holds anything, or cannot be written.
    """
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise Misconfigured("is not an empty folder", place=str(folder), remedy="Name an empty or a new one.")
        folder.mkdir(parents=True, exist_ok=True)
        with resources.as_file(resources.files("mailmill.cli").joinpath("example_project")) as source:
            shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "gitignore").rename(folder / ".gitignore")
        (folder / "secrets").mkdir(mode=0o700)
        secret = folder / "secrets" / "example-webhook"
        secret.touch(mode=0o600)
        secret.write_text(secrets.token_urlsafe(32) + "\n")
    except OSError as error:
        why = error.strerror or error.args[0][0][2]  # the first of those that shutil collected
        raise Misconfigured(f"cannot be written: {why}", place=str(folder)) from error
