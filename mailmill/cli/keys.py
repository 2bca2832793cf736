"""Verbs about signing keys."""

from __future__ import annotations

from typing import Annotated

import typer

from mailmill.cli.app import Json, answer_json, answer_table, app, installation
from mailmill.errors import Misconfigured
from mailmill.io.postgres import keys

keys_app = typer.Typer(no_args_is_help=True, help="Keys that sign links, pixels and return paths.")
app.add_typer(keys_app, name="keys")


@keys_app.command("list")
def list_keys(json: Json = False) -> None:
    """The signing keys, without their secrets."""
    with installation().database.transaction() as connection:
        rows = keys.listed(connection)
    answer_json(rows) if json else answer_table(rows, title="signing keys")


@keys_app.command("rotate")
def rotate_key(purpose: Annotated[str, typer.Argument(help=", ".join(keys.PURPOSES))], json: Json = False) -> None:
    """Sign with a new key from now on. The old one still verifies for a year."""
    if purpose not in keys.PURPOSES:
        raise Misconfigured(
            f"{purpose!r} is no purpose", place="PURPOSE", remedy=f"Allowed: {', '.join(keys.PURPOSES)}."
        )
    with installation().database.transaction() as connection:
        key = keys.rotate(connection, purpose)
    answer_json({"purpose": purpose, "id": key}) if json else print(f"{purpose} is signed with key {key} from now on")


@keys_app.command("dkim")
def dkim_keys(
    identity: Annotated[str, typer.Argument(help="tenant/identity", metavar="IDENTITY")], json: Json = False
) -> None:
    """Make the identity's DKIM keys that do not exist yet, and say what to publish in DNS."""
    from mailmill.cli import dkim

    found = dkim.published(installation(), identity)
    if json:
        answer_json(found)
        return
    for one in found:
        print(f"{one.name}. TXT\n  {one.value}\n  key: {one.key}{' (made now)' if one.made else ''}\n")
