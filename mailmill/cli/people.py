"""Verbs about contacts as people: one added by hand, their history and consent; tags."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Literal

import polars as pl
import psycopg
import typer

from mailmill.cli import imports, in_the_way
from mailmill.cli.app import Json, answer_json, answer_table, app, installation, person
from mailmill.cli.forget import AskedFor, key_of
from mailmill.cli.stats import TenantOption, chosen, reading
from mailmill.composition import Installation
from mailmill.errors import Misconfigured
from mailmill.io.postgres import aliases, campaigns, consents, erasure, tags
from mailmill.io.postgres import contacts as stored
from mailmill.io.postgres import ingest as sources
from mailmill.io.postgres.audiences import PostgresContacts
from mailmill.io.sources.manual import Typed
from mailmill.pipelines.configuration.words import tag_slug
from mailmill.pipelines.ingest import addresses, rejects, stage
from mailmill.pipelines.ingest.columns import ALIASES
from mailmill.pipelines.ingest.forgotten import recognised
from mailmill.pipelines.ingest.ports import SourceRow
from mailmill.pipelines.read.answers import Tenant
from mailmill.pipelines.target import windows
from mailmill.pipelines.target.rereading import reread

contacts = typer.Typer(no_args_is_help=True, help="Contacts by hand, and what became of them.")
app.add_typer(contacts, name="contacts")
tag_app = typer.Typer(no_args_is_help=True, help="Tags: what they mean, how many contacts have them.")
app.add_typer(tag_app, name="tags")


def one_tenant(conn: psycopg.Connection, tenant: str | None) -> Tenant:
    """Raises: Misconfigured when it is not said which of several."""
    found = chosen(conn, tenant)
    if len(found) != 1:
        raise Misconfigured(f"there are {len(found)} tenants", place="--tenant", remedy="Name one of them.")
    return found[0]


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
    """Add a contact, or say something new about one, through the tenant's manual source, as a run that the UI shows."""
    mill = installation()
    row = {"email": email, "phone": phone, "name": name, "tags": ";".join(tag or ())} | _fields(field or [])
    given = {key: value for key, value in row.items() if value}
    if not given.keys() & {"email", "phone"}:
        raise Misconfigured("a contact needs --email or --phone")
    with mill.database.transaction() as conn:
        found = sources.sources(conn, tenant=tenant, slug=source, kind="manual")
    person = _only(found, tenant)
    # kept here, and the run goes on from there: addresses do not belong into a run's configuration
    received = stage.receive(person, Typed(rows=[given], at=datetime.now(UTC)), mill.ingest)
    for refusal in received.refused:
        raise Misconfigured(f"the contact was not taken in: {refusal.message}", place=person.name)
    (batch,) = received.batches
    done = imports.go_on(mill, person)
    # of this row alone: the run takes in as well what an earlier one has left
    for reason in mill.ingest.rejected(batch_id=batch).select("reason").collect()["reason"]:
        raise Misconfigured(f"the contact was not taken in: {rejects.REASONS.get(reason, reason)}", place=reason)
    imports.complain([{**done, "held": [held for held in done["held"] if held["batch"] == batch]}])
    answer = {name: done[name] for name in ("source", "new", "changed", "contacts")}
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


@contacts.command("history")
def history(address: AskedFor, tenant: TenantOption = None, json: Json = False) -> None:
    """What became of a contact: created, consents, suppressed and why, taken back and why."""
    key = key_of(address)
    answers, lake = [], installation().lake
    with reading() as conn:
        for one in chosen(conn, tenant):
            who = erasure.person(conn, one.id, [key])
            others = aliases.of(conn, lake, one.id, who.keys)
            ids = (*who.contact_ids, *erasure.ids_of(conn, one.id, others))
            consent = consents.current(conn, one.id, ids)
            if rows := consents.history(conn, one.id, ids, [*who.keys, *others]):
                contact = ids[0] if ids else None
                answers.append({"tenant": one.slug, "contact_id": contact, "consent": consent, "history": rows})
    if not answers:
        raise Misconfigured(f"{address} is no contact and has no history here")
    if json:
        answer_json(answers)
        return
    for answer in answers:
        title = f"{answer['tenant']}: consent {answer['consent'] or 'not recorded'}"
        answer_table(answer["history"], title=title)  # type: ignore[arg-type]


@contacts.command("consent")
def consent(
    address: AskedFor,
    status: Annotated[Literal["grant", "withdraw"], typer.Argument()],
    basis: Annotated[str | None, typer.Option(help=f"One of {', '.join(consents.BASES)}.")] = None,
    proof: Annotated[str | None, typer.Option(help="Where it can be shown: a form, a ticket.")] = None,
    at: Annotated[str | None, typer.Option(help="When; now, when not given.")] = None,
    tenant: TenantOption = None,
    json: Json = False,
) -> None:
    """Record what a person said. Who withdraws is suppressed, unless a later grant stands; a consent lifts none."""
    bases = f"Bases are {', '.join(consents.BASES)}."
    if status == "grant" and not (basis and proof):
        raise Misconfigured("a consent needs its lawful basis and a proof", place="--basis, --proof", remedy=bases)
    if basis is not None and basis not in consents.BASES:
        raise Misconfigured(f"{basis!r} is no lawful basis", place="--basis", remedy=bases)
    now, moment = datetime.now(UTC), windows.moment(at, "UTC") if at else None
    if moment is not None and moment > now:
        raise Misconfigured("nobody has said anything yet at a time to come", place="--at")
    if "@" in address and addresses.check(address).address_key is None:
        raise Misconfigured("is no e-mail address", place=address)
    key = key_of(address)
    mill = installation()
    with mill.database.transaction() as conn:
        one = one_tenant(conn, tenant)
        erasure.keep_away(conn, one.id)
        known = erasure.forgotten(conn, one.id)
        if recognised(pl.Series([key]), known.secrets, known.hashes, known.rule):
            raise Misconfigured("this person was forgotten and stays out; nothing is kept of them", place="ADDRESS")
        said = consents.add(
            conn, one.id, key, "granted" if status == "grant" else "withdrawn", basis=basis, proof=proof,
            at=moment, by=person(),
        )  # fmt: skip
        left = in_the_way.of(conn, mill.lake, one.id, [key])
    if json:
        answer_json({"tenant": one.slug, "status": status, "at": said, "suppressed": left.reasons,
                     "withdrawn": left.withdrawn})  # fmt: skip
    elif status == "grant" or "unsubscribed" not in left.reasons:
        stands = "" if status == "grant" else "; a later grant stands, so nobody is suppressed"
        print("\n".join([f"{one.slug}: recorded{stands}", *left.lines(one.slug)]))
    else:
        until = f"until `mailmill suppress remove {address} --tenant {one.slug} --reason …`"
        print(f"{one.slug}: recorded; suppressed ({', '.join(left.reasons)}), which stays {until}")


@contacts.command("publish")
def publish(tenant: Annotated[str, typer.Argument(help="The tenant's slug.")], json: Json = False) -> None:
    """Bring what segments and analysts see of the contacts up to date now, as Dagster does every hour."""
    mill = installation()
    with mill.database.transaction() as conn:
        number = campaigns.tenant_id(conn, tenant)
    done = stage.publish_contacts(number, mill.ingest, now=datetime.now(UTC))
    answer = {"contacts": done.rows, "merged into others": done.merged, "largest person": done.largest_person,
              "files written": done.files_written, "files kept": done.files_kept}  # fmt: skip
    answer_json({name.replace(" ", "_"): n for name, n in answer.items()}) if json else answer_table([answer])


@tag_app.command("list")
def list_tags(tenant: Annotated[str | None, typer.Argument()] = None, json: Json = False) -> None:
    """The tags of the published contacts with how many have each, and what they mean."""
    mill = installation()
    rows = []
    with reading() as conn:
        found = [(one, tags.described(conn, one.id)) for one in chosen(conn, tenant)]
    for one, described in found:
        counts = reread(partial(_tag_counts, mill, one.id))
        about = {slug: (description, gone) for slug, description, gone in described}
        for slug in sorted({*counts, *about}, key=lambda slug: (-counts.get(slug, 0), slug)):
            description, gone = about.get(slug, (None, None))
            rows.append({"tenant": one.slug, "tag": slug, "contacts": counts.get(slug, 0), "description": description,
                         "deleted_at": gone})  # fmt: skip
    answer_json(rows) if json else answer_table(rows, title="tags")


def _tag_counts(mill: Installation, tenant_id: int) -> dict[str, int]:
    generation = PostgresContacts(database=mill.database, lake=mill.lake).generation(tenant_id)
    if generation is None:
        return {}
    counted = generation.contacts.select(pl.col("tags").explode()).drop_nulls().group_by("tags").len()
    return dict(counted.collect(engine="streaming").iter_rows())


@tag_app.command("delete")
def delete_tag(name: Annotated[str, typer.Argument(help="tenant/tag")], json: Json = False) -> None:
    """Take a tag off its contacts. No later load brings it back, until a YAML document describes it again."""
    tenant, _, typed = name.partition("/")
    slug = tag_slug(typed)
    if not slug:
        raise Misconfigured(f"{name!r} names no tag", remedy="Name it as tenant/tag.")
    mill = installation()
    with mill.database.transaction() as conn:
        tenant_id = campaigns.tenant_id(conn, tenant)
        stored.lock(conn, tenant_id)
        known = slug in {described for described, _, _ in tags.described(conn, tenant_id)}
        taken_off = tags.delete(conn, tenant_id, slug)
        if not (taken_off or known):  # a slip of the keyboard would forbid a tag that is to come
            raise Misconfigured(
                f"no contact of {tenant} has the tag {slug!r}", remedy=f"`mailmill tags list {tenant}` shows all."
            )
    stage.publish_contacts(tenant_id, mill.ingest, now=datetime.now(UTC))
    answer = {"tag": f"{tenant}/{slug}", "contacts": taken_off}
    answer_json(answer) if json else print(f"{answer['tag']}: taken off {taken_off:,} contacts")
