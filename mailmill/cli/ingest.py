"""Verbs about contacts coming in: ingest, contacts add, check."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from mailmill.cli.app import Json, answer_json, answer_table, app, installation
from mailmill.composition import Installation
from mailmill.errors import Misconfigured
from mailmill.io.postgres import ingest as sources
from mailmill.io.postgres.ingest_store import IngestStore
from mailmill.io.sources.feeds import feed_of
from mailmill.io.sources.manual import Typed
from mailmill.pipelines.ingest import addresses, rejects, stage, verdicts
from mailmill.pipelines.ingest.columns import ALIASES
from mailmill.pipelines.ingest.ports import Feed, Loaded, Published, Received, SourceRow, Validated

contacts = typer.Typer(no_args_is_help=True, help="Contacts by hand.")
app.add_typer(contacts, name="contacts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingested:
    """What one import did, from the source to the published contacts."""

    source: str
    received: Received
    validated: Validated
    loaded: Loaded
    published: Published

    @property
    def summary(self) -> dict[str, Any]:
        counts = self.loaded.counts
        return {
            "source": self.source,
            "read": self.validated.read,
            "accepted": self.validated.accepted,
            "rejected": self.validated.rejected,
            "new": counts.new,
            "changed": counts.changed,
            "duplicates_within": counts.duplicates_within,
            "duplicates_across": counts.duplicates_across,
            "known_before": self.received.known,
            "contacts": self.published.rows,
        }


def run(mill: Installation, source: SourceRow, feed: Feed, *, force: bool = False) -> Ingested:
    """Receive, validate, load and publish; says on stderr how far it is."""
    store = IngestStore(database=mill.database, lake=mill.lake)
    received = stage.receive(source, feed, store, progress=say)
    return _taken_in(source, store, received, stage.validate(source, store, progress=say), force)


def run_again(mill: Installation, source: SourceRow, *, force: bool = False) -> Ingested:
    """Look again at every batch with rejected rows, load what is new of it and publish."""
    store = IngestStore(database=mill.database, lake=mill.lake)
    return _taken_in(source, store, Received(), stage.retry_rejects(source, store, progress=say), force)


def _taken_in(source: SourceRow, store: IngestStore, received: Received, validated: Validated, force: bool) -> Ingested:
    loaded = stage.load(source, store, store, force=force, progress=say)
    published = stage.publish_contacts(source.tenant_id, store, now=datetime.now(UTC))
    return Ingested(source=source.name, received=received, validated=validated, loaded=loaded, published=published)


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


@app.command()
def ingest(
    source: Annotated[str, typer.Argument(help="tenant/source")],
    file: Annotated[list[Path] | None, typer.Option("--file", help="A CSV file; once for each.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Load also where more than max_reject_share is bad.")] = False,
    json: Json = False,
) -> None:
    """Take in what a source has: its files, or what its API gives since the last time."""
    mill = installation()
    with mill.database.transaction() as conn:
        row = sources.source(conn, source)
    feed = feed_of(row, project=mill.project, secret=mill.secret, files=file or ())
    done = run(mill, row, feed, force=force)
    show(done, json)
    complain(done)


def show(done: Ingested, json: bool) -> None:
    notes = list(dict.fromkeys((*done.received.notes, *done.validated.notes)))
    if json:
        answer_json({**done.summary, "reasons": done.validated.reasons, "notes": notes,
                     "refused": done.received.refused, "withheld": done.loaded.withheld})  # fmt: skip
        return
    answer_table([done.summary])
    if done.validated.reasons:
        rows = [
            {"rows": n, "reason": reason, "meaning": rejects.REASONS.get(reason, "")}
            for reason, n in done.validated.reasons.items()
        ]
        answer_table(rows, title="rejected, by reason")
    for note in notes:
        print(f"note: {note}")


def complain(done: Ingested) -> None:
    """What a person has to look at makes the verb fail, after everything else has been done.

    Raises: Misconfigured.
    """
    if done.received.refused:
        raise Misconfigured(_refused(done.received))
    if done.loaded.withheld:
        names = ", ".join(f"{batch.origin} (batch {batch.id})" for batch in done.loaded.withheld)
        raise Misconfigured(
            f"too many rows of {names} were rejected, so none of them was loaded",
            remedy=f"Look at them with `mailmill rejects {done.source}`, then run this again with --force.",
        )


def _refused(received: Received) -> str:
    """What could not be read and why, each with its name once."""
    said = [
        refusal.message if refusal.message.startswith(refusal.origin) else f"{refusal.origin}: {refusal.message}"
        for refusal in received.refused
    ]
    rest = received.batches or received.known
    if len(said) == 1 and not rest:
        return said[0]
    listed = "\n  ".join(said)
    return f"{len(said)} could not be read{'; the rest is taken in' if rest else ''}:\n  {listed}"


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
    done = run(mill, _only(found, tenant), Typed(rows=[given], at=datetime.now(UTC)))
    if done.validated.rejected:
        reason = next(iter(done.validated.reasons))
        raise Misconfigured(f"the contact was not taken in: {rejects.REASONS.get(reason, reason)}", place=reason)
    show(done, json)


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


@app.command()
def check(address: Annotated[str, typer.Argument(help="As somebody typed it.")], json: Json = False) -> None:
    """What an e-mail address is: how it is written, matched, and whether it is taken in. Exit 1 when it is not."""
    checked = addresses.check(address)
    if json:
        answer_json(checked)
    else:
        row = {
            "verdict": checked.verdict,
            "reason": checked.verdict_reason,
            "address": checked.address,
            "matched as": checked.address_key,
            "name": checked.display_name,
            "meaning": {**rejects.REASONS, **verdicts.RISKS}.get(checked.verdict_reason or "", ""),
        }
        answer_table([row])
    if checked.verdict == "invalid":
        raise typer.Exit(1)
