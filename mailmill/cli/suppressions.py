"""Verbs about addresses that are not mailed again: suppress add, import, list, remove."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import polars as pl
import psycopg
import typer

from mailmill.cli import in_the_way, suppression_files
from mailmill.cli.app import Json, answer_json, answer_table, app, installation, person
from mailmill.cli.forget import key_of
from mailmill.errors import Misconfigured
from mailmill.io.postgres import campaigns, erasure, suppressions
from mailmill.pipelines.ingest import addresses, phones
from mailmill.pipelines.ingest.erasure import channels
from mailmill.pipelines.ingest.forgotten import recognised
from mailmill.pipelines.ingest.persons import EACH
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
    """What became of the addresses: new, known before, forgotten persons (kept out anyway), lines without any.

    skipped: rows of an exported file that are not for whom they were imported, by why.
    """

    added: int
    known: int
    forgotten: int
    unreadable_lines: list[int]
    skipped: dict[str, int]


def whose(conn: psycopg.Connection, tenant: str | None, all: bool) -> int | None:
    """The tenant's id; None for every tenant. Raises: Misconfigured when neither or both are named."""
    if (tenant is None) != all:
        raise Misconfigured("whose list is it?", place="--tenant", remedy="Give --tenant, or --all for every tenant.")
    return None if tenant is None else campaigns.tenant_id(conn, tenant)


def suppress(
    conn: psycopg.Connection, tenant_id: int | None, asked: pl.DataFrame, *, campaign: int | None = None,
    skipped: dict[str, int] | None = None,
) -> Suppressed:  # fmt: skip
    """Suppress what is an address or a number; what is none keeps nobody else from it. In: asked, ASKED_SCHEMA."""
    texts = asked["text"].str.strip_chars().str.strip_prefix("'")  # as our export writes it
    mails = addresses.examine(texts)["address_key"]
    numbers = phones.examine(texts, pl.Series([None] * len(texts), dtype=pl.String))
    found = asked.with_columns(text=texts, key=mails.zip_with(mails.is_not_null(), numbers))
    unreadable = found.filter(pl.col("key").is_null() & (pl.col("text") != ""))["line"].to_list()
    found = found.drop_nulls("key").sort("until", descending=True, nulls_last=False, maintain_order=True)
    found = found.unique(["key", "reason"], keep="first", maintain_order=True)  # of two ends the later, or none at all
    erasure.keep_away(conn, tenant_id)
    known = erasure.forgotten(conn, tenant_id or 0)
    # for every tenant another spelling is kept: whom one tenant's rule holds for the same, others mail as somebody else
    rule = EACH if tenant_id is None else known.rule
    gone = recognised(found["key"].unique(), known.secrets, known.hashes, rule) if known else []
    kept = found.filter(~pl.col("key").is_in(list(gone))).with_columns(channel=channels(pl.col("key")))
    added = suppressions.suppress_each(
        conn, tenant_id=tenant_id, address_keys=kept["key"].to_list(), channels=kept["channel"].to_list(),
        reasons=kept["reason"].to_list(), ends=kept["until"].to_list(), notes=kept["note"].to_list(),
        scope_campaign_id=campaign,
    )  # fmt: skip
    return Suppressed(
        added=added, known=kept.height - added, forgotten=len(gone), unreadable_lines=unreadable, skipped=skipped or {},
    )  # fmt: skip


@group.command("add")
def add(
    address: Typed, tenant: TenantOption = None, all: All = False, campaign: Campaign = None,
    reason: Annotated[Reason, typer.Option()] = "manual", until: Until = None, note: Note = None, json: Json = False,
) -> None:  # fmt: skip
    """Never mail these addresses again. Running campaigns leave them out within a second."""
    if until is not None and reason in ("unsubscribed", "complained"):
        raise Misconfigured("an unsubscription or complaint has no end", place="--until")
    end = None if until is None else windows.moment(until, "UTC")
    if end is not None and end <= datetime.now(UTC):
        raise Misconfigured("a suppression that has ended keeps nobody out", place="--until")
    asked = suppression_files.asked(address, reason, end, note)
    with installation().database.transaction() as conn:
        tenant_id = whose(conn, tenant, all)
        done = suppress(conn, tenant_id, asked, campaign=_scope(conn, tenant, campaign))
    _say(done, json)


def _scope(conn: psycopg.Connection, tenant: str | None, campaign: str | None) -> int | None:
    if campaign is None:
        return None
    if tenant is None:
        raise Misconfigured("a campaign belongs to a tenant", place="--campaign")
    return campaigns.find(conn, f"{tenant}/{campaign}").campaign_id


@group.command("import")
def import_(
    file: Annotated[
        Path, typer.Argument(help="One address a line, the first column of a CSV, or what `list --csv` wrote.")
    ],
    tenant: TenantOption = None, all: All = False,
    reason: Annotated[Reason, typer.Option(help="Where the file says none.")] = "imported",
    note: Note = None, json: Json = False,
) -> None:  # fmt: skip
    """Never mail the addresses of a file again.

    A row that `suppress list --csv` wrote keeps its reason, end and note. Rows of other tenants, for one campaign, or
    that have ended are counted and left out.
    """
    with installation().database.transaction() as conn:
        tenant_id = whose(conn, tenant, all)
        asked, skipped = suppression_files.read(file, tenant, datetime.now(UTC))
        given = asked.with_columns(
            pl.col("reason").fill_null(reason), pl.col("note").fill_null(pl.lit(note, pl.String))
        )
        done = suppress(conn, tenant_id, given, skipped=skipped)
    _say(done, json)


def _say(done: Suppressed, json: bool) -> None:
    if json:
        answer_json(done)
    else:
        print(f"{done.added:,} suppressed, {done.known:,} were already")
        for why, n in done.skipped.items():
            print(f"{n:,} left out: {why}")
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
            conn, tenant_id=tenant_id, reason=reason, address_keys=[key_of(address)] if address else None,
            limit=None if csv else limit,
        )  # fmt: skip
    if csv is None and json:
        answer_json(rows)
        return
    shown = [row | {"tenant": suppression_files.EVERY_TENANT} if row["scope"] == "all" else row for row in rows]
    if csv is None:
        answer_table(shown, title="suppressions")
        return
    n = suppression_files.write(csv, shown)
    answer_json({"file": csv, "rows": n}) if json else print(f"{n:,} suppressions in {csv}")


@group.command("remove")
def remove(
    address: Typed, tenant: TenantOption = None, all: All = False,
    campaign: Annotated[str | None, typer.Option("--campaign", help="Only what is for this campaign.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why; without it a person's own word stays.")] = None,
    json: Json = False,
) -> None:  # fmt: skip
    """Take suppressions back, a tenant's with those for its campaigns, or one campaign's alone.

    What was unsubscribed or complained of needs a --reason; the history keeps both. The consent stays withdrawn.
    """
    keys, mill = [key_of(text) for text in address], installation()
    with mill.database.transaction() as conn:
        removed = suppressions.remove(
            conn, tenant_id=whose(conn, tenant, all), address_keys=keys, by=person(), why=reason,
            scope_campaign_id=_scope(conn, tenant, campaign),
        )  # fmt: skip
        left = in_the_way.of(conn, mill.lake, campaigns.tenant_id(conn, tenant), keys) if tenant else None
    if json:
        withdrawn, still = (len(left.withdrawn), left.reasons) if left else (0, [])
        answer_json({"removed": removed, "consent_withdrawn": withdrawn, "suppressed": still})
        return
    print("\n".join([f"{removed:,} removed", *(left.lines(tenant) if left and tenant else ())]))
