"""Verbs about one person: forget, export."""

from __future__ import annotations

import json as jsonlib
import os
import sys
from pathlib import Path
from typing import Annotated

import polars as pl
import typer

from mailmill.cli.app import Json, answer_json, answer_table, app, installation, plain
from mailmill.cli.stats import TenantOption, chosen, reading
from mailmill.errors import Misconfigured, listed
from mailmill.io.forgetting import Forgot
from mailmill.io.postgres import erasure
from mailmill.io.postgres.generation_rows import merge_rule
from mailmill.pipelines.ingest import addresses, phones
from mailmill.pipelines.ingest.erasure import channel_of
from mailmill.pipelines.ingest.persons import mailboxes
from mailmill.pipelines.read.answers import Tenant

MAX_NAMED = 10
AskedFor = Annotated[str, typer.Argument(metavar="ADDRESS", help="An e-mail address, or a phone number with its +.")]


def key_of(asked: str) -> str:
    """The match key of an address or a phone number.

    Raises: Misconfigured when it is neither.
    """
    if "@" in asked:
        found = addresses.check(asked)
        key = found.address_key or asked.strip().lower()  # what is no address today may have been taken in once
        local, _, domain = key.rpartition("@")
        if not local or not domain or found.verdict_reason == "several_addresses":
            raise Misconfigured("is not one e-mail address", place=asked)
        return key
    number = phones.examine(pl.Series([asked.strip()]), pl.Series([None], dtype=pl.String))[0]
    if number is None:
        raise Misconfigured(
            "is neither an e-mail address nor a phone number",
            place=asked,
            remedy="Write a number with its country: +43…",
        )
    return str(number)


@app.command()
def forget(
    address: AskedFor,
    tenant: TenantOption = None,
    all: Annotated[bool, typer.Option("--all", help="From every tenant, also those to come.")] = False,
    everybody: Annotated[
        bool, typer.Option("--everybody", help="Of a number that several contacts have: all of them.")
    ] = False,
    json: Json = False,
) -> None:
    """Erase a person from every store, keep a keyed hash so that they stay out, and prove it by a search."""
    mill = installation()
    key = key_of(address)
    tenants, everywhere = _from_whom(key, tenant, all)
    if not everybody:
        _of_one(key, tenants, "Each would be erased: forget the one by their address, or all of them with --everybody.")
    done = [mill.forgetter.forget(one.id, one.slug, [key], everywhere=everywhere) for one in tenants]
    show(done, json)


@app.command()
def export(
    address: AskedFor,
    tenant: TenantOption = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write it to this file, which only you may read.")] = None,
    json: Json = False,
) -> None:
    """Everything that is held about a person: contact, sources, rows, consents, suppressions, messages, events."""
    from mailmill.io.person_export import held

    key = key_of(address)
    mill = installation()
    with reading() as conn:
        tenants = chosen(conn, tenant)
    _of_one(key, tenants, "What is held of the one is nobody else's to read: export it by their address.")
    with reading() as conn:
        found = [one for of in tenants if (one := held(conn, mill.lake, of, key)).anything]
    if out is not None:
        text = jsonlib.dumps(plain(found), ensure_ascii=False, indent=2, default=str)
        try:
            with os.fdopen(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
                os.fchmod(file.fileno(), 0o600)  # also where it was there before
                file.write(text)
        except OSError as error:
            raise Misconfigured(f"cannot be written: {error.strerror}", place=str(out)) from None
    if json:
        answer_json(found if out is None else {"file": out, "tenants": [one.tenant for one in found]})
        return
    counted = ("explained", "history", "consents", "suppressions", "raw_rows", "rejected_rows", "messages", "events")
    rows = [{"tenant": one.tenant, "consent": one.consent, **{name: len(getattr(one, name)) for name in counted}}
            for one in found]  # fmt: skip
    answer_table(rows, title="held; --json or --out shows all of it" if rows else "held")


def _from_whom(key: str, tenant: str | None, all: bool) -> tuple[list[Tenant], bool]:
    with reading() as conn:
        if tenant is not None and all:
            raise Misconfigured("--tenant and --all exclude each other")
        tenants = chosen(conn, tenant)
        if tenant is None and not all and len(tenants) > 1:
            holding = [slug for (slug,) in conn.execute(erasure.SQL["known_to"], {"key": key})]
            raise Misconfigured(
                f"there are {len(tenants)} tenants" + (f"; known to {', '.join(holding)}" if holding else ""),
                place="--tenant",
                remedy="Name the tenant with --tenant, or forget the person in all of them with --all.",
            )
    return tenants, all or tenant is None


def _of_one(key: str, tenants: list[Tenant], remedy: str) -> None:
    """Raises: Misconfigured when it is a number that several contacts have, who may be several persons."""
    if channel_of(key) == "email":
        return
    with reading() as conn:
        for one in tenants:
            theirs, rule = erasure.sharing(conn, one.id, [key]), merge_rule(conn, one.id)
            if len(set(mailboxes(theirs, rule)) - ({key} if rule.phone else set())) > 1:
                named = listed(theirs, MAX_NAMED)
                raise Misconfigured(
                    f"{len(theirs):,} contacts of {one.slug} have this number: {named}", place=key, remedy=remedy
                )


def _staying(done: list[Forgot]) -> list[str]:
    """Who was shown as one with the person, and is not known to be."""
    return [
        f"{one.tenant} showed {len(one.others):,} more as one with them, for a number they share: "
        f"{listed(one.others, MAX_NAMED)}; they stay, and are shown again with the next publication; "
        "who of them is the same person, forget by their address"
        for one in done
        if one.others
    ]


def _operators(done: list[Forgot]) -> list[str]:
    """What one tenant's forget leaves as it is."""
    names = any(one.operators for one in done)
    where = "the operator's list, which is for every tenant, names them and stays"
    return [f"{where}; --all forgets them in every tenant and leaves a hash there"] if names else []


def show(done: list[Forgot], json: bool) -> None:
    """Say what was done and what the search found. Exit 1 where the person still is."""
    proved = all(one.proved for one in done)
    if json:
        answer_json({"proved": proved, "tenants": done})
    else:
        rows = [
            {"tenant": one.tenant, "contacts": one.contacts, "messages": one.messages, "files": one.lake_files,
             "dropped_files": one.folder_files, "mentions_masked": sum(one.masked.values())}
            for one in done
        ]  # fmt: skip
        answer_table(rows, title="forgotten")
        searched = [(one.tenant, found) for one in done for found in one.searched]
        rows = [{"tenant": tenant, "store": found.store, "searched": found.looked_at, "hits": len(found.hits)}
                for tenant, found in searched]  # fmt: skip
        answer_table(rows, title="searched afterwards")
        gone = (f"{folder} is not there, so it was not searched" for one in done for folder in one.not_there)
        for note in (*_staying(done), *_operators(done), *gone):
            print(f"note: {note}")
    if not proved:
        for where in (hit for one in done for found in one.searched for hit in found.hits):
            print(f"mailmill: still in {where}", file=sys.stderr)
        raise typer.Exit(1)
