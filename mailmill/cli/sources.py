"""The verbs about sources: what each has given and what waits with it, and deleting one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import typer

from mailmill.cli.app import Json, OrShow, answer_json, answer_table, app, installation
from mailmill.errors import Misconfigured
from mailmill.io import lake_erasure
from mailmill.io.postgres import sources
from mailmill.pipelines.ingest import stage

group = typer.Typer(cls=OrShow, help="Where contacts come from: what each source has given, and deleting one.")
app.add_typer(group, name="sources")


@group.command("show")
def show(json: Json = False) -> None:
    """Each source with its contacts, batches, the last one, what waits for a person, and the last error."""
    with installation().database.transaction() as conn:
        found = sources.overview(conn)
    if json:
        answer_json(found)
        return
    answer_table([{name: value for name, value in row.items() if name not in ("held", "withheld", "absent")}
                  | {"held": len(row["held"]), "withheld": len(row["withheld"])} for row in found])  # fmt: skip
    for row in found:
        for line in waiting(row):
            print(line)


def waiting(row: Mapping[str, Any]) -> list[str]:
    """What a person should look at, a line each. In: a row of `sources.overview`."""
    name = row["source"]
    held = [
        f"{name}: batch {one['batch']} ({one['origin']}) is held: {one['why']}; "
        + (
            f"`mailmill ingest {name} --accept-columns`"
            if one["readable"]
            else "correct `columns` and apply the source"
        )
        + f", or `mailmill ingest {name} --discard {one['batch']}`"
        for one in row["held"]
    ]
    withheld = [
        f"{name}: batch {one['batch']} ({one['origin']}) is withheld: {one['rejected']:,} of {one['read']:,} rows were "
        f"rejected; `mailmill rejects {one['batch']}`, then `mailmill ingest {name} --force`, or "
        f"`mailmill ingest {name} --discard {one['batch']}`"
        for one in row["withheld"]
    ]
    absent = [
        f"{name}: a full read showed {number:,} contacts no more, and they stay; "
        f"`mailmill ingest {name} --force` if it is meant, else `--full` once the API is right"
        for number in [row["absent"]]
        if number
    ]
    return held + withheld + absent


@group.command("delete")
def delete(
    source: Annotated[str, typer.Argument(help="tenant/source")],
    contacts: Annotated[
        Literal["keep", "withdraw", "remove"] | None,
        typer.Option(help="What becomes of its contacts: they stay, it takes them back, or what it gave goes."),
    ] = None,
    json: Json = False,
) -> None:
    """Delete a source. Its batches stay, as what its contacts came from; files that still name it bring it back.

    Contacts that are withdrawn by every one of their sources stay, with the status `withdrawn`, and are not mailed.
    With `remove` they go, contacts of other sources too are made anew without what this one said of them, and of its
    batches nothing stays but their names and counts.
    """
    mill = installation()
    with mill.database.transaction() as conn:
        row = sources.source(conn, source)
        sources.hold(conn, row)
        known = sources.contacts_of(conn, row)
        if known and contacts is None:
            raise Misconfigured(
                f"{row.name} stands for {known:,} contacts; say what becomes of them",
                place="--contacts",
                remedy="keep: they stay as they are. withdraw: whom no other source knows is not mailed any more. "
                "remove: whom no other source knows goes, and the others lose what this one gave them.",
            )
        withdrawn = sources.withdraw_all(conn, row) if contacts == "withdraw" else 0
        done = sources.remove_contacts(conn, mill.lake, row) if contacts == "remove" else None
        sources.delete(conn, row)
    if contacts == "remove":
        lake_erasure.clear(mill.database, mill.lake, row.tenant_id)
    if contacts in ("withdraw", "remove"):
        stage.publish_contacts(row.tenant_id, mill.ingest, now=datetime.now(UTC))
    answer = {"deleted": row.name, "contacts": contacts or "keep", "withdrawn": withdrawn,
              "removed": done.removed if done else 0, "changed": done.changed if done else 0,
              "left": done.left if done else 0}  # fmt: skip
    answer_json(answer) if json else answer_table([answer])
    if answer["left"] and not json:
        print(f"{answer['left']:,} contacts stay as they were: a batch of another source cannot be read by its columns")
