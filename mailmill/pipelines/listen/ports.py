"""What listening needs from outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """Some records of the event log in columns: `values[i]` lies at `offs[i]` of partition `parts[i]`.

    `next` is for each partition of the reader the offset to go on at; it also passes over offsets that hold no record
    (Kafka's transaction markers), so it may move although there is no record.
    """

    parts: Sequence[int]
    offs: Sequence[int]
    values: Sequence[bytes | None]  # None: Kafka's tombstone
    next: Mapping[int, int]

    def __len__(self) -> int:
        return len(self.values)


class EventLog(Protocol):
    """Appends events so that they survive whatever happens next. May be used by several threads."""

    def append(self, events: Sequence[tuple[int, bytes]]) -> None:
        """Append (key, value) pairs; events of one key keep their order. Durable when this returns.

        In:     key is the message's id, value the event as JSON (events.py).
        Raises: StoreUnavailable when it cannot promise that; the caller may try again (ids make repeats harmless).
                InvalidEvent when a value is larger than MAX_EVENT_BYTES; then nothing was appended.
        """
        ...


class EventReader(Protocol):
    """Reads one consumer's share of the event log, from the offsets it is given. One thread uses it."""

    def poll(self, limit: int, timeout_s: float) -> Records:
        """Up to about `limit` further records, in order within each partition; empty after `timeout_s` without any.

        Raises: StoreUnavailable.
        """
        ...

    def ends(self) -> dict[int, int]:
        """Partition -> the offset the next record to be appended will get, now.

        Raises: StoreUnavailable.
        """
        ...

    def close(self) -> None: ...
