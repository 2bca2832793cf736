"""What PostgreSQL and the lake know of one contact. Reads only; the caller owns the transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import psycopg
from psycopg.rows import class_row, dict_row

from mailmill.io.lake import Lake
from mailmill.io.postgres import aliases, consents, domains, erasure
from mailmill.io.postgres.sql import statements
from mailmill.io.postgres.suppressions import of_mailboxes
from mailmill.pipelines.ingest import verdicts
from mailmill.pipelines.ingest.domains import frame as domain_frame
from mailmill.pipelines.read.explanation import (
    CampaignFacts,
    Explanation,
    LastWord,
    Sighting,
    Story,
    Suppression,
    mailed,
    not_mailed,
    values,
)

SQL = statements("explain")
_SEGMENT = pl.Schema({"contact_id": pl.Int64()})


def by_key(
    conn: psycopg.Connection, lake: Lake, *, tenant_id: int, tenant: str, key: str, same: Sequence[str] | None = None
) -> Explanation | None:
    """Of an address key or phone number; None when the tenant knows neither contact nor suppression.

    In: same, the keys of the person where they are known; None, to look up who is one with them by the tenant's rule.
    """
    asked = {"tenant_id": tenant_id, "key": key}
    contact = _one(conn, "contact", asked) or _one(conn, "contact_by_email", asked)
    found = _explain(conn, lake, tenant_id, tenant, key, contact, contact["id"] if contact else None, same)
    return found if contact is not None or found.suppressions else None


def by_message(
    conn: psycopg.Connection, lake: Lake, *, tenant_id: int, tenant: str, campaign_id: int, message_id: int, asked: str
) -> Explanation | None:
    """Of the contact a message went to; None when the ledger does not have it (any more)."""
    which = {"tenant_id": tenant_id, "message_id": message_id, "campaign_id": campaign_id}
    row = conn.execute(SQL["contact_of_message"], which).fetchone()
    if row is None:
        return None
    contact = _one(conn, "contact_by_id", {"tenant_id": tenant_id, "contact_id": row[0]})
    return _explain(conn, lake, tenant_id, tenant, asked, contact, row[0])


def _explain(
    conn: psycopg.Connection,
    lake: Lake,
    tenant_id: int,
    tenant: str,
    asked: str,
    contact: dict[str, Any] | None,
    contact_id: int | None,
    same: Sequence[str] | None = None,
) -> Explanation:
    keys = {asked}
    if contact is not None:
        keys |= {contact["match_key"], contact["phone"] or "", (contact["email"] or "").lower()}
    if same is None:
        same = aliases.of(conn, lake, tenant_id, sorted(keys - {""}))
    others = set(same) - keys
    keys |= others
    named = of_mailboxes(conn, tenant_id, sorted(keys - {""}))
    ids = [contact_id, *erasure.ids_of(conn, tenant_id, sorted(others))] if contact_id is not None else []
    which = {"tenant_id": tenant_id, "contact_id": contact_id, "ids": ids, "keys": named}
    with conn.cursor(row_factory=class_row(Suppression)) as cursor:
        suppressions = cursor.execute(SQL["suppressions"], which).fetchall()
    with conn.cursor(row_factory=class_row(Sighting)) as cursor:
        sightings = cursor.execute(SQL["sources"], which).fetchall()
    consent = consents.current(conn, tenant_id, ids)
    told = _values(conn, tenant_id, contact) if contact else []
    if contact is not None:
        contact = _weighed(conn, {name: value for name, value in contact.items() if name != "provenance"})
    return Explanation(
        asked=asked,
        tenant=tenant,
        contact=contact,
        sources=sightings,
        values=told,
        suppressions=suppressions,
        campaigns=_stories(conn, lake, which, contact, suppressions, sightings, consent),
        aliases=sorted(others),
        consent=consent,
    )


def _weighed(conn: psycopg.Connection, contact: dict[str, Any]) -> dict[str, Any]:
    """The contact with verdict, score, suggestion and provider as they are published: what DNS said counts."""
    letters = ("email", "verdict", "verdict_reason")
    row = pl.DataFrame([[contact[name] for name in letters]], schema=dict.fromkeys(letters, pl.String), orient="row")
    domain = (contact["email"] or "").rpartition("@")[2]
    known = domain_frame(list(domains.find(conn, [domain]).values()))
    return contact | verdicts.judged(row, known).row(0, named=True)


def _values(conn: psycopg.Connection, tenant_id: int, contact: Mapping[str, Any]) -> list[Any]:
    which = {"tenant_id": tenant_id, "contact_id": contact["id"]}
    words = {row[0]: LastWord(*row[1:]) for row in conn.execute(SQL["last_words"], which)}
    batch_ids = {claim[3] for claim in contact["provenance"].values()} | {word.last_batch for word in words.values()}
    sources = conn.execute(SQL["source_names"], which).fetchall()
    origins = conn.execute(SQL["batch_origins"], {**which, "batch_ids": sorted(batch_ids)}).fetchall()
    return values(contact, words, dict(sources), dict(origins))


def _stories(
    conn: psycopg.Connection,
    lake: Lake,
    which: Mapping[str, Any],
    contact: Mapping[str, Any] | None,
    suppressions: Sequence[Suppression],
    sightings: Sequence[Sighting],
    consent: str | None,
) -> list[Story]:
    messages = {row["campaign_id"]: row for row in rows(conn, "messages", which)}
    attempts: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    ids = [row["id"] for row in messages.values()]
    for row in rows(conn, "attempts", {**which, "message_ids": ids}):
        attempts[row.pop("message_id")].append(row)
    member_of = _segments(conn, lake, which)
    stories = []
    for row in rows(conn, "campaigns", which):
        facts = CampaignFacts(**row, in_segment=member_of.get(row["segment"]))
        message = messages.get(facts.id)
        code, why = (
            (message["state"], mailed(message) + _elsewhere(message, contact))
            if message
            else not_mailed(contact, suppressions, facts, sightings, consent)
        )
        stories.append(
            Story(
                campaign=facts.campaign,
                campaign_state=facts.state,
                mailed=message is not None and message["state"] == "sent",
                code=code,
                why=why,
                message=message,
                attempts=attempts[message["id"]] if message else (),
            )
        )
    return stories


def _elsewhere(message: Mapping[str, Any], contact: Mapping[str, Any] | None) -> str:
    address = message["address"]
    if contact is None or address is None or address.lower() == (contact["email"] or "").lower():
        return ""
    return f"; under {address}, another address of this person"


def _segments(conn: psycopg.Connection, lake: Lake, which: Mapping[str, Any]) -> dict[str, bool]:
    """Segment -> whether the person is in it; segments that are not materialized are left out."""
    if not which["ids"]:
        return {}
    files: defaultdict[str, list[str]] = defaultdict(list)
    for part, file in conn.execute(SQL["segment_files"], which):
        if lake.path(file).exists():  # a lost one is made anew
            files[part].append(file)
    wanted = pl.col("contact_id").is_in(which["ids"])
    return {part: not lake.scan(paths, _SEGMENT).filter(wanted).collect().is_empty() for part, paths in files.items()}


def rows(conn: psycopg.Connection, name: str, which: Mapping[str, Any]) -> list[dict[str, Any]]:
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(SQL[name], which).fetchall()


def _one(conn: psycopg.Connection, name: str, which: Mapping[str, Any]) -> dict[str, Any] | None:
    found = rows(conn, name, which)
    return found[0] if found else None
