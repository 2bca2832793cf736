"""What crosses between the send loop and the ledger: what to claim, what was claimed, what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from mailmill.pipelines.send.answers import Answer, State

_NO_ANSWER = "", 0, "", 0
FIELD, LINE = b"\x1f", b"\x1e"  # between the columns and the rows of what crosses to and from the ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to claim. Caps of None are no limits."""

    token: int
    worker: str
    campaign_id: int
    tenant_id: int
    transport_id: int
    limit: int
    lease_s: float
    give_up_after_s: int
    per_minute: int | None = None
    per_day: int | None = None


class Window(NamedTuple):
    """The minute or day of a limit, by the database's clock, in which messages are counted."""

    period: str
    starts_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """Rows under a lease: id, contact, attempt, tried, variant, provider, address, value …, FIELD between, LINE between
    rows.

    `settled` rows were suppressed or expired instead. `budget_s`: how long what was `reserved` of limits holds;
    `retry_s`: the limit has nothing left until then.
    """

    rows: bytes
    leased: int
    settled: int
    budget_s: float | None = None
    retry_s: float | None = None
    reserved: Sequence[Window] = ()


class Outcome(NamedTuple):
    """What became of one message in this attempt; a stage of '' means there was no attempt."""

    id: int
    state: State
    reason: str
    retry_s: int = 0
    answer: Answer | None = None
    at_ms: int = 0
    connection: str = ""

    def line(self, reply: str = "") -> bytes:
        """As the journal and the ledger take it. In: reply masked, without control characters."""
        stage, code, _, latency_ms = self.answer or _NO_ANSWER
        enhanced = self.answer.enhanced if self.answer else None
        return (
            f"{self.id}\x1f{self.state}\x1f{self.reason}\x1f{self.retry_s}\x1f{stage}\x1f{code}\x1f{enhanced or ''}"
            f"\x1f{latency_ms}\x1f{self.at_ms}\x1f{self.connection}\x1f{reply}"
        ).encode("utf-8", "replace")
