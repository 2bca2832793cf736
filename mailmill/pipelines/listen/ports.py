"""What listening needs from outside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record of the event log where it lies."""

    part: int
    off: int
    value: bytes


class EventLog(Protocol):
    """Appends events so that they survive whatever happens next."""

    def append(self, events: Sequence[tuple[int, bytes]]) -> None:
        """Append (key, value) pairs; events of one key keep their order. Durable when this returns.

        In:     key is the message's id, value the event as JSON (events.py).
        Raises: StoreUnavailable when it cannot promise that; the caller may try again (ids make repeats harmless).
        """
        ...


class EventReader(Protocol):
    """Reads one consumer's share of the event log, from the offsets it is given."""

    def poll(self, limit: int, timeout_s: float) -> Sequence[Record]:
        """Up to `limit` further records, in order within each partition; empty after `timeout_s` without any.

        Raises: StoreUnavailable.
        """
        ...

    def ends(self) -> dict[int, int]:
        """Partition -> the offset the next record to be appended will get, now."""
        ...

    def close(self) -> None: ...
