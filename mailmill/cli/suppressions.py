"""Verbs about addresses that are not mailed again: suppress add, import, list, remove."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import polars as pl
import psycopg
import typer

from mailmill.cli import targeting
from mailmill.cli.app import Json, answer_json, answer_table, app, installation, person
from mailmill.cli.forget import key_of
from mailmill.errors import Misconfigured
from mailmill.io.postgres import campaigns, erasure, suppressions
from mailmill.pipelines.ingest import addresses, phones
from mailmill.pipelines.ingest.erasure import channel_of
from mailmill.pipelines.ingest.forgotten import recognised
from mailmill.pipelines.ingest.rejects import defused
from mailmill.pipelines.target import windows

group = typer.Typer(no_args_is_help=True, help="Addresses that are not mailed again.")
app.add_typer(group, name="suppress")

Reason = Literal["manual", "imported", "unsubscribed", "complained", "bounced"]
Typed = Annotated[list[str], typer.Argument(metavar="ADDRESS...", help="E-mail addresses, or numbers with their +.")]
TenantOption = Annotated[str | None, typer.Option("--tenant", help="For one tenant.")]
All = Annotated[bool, typer.Option("--all", help="For every tenant: the operator's list.")]
Campaign = Annotated[str | None, typer.Option("--campaign", help="For one campaign of the tenant only, by its slug.")]
Until = Annotated[str | None, typer.Option("--until", help="When it ends; never of an unsubscription or complaint.")]
Note = Annotated[str | None, typer.Option("--note")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Suppressed:
    """What became of the addresses: new, known before, forgotten persons (kept out anyway), lines without any."""

    added: int
    known: int
    forgotten: int
    unreadable_lines: list[int]


def whose(conn: psycopg.Connection, tenant: str | None, all: bool) -> int | None:
    """The tenant's id; None for every tenant. Raises: Misconfigured when neither or both are named."""
    if (tenant is None) != all:
        raise Misconfigured("whose list is it?", place="--tenant", remedy="Give --tenant, or --all for every tenant.")
    return None if tenant is None else campaigns.tenant_id(conn, tenant)


def suppress(
    conn: psycopg.Connection, tenant_id: int | None, typed: list[str], reason: Reason, campaign: int | None = None,
    until: datetime | None = None, note: str | None = None,
) -> Suppressed:  # fmt: skip
    """Suppress what is an address or a number; what is none keeps nobody else from being suppressed."""
    texts = pl.Series([text.strip().removeprefix("'") for text in typed], dtype=pl.String)  # as our export writes it
    mails = addresses.examine(texts)["address_key"]
    numbers = phones.examine(texts, pl.Series([None] * len(texts), dtype=pl.String))
    found = mails.zip_with(mails.is_not_null(), numbers)
    unreadable = [n for n, (key, text) in enumerate(zip(found, texts, strict=True), 1) if key is None and text]
    keys = found.drop_nulls().unique(maintain_order=True)
    erasure.keep_away(conn, tenant_id)
    known = erasure.forgotten(conn, tenant_id or 0)
    gone = recognised(keys, known.secrets, known.hashes, known.rule) if known else []
    added, kept = 0, [key for key in keys if key not in set(gone)]
    for channel in ("email", "phone"):
        if theirs := [key for key in kept if channel_of(key) == channel]:
            added += suppressions.suppress(
                conn, tenant_id=tenant_id, address_keys=theirs, reason=reason, channel=channel,
                scope_campaign_id=campaign, expires_at=until, note=note,
            )  # fmt: skip
    return Suppressed(added=added, known=len(kept) - added, forgotten=len(gone), unreadable_lines=unreadable)


@group.command("add")
def add(
    address: Typed, tenant: TenantOption = None, all: All = False, campaign: Campaign = None,
    reason: Annotated[Reason, typer.Option()] = "manual", until: Until = None, note: Note = None, json: Json = False,
) -> None:  # fmt: skip
    """Never mail these addresses again. Running campaigns leave them out within a second."""
    if until is not None and reason in ("unsubscribed", "complained"):
        raise Misconfigured("an unsubscription or complaint has no end", place="--until")
    with installation().database.transaction() as conn:
        tenant_id = whose(conn, tenant, all)
        scope = None
        if campaign is not None:
            if tenant is None:
                raise Misconfigured("a campaign belongs to a tenant", place="--campaign")
            scope = campaigns.find(conn, f"{tenant}/{campaign}").campaign_id
        done = suppress(conn, tenant_id, address, reason, scope, _moment(until), note)
    _say(done, json)


def _moment(text: str | None) -> datetime | None:
    return None if text is None else windows.moment(text, "UTC")


@group.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="One address a line, or the first column of a CSV.")],
    tenant: TenantOption = None, all: All = False,
    reason: Annotated[Reason, typer.Option()] = "imported", note: Note = None, json: Json = False,
) -> None:  # fmt: skip
    """Never mail the addresses of a file again."""
    typed = targeting.lines(file)
    with installation().database.transaction() as conn:
        done = suppress(conn, whose(conn, tenant, all), typed, reason, note=note)
    _say(done, json)


def _say(done: Suppressed, json: bool) -> None:
    if json:
        answer_json(done)
    else:
        print(f"{done.added:,} suppressed, {done.known:,} were already")
    if done.unreadable_lines:
        places = ", ".join(map(str, done.unreadable_lines[:10]))
        some = f"{n:,} hold" if (n := len(done.unreadable_lines)) > 1 else "1 holds"
        print(f"mailmill: {some} no address (number {places})", file=sys.stderr)
        raise typer.Exit(1)


@group.command("list")
def list_(
    tenant: TenantOption = None,
    reason: Annotated[str | None, typer.Option()] = None,
    address: Annotated[str | None, typer.Option(help="Of one address.")] = None,
    limit: Annotated[int, typer.Option(min=1)] = 50,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write all to this file, for a spreadsheet.")] = None,
    json: Json = False,
) -> None:
    """Who is not mailed and why: a tenant's suppressions with those for every tenant, newest first.

    In JSON a suppression for every tenant has `"scope": "all"` and the tenant null.
    """
    with installation().database.transaction() as conn:
        tenant_id = None if tenant is None else campaigns.tenant_id(conn, tenant)
        rows = suppressions.listed(
            conn, tenant_id=tenant_id, reason=reason, address_key=key_of(address) if address else None,
            limit=None if csv else limit,
        )  # fmt: skip
    if csv is None and json:
        answer_json(rows)
        return
    shown = [row | {"tenant": "every tenant"} if row["scope"] == "all" else row for row in rows]
    if csv is None:
        answer_table(shown, title="suppressions")
        return
    names = ("address", "channel", "reason", "scope", "tenant", "campaign", "created_at", "expires_at", "note")
    cells = {name: [None if row[name] is None else str(row[name]) for row in shown] for name in names}
    frame = pl.DataFrame(cells, schema=dict.fromkeys(names, pl.String)).with_columns(defused(pl.col(pl.String)))
    try:
        csv.write_bytes(b"\xef\xbb\xbf" + frame.write_csv(line_terminator="\r\n").encode())
    except OSError as error:
        raise Misconfigured(f"cannot be written: {error.strerror}", place=str(csv)) from None
    answer_json({"file": csv, "rows": frame.height}) if json else print(f"{frame.height:,} suppressions in {csv}")


@group.command("remove")
def remove(
    address: Typed, tenant: TenantOption = None, all: All = False,
    reason: Annotated[str | None, typer.Option(help="Why; without it a person's own word stays.")] = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Take suppressions back. What was unsubscribed or complained of needs a --reason; the history keeps both."""
    keys = [key_of(text) for text in address]
    with installation().database.transaction() as conn:
        removed = suppressions.remove(
            conn, tenant_id=whose(conn, tenant, all), address_keys=keys, by=person(), why=reason
        )
    answer_json({"removed": removed}) if json else print(f"{removed:,} removed")
