"""What the verb about a campaign's recipients has to do, apart from how it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from mailmill.cli import targeting
from mailmill.composition import Installation
from mailmill.io.postgres import campaigns, recipients
from mailmill.io.postgres.audiences import PostgresContacts
from mailmill.pipelines.ingest import addresses
from mailmill.pipelines.target import audiences, planning
from mailmill.pipelines.target.ports import Draft
from mailmill.pipelines.target.rereading import reread


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """What became of the addresses; each of them is in one of the numbers."""

    campaign: str
    changed: int
    duplicates: int  # were so already, or named twice
    refused: dict[str, int]  # why not: no_address, unknown, invalid, suppressed


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """Whom a campaign would be sent to now: segment and added are recipients and excluded."""

    campaign: str
    segment: int
    added: int
    exclusions: dict[str, int]
    recipients: int


def change(
    mill: Installation, name: str, action: Literal["add", "remove"], typed: Sequence[str], file: Path | None
) -> Changed:
    """Add or take out whom these addresses name, in one transaction; what is no address keeps nobody else out.

    Raises: Misconfigured when there is no such campaign, or it has begun.
    """
    # an empty line of a file is nobody
    given = [*typed, *(line for line in (targeting.lines(file) if file else ()) if line)]
    examined = addresses.examine(pl.Series(given, dtype=pl.String))
    keys = examined["address_key"].drop_nulls()
    with mill.database.transaction() as conn:
        draft = campaigns.draft(conn, campaigns.find(conn, name))
    before = _select(mill, draft).judged.filter(pl.col("excluded").ne_missing(audiences.REMOVED))["address_key"]
    with mill.database.transaction() as conn:
        found = recipients.change(conn, campaigns.find(conn, name), keys.unique().to_list(), added=action == "add")
    new, same = found.pop("new", []), found.pop("same", [])
    repeated = len(keys) - keys.n_unique()
    if action == "add":  # somebody of the segment stays, whatever becomes of the segment, but is no new recipient
        there = set(before).intersection(new)
        new, same = [key for key in new if key not in there], [*same, *there]
    refused = {"no_address": len(given) - len(keys), **{reason: len(theirs) for reason, theirs in found.items()}}
    return Changed(
        campaign=name,
        changed=len(new),
        duplicates=len(same) + repeated,
        refused={reason: n for reason, n in refused.items() if n},
    )


def count(mill: Installation, name: str) -> Counted:
    """Who would be mailed if the campaign began now. Raises: Misconfigured."""
    with mill.database.transaction() as conn:
        draft = campaigns.draft(conn, campaigns.find(conn, name))
    selected = _select(mill, draft)
    return Counted(
        campaign=name,
        segment=selected.judged.height - selected.besides,
        added=selected.besides + selected.unpublished,
        exclusions=selected.exclusions,
        recipients=selected.judged["excluded"].null_count(),
    )


def _select(mill: Installation, draft: Draft) -> planning.Selected:
    contacts = PostgresContacts(database=mill.database, lake=mill.lake)
    return reread(lambda: planning.select(draft, contacts=contacts))
