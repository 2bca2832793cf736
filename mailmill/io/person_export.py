"""Everything that is held about a person: what `mailmill export` answers with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import polars as pl
import psycopg

from mailmill.io.lake import Lake
from mailmill.io.lake_erasure import scan
from mailmill.io.postgres import aliases, consents, erasure, explain, ingest, manifest, suppressions
from mailmill.pipelines.ingest import erasure_rows
from mailmill.pipelines.ingest.erasure import Person
from mailmill.pipelines.ingest.erasure_raw import raw_rows
from mailmill.pipelines.ingest.raw import CELL
from mailmill.pipelines.read.answers import Tenant
from mailmill.pipelines.read.explanation import Explanation


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Of one tenant. `explained` has contact, values with their sources, campaigns with messages and attempts."""

    tenant: str
    keys: Sequence[str]
    consent: str | None
    explained: Sequence[Explanation]
    history: Sequence[dict[str, Any]]
    consents: Sequence[dict[str, Any]]
    suppressions: Sequence[dict[str, Any]]
    raw_rows: Sequence[dict[str, Any]]  # as the sources said it
    rejected_rows: Sequence[dict[str, Any]]
    messages: Sequence[dict[str, Any]]  # address and merge values of the ledger
    audience_rows: Sequence[dict[str, Any]]  # the same as it was frozen
    chosen: Sequence[dict[str, Any]]  # campaigns that they were added to or taken out of by hand
    engagement: Sequence[dict[str, Any]]  # when they last had a mail, opened, clicked
    events: Sequence[dict[str, Any]]

    @property
    def anything(self) -> bool:
        rows = self.raw_rows or self.rejected_rows or self.messages or self.audience_rows
        return bool(self.explained or self.history or self.suppressions or self.consents or rows)


def held(conn: psycopg.Connection, lake: Lake, tenant: Tenant, key: str) -> Held:
    """In: a transaction that sees one moment; key, as contacts.match_key."""
    # the others have their number as well, and are somebody else's to read
    same, others = aliases.of_mailbox(conn, lake, tenant.id, [key])
    who = aliases.person(conn, tenant.id, [key], same)
    # what counts for them is the consent of all who are shown as one with them
    consent = consents.current(conn, tenant.id, (*who.contact_ids, *erasure.ids_of(conn, tenant.id, others)))
    found = [
        explain.by_key(conn, lake, tenant_id=tenant.id, tenant=tenant.slug, key=one, same=same) for one in who.keys
    ]
    raw, lines = _raw(conn, lake, tenant, who)
    which = {"tenant_id": tenant.id, "ids": list(who.contact_ids), "keys": list(who.keys),
             "message_ids": list(who.message_ids)}  # fmt: skip
    known = {one.contact["id"] if one.contact else one.asked: one for one in found if one is not None}
    return Held(
        tenant=tenant.slug,
        keys=who.keys,
        consent=consent,
        explained=[replace(one, consent=consent) if one.contact else one for one in known.values()],
        history=consents.history(conn, tenant.id, who.contact_ids, who.keys),
        consents=consents.held(conn, tenant.id, who.keys),
        suppressions=suppressions.listed(conn, tenant_id=tenant.id, address_keys=who.keys),
        raw_rows=raw,
        rejected_rows=_rows(conn, lake, tenant, who, "rejected", lines),
        messages=explain.rows(conn, "held_messages", which),
        audience_rows=_rows(conn, lake, tenant, who, "audiences"),
        chosen=explain.rows(conn, "held_choices", which),
        engagement=explain.rows(conn, "held_engagement", which),
        events=_rows(conn, lake, tenant, who, "events"),
    )  # fmt: skip


def _raw(
    conn: psycopg.Connection, lake: Lake, tenant: Tenant, who: Person
) -> tuple[list[dict[str, Any]], dict[int | None, set[int]]]:
    """Their rows, and the lines of each batch that these are."""
    columns = {source.slug: source.spec.columns for source in ingest.sources(conn, tenant=tenant.slug)}
    rows: list[dict[str, Any]] = []
    theirs: dict[int | None, set[int]] = {}
    for file in manifest.listed(conn, tenant_id=tenant.id, dataset="raw"):
        if not lake.path(file.file).exists():
            continue
        frame = scan(lake, file.file)
        lines = raw_rows(who, frame, columns.get(file.part, {}), file.facts)
        theirs.setdefault(file.batch_id, set()).update(lines)
        for row in frame.filter(pl.col("line").is_in(lines)).collect(engine="streaming").iter_rows(named=True):
            cells = {name.removeprefix(CELL): value for name, value in row.items() if value is not None}
            rows.append({"source": file.part, "origin": file.facts.get("origin"), **cells})
    return rows, theirs


def _rows(
    conn: psycopg.Connection, lake: Lake, tenant: Tenant, who: Person, dataset: str,
    lines: Mapping[int | None, set[int]] = MappingProxyType({}),
) -> list[dict[str, Any]]:  # fmt: skip
    rows: list[dict[str, Any]] = []
    for file in manifest.listed(conn, tenant_id=tenant.id, dataset=dataset):
        if not lake.path(file.file).exists():
            continue
        frame = scan(lake, file.file)
        schema = frame.collect_schema()
        theirs = erasure_rows.own_rows(who, dataset, schema, lines.get(file.batch_id))
        if dataset == "events":
            theirs = pl.col("message").is_in(list(who.message_ids))
        if dataset == "audiences":  # one that is shown as one with them for a number has an address of their own
            theirs = pl.col("address_key").is_in(list(who.keys))
            frame = frame.drop("aliases", strict=False)
        rows += frame.filter(theirs).collect(engine="streaming").to_dicts()
    return rows
