"""The further match keys of a person, where a tenant's rule makes several contacts one: as the generation shows it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl
import psycopg

from mailmill.io.lake import Lake
from mailmill.io.postgres import erasure, manifest, suppressions
from mailmill.io.postgres.generation_rows import merge_rule
from mailmill.pipelines.configuration.specs import MergeSpec
from mailmill.pipelines.ingest.erasure import Person, channel_of
from mailmill.pipelines.ingest.erasure_rows import spellings
from mailmill.pipelines.ingest.generations import CONTACTS_SCHEMA
from mailmill.pipelines.ingest.persons import mailboxes


def of(conn: psycopg.Connection, lake: Lake, tenant_id: int, match_keys: Sequence[str]) -> list[str]:
    """Every key of the persons that have one of these, with the numbers that make them one; empty for who is alone.

    Without a rule everybody is alone, and the generation is not read.
    """
    if not merge_rule(conn, tenant_id).is_on:
        return []
    files = [one.file for one in manifest.listed(conn, tenant_id=tenant_id, dataset="contacts")]
    several = lake.scan([file for file in files if lake.path(file).exists()], CONTACTS_SCHEMA).filter(
        pl.col("aliases").list.len() > 1
    )
    theirs = several.filter(pl.col("aliases").list.set_intersection(list(match_keys)).list.len() > 0)
    keys = theirs.select(pl.col("aliases").explode()).collect(engine="streaming")["aliases"]
    return sorted(set(keys.drop_nulls().to_list()))


def counting(conn: psycopg.Connection, lake: Lake, tenant_id: int, match_keys: Sequence[str]) -> list[str]:
    """The keys by which these persons are not mailed once one of them is suppressed; those asked by come first."""
    return suppressions.of_mailboxes(conn, tenant_id, [*match_keys, *of(conn, lake, tenant_id, match_keys)])


def of_mailbox(
    conn: psycopg.Connection, lake: Lake, tenant_id: int, match_keys: Sequence[str]
) -> tuple[list[str], list[str]]:
    """As `of`, told apart: who is the same by their address, published so or not, a contact (still) or not; and who is
    only by a number that they share.

    A contact that is a number alone is the same as the one mailbox that has it, and nobody's where several have it.
    """
    rule = merge_rule(conn, tenant_id)
    own = set(mailboxes(match_keys, rule))
    # a number that nobody is known by is no contact beside those who have it
    keys = [
        key for key in of(conn, lake, tenant_id, match_keys) if "@" in key or erasure.ids_of(conn, tenant_id, [key])
    ]
    mails = [box for box in own if channel_of(box) == "email"] if rule.strips else []
    theirs = (
        {*_of_mailboxes(conn, tenant_id, mails), *_spellings(conn, lake, tenant_id, mails, rule)} if mails else set()
    )
    keys = sorted({*keys, *theirs})
    box = dict(zip(keys, mailboxes(keys, rule), strict=True))
    alone = rule.phone and all(box[key] in own for key in keys if "@" in key)
    same = [key for key in keys if key in theirs or box[key] in own or (alone and "@" not in key)]
    known = set(same)
    return same, [key for key in keys if key not in known]


def person(conn: psycopg.Connection, tenant_id: int, match_keys: Sequence[str], same: Sequence[str]) -> Person:
    """Who has these keys. In: same, as of_mailbox gives it; of a number in it, which others may share, the contact
    counts and not the number."""
    mails = [key for key in same if channel_of(key) == "email"]
    return erasure.person(conn, tenant_id, [*match_keys, *mails], erasure.ids_of(conn, tenant_id, same))


def _of_mailboxes(conn: psycopg.Connection, tenant_id: int, mails: Sequence[str]) -> Iterator[str]:
    """Every key that the tenant has of these mailboxes: of contacts, messages, consents and suppressions."""
    # whatever a rule takes out of an address, it is neither its first letter nor its domain
    likely = [f"{erasure.literally(box[0])}%@{erasure.literally(box.rpartition('@')[2])}" for box in mails]
    which = {"tenant_id": tenant_id, "mailboxes": mails, "likely": likely}
    return (key for (key,) in conn.execute(erasure.SQL["of_mailboxes"], which))


def _spellings(
    conn: psycopg.Connection, lake: Lake, tenant_id: int, mails: Sequence[str], rule: MergeSpec
) -> Iterator[str]:
    """Those of rows that became no contact."""
    for dataset in ("raw", "rejected"):
        for file in manifest.listed(conn, tenant_id=tenant_id, dataset=dataset):
            if lake.path(file.file).exists():
                yield from spellings(pl.scan_parquet(lake.path(file.file), glob=False), mails, rule)
