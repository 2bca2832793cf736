"""What a batch of events is about to change, as values. One port call applies them in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from mailmill.pipelines.listen.decode import Poison
from mailmill.pipelines.listen.ports import Records


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchivedFile:
    """A Parquet file of one tenant's events, written and not yet visible."""

    tenant: int
    file: str
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """One batch, ready for its transaction.

    `start` and `next` are the offsets of the partitions it moves: it may be applied only where the consumer still
    stands at `start`. `messages` has fold.MESSAGES_SCHEMA, `repeating` fold.REPEATING_SCHEMA.
    """

    start: Mapping[int, int]
    next: Mapping[int, int]
    records: Records
    events: pl.DataFrame
    messages: pl.DataFrame
    repeating: pl.DataFrame
    poison: Sequence[Poison]
    files: Sequence[ArchivedFile]


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """The batch is committed."""

    suppressed: int


@dataclass(frozen=True, slots=True)
class Fenced:
    """Another owner has moved on; nothing of this batch was kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Orphans:
    """Events name messages that are not in the ledger as they say; nothing of this batch was kept.

    `messages`: message, tenant, campaign as the events name them, and the reason.
    """

    messages: pl.DataFrame


@dataclass(frozen=True, slots=True, kw_only=True)
class Deltas:
    """What the changed ledger rows add to everything that counts. Keys sorted, so that two folds never deadlock."""

    counters: pl.DataFrame  # tenant, campaign, kind, hour, uniq, total
    links: pl.DataFrame  # tenant, campaign, link, uniq, total
    domains: pl.DataFrame  # tenant, domain, kind, uniq, total
    suppressions: pl.DataFrame  # tenant, address_key, reason, event_id
