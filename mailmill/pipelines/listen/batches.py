"""Batches: records collected, decoded, grouped and archived; ready for their transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import polars as pl

from mailmill.pipelines.listen.decode import EVENT_SCHEMA, decode, poisoned
from mailmill.pipelines.listen.effects import ArchivedFile, Effects, Orphans
from mailmill.pipelines.listen.fold import group
from mailmill.pipelines.listen.ports import EventReader, Records

# writes one file per tenant of these events (ARCHIVE_SCHEMA), which nobody sees until they are listed
Archive = Callable[[pl.DataFrame], Sequence[ArchivedFile]]
ARCHIVE_SCHEMA = pl.Schema({name: kind for name, kind in EVENT_SCHEMA.items() if name != "row"})


def collect(reader: EventReader, limit: int, linger_s: float, wait_s: float, clock: Callable[[], float]) -> Records:
    """Up to about `limit` records: what is there, and what follows within `linger_s` of it.

    Out: maybe no records, after `wait_s`.
    """
    first = reader.poll(limit, wait_s)
    if not first or len(first) >= limit:
        return first
    pieces, deadline = [first], clock() + linger_s
    while (room := limit - sum(map(len, pieces))) > 0 and (left := deadline - clock()) > 0:
        pieces.append(reader.poll(room, left))
    return Records(
        parts=[part for piece in pieces for part in piece.parts],
        offs=[off for piece in pieces for off in piece.offs],
        values=[value for piece in pieces for value in piece.values],
        next=pieces[-1].next,
    )


def prepare(records: Records, start: Mapping[int, int], archive: Archive) -> Effects:
    """What this batch is about to change; its archive is written.

    In:     start: where the batch before ended. Not the first offset seen: Kafka's offsets have gaps.
    Raises: StoreUnavailable when the archive cannot be written.
    """
    events, poison = decode(records)
    messages, repeating = group(events)
    return Effects(
        start={part: start[part] for part in records.next},
        next=records.next,
        records=records,
        events=events,
        messages=messages,
        repeating=repeating,
        poison=poison,
        files=archive(events.drop("row")) if events.height else (),
    )


def without(effects: Effects, orphans: Orphans, archive: Archive) -> Effects:
    """The same batch with the orphans' events as poison, archived again: what is not counted must not be listed."""
    marked = effects.events.join(
        orphans.messages, on=["message", "tenant", "campaign"], how="left", maintain_order="left"
    )
    lost = marked.filter(pl.col("orphan").is_not_null()).select("row", "orphan").rows()
    events = marked.filter(pl.col("orphan").is_null()).drop("orphan")
    messages, repeating = group(events)
    return Effects(
        start=effects.start,
        next=effects.next,
        records=effects.records,
        events=events,
        messages=messages,
        repeating=repeating,
        poison=[*effects.poison, *(poisoned(effects.records, row, reason) for row, reason in lost)],
        files=archive(events.drop("row")) if events.height else (),
    )
